"""The broker in: a payment has changed."""

from django.utils import timezone

from apps.messaging.contracts.payments import PaymentChanged
from apps.messaging.public import Meta, handles
from apps.orders import merchant_money


@handles(PaymentChanged, group="orders")
def on_payment_changed(message: PaymentChanged, _meta: Meta) -> None:
    """Post the money of a merchant's own payment. An order's journey posts its own."""
    if message.captured_amount:
        merchant_money.post_taken(message.payment_id, now=timezone.now())

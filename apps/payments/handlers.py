"""Kafka in: the processor answered. (The processor's own handlers are imported here, so that consumers find them.)"""

from django.utils import timezone

from apps.messaging.contracts.payments import CardResult
from apps.messaging.public import Meta, handles
from apps.payments import results
from apps.payments.processor import handlers as processor_handlers
from apps.saga import public as saga

__all__ = ["on_card_result", "processor_handlers"]


@handles(CardResult, group="payments")
def on_card_result(message: CardResult, _meta: Meta) -> None:
    """Record the answer and wake the saga step that waits for it, in one commit."""
    now = timezone.now()
    reply_to = results.operation_of(message).reply_to
    if reply_to:
        # Locks are taken in the order of a step that asks: first the run, then the payment.
        saga.resume(step_key=reply_to, answer=results.answer_of(message), now=now)
    results.record_result(message, now=now)

"""Requests in. Imported by apps/payments/handlers.py, so that consumers find it."""

from django.utils import timezone

from apps.messaging.contracts.payments import AuthoriseRequested, CaptureRequested, RefundRequested, VoidRequested
from apps.messaging.public import Meta, handles
from apps.payments.processor import operations

GROUP = "payments.processor"


@handles(AuthoriseRequested, group=GROUP)
def on_authorise(message: AuthoriseRequested, meta: Meta) -> None:
    """Somebody wants to pay by card."""
    operations.authorise(message, reply_to=meta.reply_to, now=timezone.now())


@handles(CaptureRequested, group=GROUP)
def on_capture(message: CaptureRequested, meta: Meta) -> None:
    """An authorised amount is to be taken."""
    operations.capture(message, reply_to=meta.reply_to, now=timezone.now())


@handles(VoidRequested, group=GROUP)
def on_void(message: VoidRequested, meta: Meta) -> None:
    """An authorisation is to be given free, perhaps before it was asked for."""
    operations.void(message, reply_to=meta.reply_to, now=timezone.now())


@handles(RefundRequested, group=GROUP)
def on_refund(message: RefundRequested, meta: Meta) -> None:
    """Captured money is to be given back."""
    operations.refund(message, reply_to=meta.reply_to, now=timezone.now())

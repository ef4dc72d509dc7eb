"""Our own topics in: what happened becomes deliveries, in the consumer's commit."""

from collections.abc import Sequence
from typing import Any

from django.utils import timezone

from apps.messaging.contracts.fiscal import DocumentChanged
from apps.messaging.contracts.orders import OrderChanged, ReturnChanged
from apps.messaging.contracts.payments import PaymentChanged
from apps.messaging.public import Received, handles_batch
from apps.webhooks import events
from apps.webhooks.catalogue import SOURCES

GROUP = "webhooks"
ROWS_MAX = 100  # of one commit: an endpoint's rows are only read, so nobody waits for it


@handles_batch(PaymentChanged, group=GROUP, rows_max=ROWS_MAX)
def on_payments(batch: Sequence[Received[PaymentChanged]]) -> None:
    """Payments are in new states."""
    _record(batch)


@handles_batch(OrderChanged, group=GROUP, rows_max=ROWS_MAX)
def on_orders(batch: Sequence[Received[OrderChanged]]) -> None:
    """Orders have come to their outcome."""
    _record(batch)


@handles_batch(ReturnChanged, group=GROUP, rows_max=ROWS_MAX)
def on_returns(batch: Sequence[Received[ReturnChanged]]) -> None:
    """Returns were accepted, closed or refused."""
    _record(batch)


@handles_batch(DocumentChanged, group=GROUP, rows_max=ROWS_MAX)
def on_documents(batch: Sequence[Received[DocumentChanged]]) -> None:
    """The tax authority has decided on documents."""
    _record(batch)


def _record(batch: Sequence[Received[Any]]) -> None:
    happened = [(one.meta.message_id, SOURCES[type(one.message)](one.message)) for one in batch]
    events.record(happened, now=timezone.now())

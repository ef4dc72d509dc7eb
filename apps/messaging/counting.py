"""What the relay and the consumers of this process do, counted. The names are in apps/observability/metrics.py."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from django.db import transaction as django_transaction

from apps.messaging.ownership import Row
from apps.messaging.transports.base import SendOutcome
from apps.observability import metrics

HANDLED, COPY, PUT_ASIDE, PASSED_OVER, BURIED = "handled", "copy", "put_aside", "passed_over", "buried"
BROKER_DOWN, ERROR = "broker_down", "error"


def relayed(rows: Sequence[Row], outcomes: Sequence[SendOutcome], *, took_s: float) -> None:
    """The broker's last word about a batch."""
    metrics.RELAY_BATCH_SECONDS.observe(took_s)
    said = Counter((row.topic, outcome.fate.value) for row, outcome in zip(rows, outcomes, strict=True))
    for (topic, fate), count in said.items():
        metrics.RELAY_MESSAGES.labels(topic, fate.replace(" ", "_")).inc(count)


def relay_failed(cause: str) -> None:
    """A round ended early: BROKER_DOWN, or ERROR, which is a bug or the database."""
    metrics.RELAY_FAILURES.labels(cause).inc()


def consumed(outcome: str, *, group: str, topic: str, count: int = 1) -> None:
    """What became of messages that a group has read."""
    if count:
        metrics.CONSUMER_MESSAGES.labels(group, topic, outcome).inc(count)


def handled(fresh: int, *, of: int, group: str, topic: str) -> None:
    """So many took effect, and the others were copies that had done so before."""
    consumed(HANDLED, group=group, topic=topic, count=fresh)
    consumed(COPY, group=group, topic=topic, count=of - fresh)


def redelivered(fresh: int, *, group: str, topic: str) -> None:
    """The same of one message that had been put aside, with the commit that is under way."""
    django_transaction.on_commit(lambda: handled(fresh, of=1, group=group, topic=topic), robust=True)


def failed(*, group: str, topic: str) -> None:
    """A handler failed on a message, or nobody could read it: one attempt."""
    metrics.CONSUMER_FAILURES.labels(group, topic).inc()


def buried(*, group: str, topic: str) -> None:
    """A message becomes a dead letter with the commit that is under way."""
    django_transaction.on_commit(lambda: consumed(BURIED, group=group, topic=topic), robust=True)


@contextmanager
def commit(group: str) -> Iterator[None]:
    """Time a unit of messages that is handled in one commit, whether it succeeds or not."""
    with metrics.CONSUMER_COMMIT_SECONDS.labels(group).time():
        yield

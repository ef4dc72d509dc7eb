"""Numbered messages: what is lost, doubled or out of order shows in the rows that their handlers write."""

from dataclasses import dataclass
from typing import ClassVar

from apps.messaging.contracts.base import Message

TOPIC = "tests.failures.numbers.event"
ERROR_TOPIC = "tests.failures.numbers.error"
MISSING_TOPIC = "tests.failures.missing.event"
# The groups that handle them: each in a commit of its own, several in one, a batch in one call.
SINGLE, SHARED, BATCH = GROUPS = ("failures.single", "failures.shared", "failures.batch")
# ``previous`` is what the handler saw committed of its key: a handler that overtakes another, or runs beside it, shows.
TABLE = """
CREATE TABLE IF NOT EXISTS deployed_effect (
    id bigserial PRIMARY KEY, "group" text NOT NULL, key text NOT NULL, n int NOT NULL, previous int NOT NULL
);
CREATE INDEX IF NOT EXISTS deployed_effect_key ON deployed_effect ("group", key, n)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered(Message):
    """Number n of a key, counted from 1. A negative one cannot be handled."""

    topic: ClassVar[str] = TOPIC
    schema: ClassVar[str] = "tests.failures_numbered.v1"

    key: str
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Misplaced(Message):
    """A message whose topic somebody has deleted."""

    topic: ClassVar[str] = MISSING_TOPIC
    schema: ClassVar[str] = "tests.failures_misplaced.v1"

    key: str
    n: int

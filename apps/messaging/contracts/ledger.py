"""The ledger's queue: entries to post, and the answer to each.

Requests and answers are one to one: whoever sends a request reads its tracekey on the answers' topic. A record that is no
request at all has no tracekey to answer under; it goes to ``ledger.accounts.posting.error``.
"""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import ClassVar
from uuid import UUID

from apps.common.money import CURRENCY
from apps.messaging.contracts.base import Message

POSTING_IN = "ledger.accounts.posting.in"
POSTING_EVENT = "ledger.accounts.posting.event"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedLeg:
    """One line to post. ``debitcredit`` is D or C; ``details`` is a JSON object as text, of the origin's own."""

    branch: str
    account: str
    amount: Decimal
    debitcredit: str
    eventcode: int
    currency: str = CURRENCY
    description: str = ""
    details: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PostingRequested(Message):
    """Post one entry, all or nothing: a single line, or legs whose debits equal their credits.

    Repeated with the same tracekey and body it gets the same answer and no second effect. ``dateref`` None is the business
    day on which it is posted. Give all requests of one account the same key, and they are posted in order.
    """

    topic: ClassVar[str] = POSTING_IN
    schema: ClassVar[str] = "ledger.posting_requested.v1"

    tracekey: UUID
    legs: tuple[RequestedLeg, ...]
    dateref: date | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PostedLeg:
    """A line that was written, with its account's balances right after it; ``day`` is that of dateref's end.

    The balances of a deferred account's line are null: it is rolled up a moment later.
    """

    id: UUID
    branch: str
    account: str
    currency: str
    amount: Decimal
    debitcredit: str
    eventcode: int
    dateref: date
    posted: Decimal | None
    pending: Decimal | None
    available: Decimal | None
    day: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PostingDone(Message):
    """The answer to one PostingRequested, under the request's key. ``result`` is "POSTED" or "REFUSED".

    POSTED carries the lines. REFUSED changed nothing; it carries the code (R1xx), the reason, the field at fault where
    there is one, and whether the very same request may succeed later. ``replayed``: an earlier request had posted it.
    """

    topic: ClassVar[str] = POSTING_EVENT
    schema: ClassVar[str] = "ledger.posting_done.v1"

    tracekey: UUID
    result: str
    replayed: bool = False
    lines: tuple[PostedLeg, ...] = ()
    code: str = ""
    reason: str = ""
    field: str = ""
    retryable: bool = False

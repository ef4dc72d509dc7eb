"""The queue path: entries asked for by message, posted in batches, each answered by a message in the same commit.

Note [Refused or poisoned]
    Every request ends in one of two ways, and never in both:
    - It names its tracekey, so it is answered: POSTED, or REFUSED with a code. That includes what is malformed by the
      engine's rules (R110, R111): somebody waits for that tracekey, and an answer tells more than a dead letter. A refusal
      that may succeed later (R103) is not retried here: its sender decides, under the same tracekey.
    - It cannot be answered: it does not follow the contract, or our code breaks on it. Then it goes to the topic's
      ``.error`` with the reason, by the consumer, which calls again with one request at a time to find it.
    Deadlocks, lock timeouts and a database that is away are nobody's fault: they are raised, and the consumer tries again.
    So is a suspension (R130): the whole batch comes again, or, when one branch or account refuses, that part of it alone.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from apps.common.transactions import transaction_required
from apps.ledger import keys
from apps.ledger.postings import post_batch
from apps.ledger.rules import (
    BATCH_LINES_MAX,
    AccountRef,
    Entry,
    EntryResult,
    Leg,
    MalformedEntry,
    PostedLine,
    check_leg_count,
    details_text,
    read_details,
)
from apps.ledger.suspensions import LedgerSuspended
from apps.messaging.contracts.ledger import PostedLeg, PostingDone, PostingRequested, RequestedLeg
from apps.messaging.public import Received, publish_many

REFUSALS_KEPT = timedelta(days=30)  # who has not asked by then has read the answer on the topic
FORGET_ROWS_MAX = 10_000  # a commit of about 0.1 s


def key_of(entry: Entry) -> str:
    """The key of a request: its first account, so that one account's requests are posted and answered in order."""
    return "/".join(entry.legs[0].account)


@transaction_required
def request_postings(entries: Sequence[Entry]) -> None:
    """Ask for entries to be posted, by one message each; the answers come under their tracekeys. Safe to repeat.

    Raises MalformedEntry for what a message does not say: groups, and transfers up to what is there.
    """
    if any(entry.group or entry.up_to for entry in entries):
        raise MalformedEntry("group and up_to are for postings that are answered at once.", field="group")
    publish_many([(_request(entry), key_of(entry)) for entry in entries])


@transaction_required
def answer_requests(requests: Sequence[Received[PostingRequested]], *, now: datetime) -> list[EntryResult]:
    """Post what is asked for and publish one answer per request, in order; what became of each. Safe to repeat.

    See Note [Refused or poisoned] for what is answered and what is raised.
    """
    results = _post([request.message for request in requests], now=now)
    for result in results:
        if isinstance(result.refusal, LedgerSuspended):
            raise result.refusal
    if refused := {result.tracekey: result.refusal for result in results if result.refusal}:
        keys.keep_refusals(refused, now=now)
    answers = [(_answer(result), request.key) for result, request in zip(results, requests, strict=True)]
    publish_many(answers, answering=[request.meta for request in requests])
    return results


@transaction_required
def forget_refusals(*, now: datetime) -> int:
    """Delete refusals older than REFUSALS_KEPT, at most FORGET_ROWS_MAX. How many? Safe to repeat."""
    return keys.delete_refusals(before=now - REFUSALS_KEPT, rows_max=FORGET_ROWS_MAX)


def _post(messages: Sequence[PostingRequested], *, now: datetime) -> list[EntryResult]:
    entries: list[Entry] = []
    malformed: dict[int, EntryResult] = {}
    for index, message in enumerate(messages):
        try:
            entries.append(_entry(message))
        except MalformedEntry as refusal:
            malformed[index] = EntryResult(message.tracekey, refusal=refusal)
    posted = iter([result for batch in _batches(entries) for result in post_batch(batch, now=now)])
    return [malformed[index] if index in malformed else next(posted) for index in range(len(messages))]


def _batches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """One batch, unless entries of many legs make it too long.

    Then the second one locks accounts while the first one's are held, which may deadlock with another batch. One of the
    two is rolled back and comes again.
    """
    batch: list[Entry] = []
    line_count = 0
    for entry in entries:
        if line_count + len(entry.legs) > BATCH_LINES_MAX:
            yield batch
            batch, line_count = [], 0
        batch.append(entry)
        line_count += len(entry.legs)
    if batch:
        yield batch


def _request(entry: Entry) -> PostingRequested:
    return PostingRequested(tracekey=entry.tracekey, dateref=entry.dateref, legs=tuple(map(_requested_leg, entry.legs)))


def _requested_leg(leg: Leg) -> RequestedLeg:
    branch, account, currency = leg.account
    return RequestedLeg(
        branch=branch,
        account=account,
        currency=currency,
        amount=leg.amount,
        debitcredit=leg.debitcredit,
        eventcode=leg.eventcode,
        description=leg.description,
        details=details_text(leg.details),
    )


def _entry(message: PostingRequested) -> Entry:
    check_leg_count(len(message.legs))
    return Entry(tracekey=message.tracekey, dateref=message.dateref, legs=tuple(map(_leg, message.legs)))


def _leg(leg: RequestedLeg) -> Leg:
    return Leg(
        account=AccountRef(leg.branch, leg.account, leg.currency),
        amount=leg.amount,
        debitcredit=leg.debitcredit,  # type: ignore[arg-type]  # the engine checks it
        eventcode=leg.eventcode,
        description=leg.description,
        details=None if leg.details is None else read_details(leg.details),
    )


def _answer(result: EntryResult) -> PostingDone:
    refusal, posting = result.refusal, result.posting
    if refusal is not None or posting is None:
        refusal = refusal or MalformedEntry()
        return PostingDone(
            tracekey=result.tracekey,
            result="REFUSED",
            code=refusal.code,
            reason=refusal.detail,
            field=refusal.field or "",
            retryable=refusal.retryable,
        )
    lines = tuple(map(_posted_leg, posting.lines))
    return PostingDone(tracekey=result.tracekey, result="POSTED", replayed=posting.replayed, lines=lines)


def _posted_leg(line: PostedLine) -> PostedLeg:
    branch, account, currency = line.account
    balances = line.balances
    return PostedLeg(
        id=line.id,
        branch=branch,
        account=account,
        currency=currency,
        amount=line.amount,
        debitcredit=line.debitcredit,
        eventcode=line.eventcode,
        dateref=line.dateref,
        posted=balances.posted if balances else None,
        pending=balances.pending if balances else None,
        available=balances.available if balances else None,
        day=balances.day if balances else None,
    )

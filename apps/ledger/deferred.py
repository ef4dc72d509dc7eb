"""Deferred accounts: postings leave their lines in a work table, and a roll-up moves them into the ledger.

Note [Deferred]
    Everything posts to the account of fees or of clearing, and whoever posts would wait for whoever posted before. Such an
    account may be deferred: it has no floor and no ceiling, so its lines need no answer from it, and they are written
    without a lock into ``ledger_deferred``. The roll-up takes lines out of that table (an explicit list of work, because a
    watermark would pass over what commits late), locks the accounts, and writes lines, days and sums as the engine does.
    The account's balance is its row plus the lines that still wait, read in one statement. Its statement has the lines that
    were rolled up. The answer to a posting has no balances for such a line, nor has the answer to a repeat.
"""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

from apps.common.clock import business_date
from apps.common.transactions import transaction_required
from apps.ledger import rows, suspensions, writes
from apps.ledger.commands import NewLine
from apps.ledger.rules import AccountRef, PostedLine

# Lines rolled up by one commit: their accounts stay locked for it, which disturbs nobody but another roll-up.
ROLL_UP_ROWS_MAX = 10_000

# What is suspended stays, whatever its mode: it is rolled up by a later call.
_MAY = rows.NOT_SUSPENDED.format("w")
_TAKE = """
DELETE FROM ledger_deferred WHERE id IN (
    SELECT id FROM ledger_deferred w WHERE {which} ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
)
RETURNING id, branch, account, currency, debitcredit, amount, eventcode, dateref, tracekey, description, details::text,
    balanced
"""


@transaction_required
def roll_up(*, now: datetime, limit: int = ROLL_UP_ROWS_MAX) -> int:
    """Move waiting lines of deferred accounts into the ledger, oldest first, at most ``limit``. How many? Safe to repeat.

    Safe side by side, too: the second one takes what the first one has not taken.
    """
    taken = rows.fetch(_TAKE.format(which=_MAY), [now, min(limit, ROLL_UP_ROWS_MAX)])
    _write(sorted(taken), now=now)
    return len(taken)


@transaction_required
def roll_up_branch(branch: str, *, until: date, now: datetime) -> int:
    """Move all waiting lines of a branch up to a day; nobody may be adding any (``rows.stop_deferred``). How many?

    Raises LedgerSuspended.
    """
    taken = rows.fetch(
        _TAKE.format(which="branch = %s AND dateref <= %s").replace("LIMIT %s FOR UPDATE SKIP LOCKED", "FOR UPDATE"),
        [branch, until],
    )
    _write(sorted(taken), now=now)
    return len(taken)


def _write(taken: Sequence[tuple[Any, ...]], *, now: datetime) -> None:
    since: dict[AccountRef, date] = {}
    for _, branch, account, currency, *_rest, dateref, _key, _text, _details, _balanced in taken:
        ref = AccountRef(branch, account, currency)
        since[ref] = min(dateref, since.get(ref, dateref))
    if not since:
        return
    books, found = rows.lock_deferred(since)
    # Suspended since they were taken: they are put back, and the next call leaves them.
    for refusal in suspensions.heed(since, found, now=now, wait_s=0).values():
        raise refusal
    stored = rows.read_days(since)
    today = business_date(now).toordinal()
    for ref, book in books.items():
        book.load_days(stored[ref], today=today, since=since[ref].toordinal())
    lines = []
    for count, (line_id, branch, account, currency, side, amount, eventcode, dateref, key, *rest) in enumerate(taken):
        book = books[AccountRef(branch, account, currency)]
        slot = book.last - dateref.toordinal()
        balances = book.apply(side, amount, slot)
        book.confirm(slot, line=count, tracekey=key)
        posted = PostedLine(line_id, book.ref, side, amount, eventcode, dateref, balances)
        description, details, balanced = rest
        lines.append(NewLine(posted, key, description, details, balanced, book.nets[slot], deferred=True))
    writes.write_lines([lines], line_count=len(lines), now=now)
    sums = writes.Sums()
    sums.take(books.values())
    sums.write(now=now)

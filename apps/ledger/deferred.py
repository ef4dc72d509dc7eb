"""Deferred accounts: postings leave their lines in a work table, and a roll-up moves them into the ledger.

Note [Deferred]
    Everything posts to the account of fees or of clearing, and whoever posts would wait for whoever posted before. Such an
    account may be deferred: it has no floor and no ceiling, so its lines need no answer from it, and they are written
    without a lock into ``ledger_deferred``. The roll-up locks the accounts, takes their lines out of that table (an
    explicit list of work, because a watermark would pass over what commits late), and writes lines, days and sums as the
    engine does.
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
    balanced, createdat
"""
_OLDEST = f"""
SELECT DISTINCT branch, account, currency
FROM (SELECT branch, account, currency FROM ledger_deferred w WHERE {_MAY} ORDER BY id LIMIT %s) oldest
"""  # noqa: S608 - a constant
_OF_ACCOUNTS = "(branch, account, currency) IN (SELECT * FROM unnest(%s::text[], %s::text[], %s::text[]))"


@transaction_required
def roll_up(*, now: datetime, limit: int = ROLL_UP_ROWS_MAX) -> int:
    """Move waiting lines of deferred accounts into the ledger, oldest first, at most ``limit``. How many? Safe to repeat.

    Safe side by side, too: the second one takes what the first one has not taken.
    """
    limit = min(limit, ROLL_UP_ROWS_MAX)
    refs = [AccountRef(*row) for row in rows.fetch(_OLDEST, [now, limit])]
    if not refs:
        return 0
    # Accounts before lines, as by who closes a day: the other way round, each of the two would wait for the other.
    rows.lock_deferred(refs, now=now)
    taken = rows.fetch(_TAKE.format(which=f"{_OF_ACCOUNTS} AND {_MAY}"), [*rows.columns(refs, 3), now, limit])
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
    for _, branch, account, currency, *_rest, dateref, _key, _text, _details, _balanced, _moment in taken:
        ref = AccountRef(branch, account, currency)
        since[ref] = min(dateref, since.get(ref, dateref))
    if not since:
        return
    books, found = rows.lock_deferred(since, now=now)
    # Suspended since they were taken: they are put back, and the next call leaves them.
    for refusal in suspensions.heed(since, found, now=now, wait_s=0).values():
        raise refusal
    stored = rows.read_days(since)
    # Clocks differ, and who waited for a lock finds lines that were asked for after its ``now``, perhaps on the next day.
    # No line is rolled up before it was asked for, and no day lies behind today.
    now = max(now, *(row[-1] for row in taken))
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
        description, details, balanced, _moment = rest
        lines.append(NewLine(posted, key, description, details, balanced, book.nets[slot], deferred=True))
    writes.write_lines([lines], line_count=len(lines), now=now)
    sums = writes.Sums()
    sums.take(books.values())
    sums.write(now=now)

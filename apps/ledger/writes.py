"""What a folded batch writes: lines, sums of accounts, days. Every row is touched once, behind its account's lock."""

from collections.abc import Collection, Iterator, Sequence
from datetime import date, datetime
from typing import Any

from apps.common.clock import uuid7_run
from apps.ledger.balances import AccountBook
from apps.ledger.fold import NewLine
from apps.ledger.rows import COPY_ROWS_MIN, columns, copy_rows, fetch

_LINE = (
    "id, branch, account, currency, amount, debitcredit, eventcode, description, tracekey, details, dateref, balanced, "
    "balanceafter, pendingafter, dayafter, daynet, deferred, createdat"
)
_INSERT_LINES = f"""
INSERT INTO ledger_transaction ({_LINE})
SELECT k.id, k.branch, k.account, k.currency, k.amount, k.debitcredit, k.eventcode, k.description, k.tracekey,
    k.details::jsonb, k.dateref, k.balanced, k.balanceafter, k.pendingafter, k.dayafter, k.daynet, k.deferred, %s
FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::numeric[], %s::text[], %s::int[], %s::text[],
    %s::uuid[], %s::text[], %s::date[], %s::bool[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[], %s::bool[])
    AS k (id, branch, account, currency, amount, debitcredit, eventcode, description, tracekey, details, dateref, balanced,
          balanceafter, pendingafter, dayafter, daynet, deferred)
"""  # noqa: S608 - a constant
_INSERT_DEFERRED = """
INSERT INTO ledger_deferred (id, branch, account, currency, amount, debitcredit, eventcode, description, tracekey, details,
    dateref, balanced, createdat)
SELECT k.id, k.branch, k.account, k.currency, k.amount, k.debitcredit, k.eventcode, k.description, k.tracekey,
    k.details::jsonb, k.dateref, k.balanced, %s
FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::numeric[], %s::text[], %s::int[], %s::text[],
    %s::uuid[], %s::text[], %s::date[], %s::bool[])
    AS k (id, branch, account, currency, amount, debitcredit, eventcode, description, tracekey, details, dateref, balanced)
"""


def write_lines(lines: Sequence[NewLine], *, now: datetime) -> None:
    """Write lines, in order: their sequence numbers are the order of posting."""
    if len(lines) >= COPY_ROWS_MIN:
        copy_rows(f"COPY ledger_transaction ({_LINE}) FROM STDIN", _line_texts(lines, now))
    elif lines:
        fetch(_INSERT_LINES + " RETURNING 1", [now, *columns(map(_line_row, lines), 17)])


def write_deferred(lines: Sequence[NewLine], *, now: datetime) -> None:
    """Write lines of deferred accounts into the work table."""
    if lines:
        fetch(_INSERT_DEFERRED + " RETURNING 1", [now, *columns([_line_row(line)[:12] for line in lines], 12)])


def _line_row(line: NewLine) -> tuple[Any, ...]:
    line_id, ref, side, amount, eventcode, dateref, balances = line.posted
    posted, pending, day = (balances.posted, balances.pending, balances.day) if balances else (None, None, None)
    own = (line_id, *ref, amount, side, eventcode, line.description, line.tracekey, line.details, dateref, line.balanced)
    return (*own, posted, pending, day, line.day_net, line.deferred)


def _line_texts(lines: Sequence[NewLine], now: datetime) -> Iterator[str]:
    """COPY's text. What can't hold a tab, a line feed or a backslash is written as it is."""
    moment = now.isoformat()
    days: dict[date, str] = {}
    for line in lines:
        line_id, (branch, account, currency), side, amount, eventcode, dateref, balances = line.posted
        day_text = days.get(dateref) or days.setdefault(dateref, dateref.isoformat())
        description = copy_text(line.description) if line.description else ""
        details = "\\N" if line.details is None else copy_text(line.details)
        assert balances is not None  # noqa: S101  # lines of deferred accounts go elsewhere
        posted, pending, _, day = balances
        yield (
            f"{line_id.int:032x}\t{branch}\t{account}\t{currency}\t{amount!s}\t{side}\t{eventcode}\t{description}\t"
            f"{line.tracekey.int:032x}\t{details}\t{day_text}\t{'t' if line.balanced else 'f'}\t"
            f"{posted!s}\t{pending!s}\t{day!s}\t{line.day_net!s}\t{'t' if line.deferred else 'f'}\t{moment}\n"
        )


def copy_text(value: str) -> str:
    """A text as COPY reads it."""
    if "\\" in value:
        value = value.replace("\\", "\\\\")
    if value.isprintable():  # which a tab, a line feed and a carriage return are not
        return value
    return value.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


# Disjoint sets: a day is either stored (updated by its id) or new (inserted).
_WRITE_SUMS = """
WITH account AS (
    UPDATE ledger_account a SET posteddebit = k.posteddebit, postedcredit = k.postedcredit,
        pendingdebit = k.pendingdebit, updatedat = %s
    FROM unnest(%s::uuid[], %s::numeric[], %s::numeric[], %s::numeric[])
        AS k (id, posteddebit, postedcredit, pendingdebit)
    WHERE a.id = k.id
    RETURNING 1
), stored_day AS (
    UPDATE ledger_balance b SET totaldebit = k.totaldebit, totalcredit = k.totalcredit,
        accumulateddebit = k.accumulateddebit, accumulatedcredit = k.accumulatedcredit,
        updatedtracekey = k.tracekey, updatedat = %s
    FROM unnest(%s::uuid[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[], %s::uuid[])
        AS k (id, totaldebit, totalcredit, accumulateddebit, accumulatedcredit, tracekey)
    WHERE b.id = k.id
    RETURNING 1
), new_day AS (
    INSERT INTO ledger_balance (id, branch, account, currency, dateref, totaldebit, totalcredit, accumulateddebit,
        accumulatedcredit, createdtracekey, updatedtracekey, createdat, updatedat)
    SELECT k.*, %s, %s
    FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::date[], %s::numeric[], %s::numeric[], %s::numeric[],
        %s::numeric[], %s::uuid[], %s::uuid[]) AS k
    RETURNING 1
)
SELECT (SELECT count(*) FROM account), (SELECT count(*) FROM stored_day), (SELECT count(*) FROM new_day)
"""


def write_sums(books: Collection[AccountBook], *, now: datetime) -> None:
    """Write accounts and their days as folded. They are locked, so absolute values are right."""
    accounts, stored, new = [], [], []
    for book in books:
        accounts.append((book.id, book.posted_debit, book.posted_credit, book.pending_debit))
        for row_id, dateref, *sums, created_by, tracekey in book.changed_days():
            if row_id:
                stored.append((row_id, *sums, tracekey))
            else:
                new.append((*book.ref, dateref, *sums, created_by, tracekey))
    new_days = [(row_id, *row) for row_id, row in zip(uuid7_run(len(new)), new, strict=True)]
    parameters = [now, *columns(accounts, 4), now, *columns(stored, 6), now, now, *columns(new_days, 11)]
    written = fetch(_WRITE_SUMS, parameters)[0]
    if written != (len(accounts), len(stored), len(new)):
        raise RuntimeError(f"The ledger wrote {written} rows: somebody changed accounts or days without their lock.")

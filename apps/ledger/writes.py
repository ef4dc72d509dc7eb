"""What a folded batch writes: lines, sums of accounts, days. Every row is touched once, behind its account's lock."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from apps.common.clock import uuid7
from apps.ledger.balances import AccountBook
from apps.ledger.commands import NewLine
from apps.ledger.rows import COPY_ROWS_MIN, columns, copy_rows, fetch_hot
from apps.ledger.rules import AccountRef

_LINE = (
    "id, branch, account, currency, amount, debitcredit, eventcode, description, tracekey, details, dateref, balanced, "
    "balanceafter, pendingafter, dayafter, daynet, deferred, createdat"
)
# Here and below: an unnest that is selected gives its values one by one; in FROM it would first write all of them down,
# each column by itself.
_INSERT_LINES = f"""
INSERT INTO ledger_transaction ({_LINE})
SELECT k.*, %s::timestamptz
FROM (
    SELECT unnest(%s::uuid[]), unnest(%s::text[]), unnest(%s::text[]), unnest(%s::text[]), unnest(%s::numeric[]),
        unnest(%s::text[]), unnest(%s::int[]), unnest(%s::text[]), unnest(%s::uuid[]), unnest(%s::text[])::jsonb,
        unnest(%s::date[]), unnest(%s::bool[]), unnest(%s::numeric[]), unnest(%s::numeric[]), unnest(%s::numeric[]),
        unnest(%s::numeric[]), unnest(%s::bool[])
) k
RETURNING 1
"""  # noqa: S608 - a constant
_INSERT_DEFERRED = """
INSERT INTO ledger_deferred (id, branch, account, currency, amount, debitcredit, eventcode, description, tracekey, details,
    dateref, balanced, createdat)
SELECT k.*, %s::timestamptz
FROM (
    SELECT unnest(%s::uuid[]), unnest(%s::text[]), unnest(%s::text[]), unnest(%s::text[]), unnest(%s::numeric[]),
        unnest(%s::text[]), unnest(%s::int[]), unnest(%s::text[]), unnest(%s::uuid[]), unnest(%s::text[])::jsonb,
        unnest(%s::date[]), unnest(%s::bool[])
) k
RETURNING 1
"""


def write_lines(lines: Iterable[Sequence[NewLine]], *, line_count: int, now: datetime) -> None:
    """Write lines as they come, ``line_count`` of them at most. Their sequence numbers are the order of posting."""
    if line_count >= COPY_ROWS_MIN:
        copy_rows(f"COPY ledger_transaction ({_LINE}) FROM STDIN", _line_texts(lines, now))
    elif made := [_line_row(line) for some in lines for line in some]:
        fetch_hot(_INSERT_LINES, [now, *columns(made, 17)])


def write_deferred(lines: Sequence[NewLine], *, now: datetime) -> None:
    """Write lines of deferred accounts into the work table."""
    if lines:
        fetch_hot(_INSERT_DEFERRED, [now, *columns([_line_row(line)[:12] for line in lines], 12)])


def _line_row(line: NewLine) -> tuple[Any, ...]:
    line_id, ref, side, amount, eventcode, dateref, balances = line.posted
    posted, pending, day = (balances.posted, balances.pending, balances.day) if balances else (None, None, None)
    own = (line_id, *ref, amount, side, eventcode, line.description, line.tracekey, line.details, dateref, line.balanced)
    return (*own, posted, pending, day, line.day_net, line.deferred)


def _line_texts(lines: Iterable[Sequence[NewLine]], now: datetime) -> Iterator[str]:
    """COPY's text. What can't hold a tab, a line feed or a backslash is written as it is."""
    end = f"\t{now.isoformat()}\n"
    days: dict[date, str] = {}
    places: dict[AccountRef, str] = {}
    for some in lines:
        texts = []
        for posting, tracekey, description, details, balanced, day_net, deferred in some:
            line_id, ref, side, amount, eventcode, dateref, balances = posting
            place = places.get(ref) or places.setdefault(ref, "\t".join(ref))
            day_text = days.get(dateref) or days.setdefault(dateref, dateref.isoformat())
            description_text = copy_text(description) if description else ""
            details_text = "\\N" if details is None else copy_text(details)
            assert balances is not None  # noqa: S101  # lines of deferred accounts go elsewhere
            posted, pending, _, day = balances
            texts.append(
                f"{line_id.int:032x}\t{place}\t{amount!s}\t{side}\t{eventcode}\t{description_text}\t"
                f"{tracekey.int:032x}\t{details_text}\t{day_text}\t{'t' if balanced else 'f'}\t"
                f"{posted!s}\t{pending!s}\t{day!s}\t{day_net!s}\t{'t' if deferred else 'f'}{end}"
            )
        yield "".join(texts)


def copy_text(value: str) -> str:
    """A text as COPY reads it."""
    if "\\" in value:
        value = value.replace("\\", "\\\\")
    if value.isprintable():  # which a tab, a line feed and a carriage return are not
        return value
    return value.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


# Rows are found by their ids, not where they stand: only who comes to a row by an index tidies its page up, without which
# each version of a row takes new room. Disjoint sets: a day is either stored or new (inserted).
_SUMS = """
WITH account AS (
    UPDATE ledger_account a SET posteddebit = k.posteddebit, postedcredit = k.postedcredit,
        pendingdebit = k.pendingdebit, updatedat = %s
    FROM (
        SELECT unnest(%s::uuid[]) AS id, unnest(%s::numeric[]) AS posteddebit, unnest(%s::numeric[]) AS postedcredit,
            unnest(%s::numeric[]) AS pendingdebit{and_seen}
    ) k
    WHERE {matched}
    RETURNING a.xmin
), stored_day AS (
    UPDATE ledger_balance b SET totaldebit = k.totaldebit, totalcredit = k.totalcredit,
        accumulateddebit = k.accumulateddebit, accumulatedcredit = k.accumulatedcredit,
        updatedtracekey = k.tracekey, updatedat = %s
    FROM (
        SELECT unnest(%s::uuid[]) AS id, unnest(%s::numeric[]) AS totaldebit, unnest(%s::numeric[]) AS totalcredit,
            unnest(%s::numeric[]) AS accumulateddebit, unnest(%s::numeric[]) AS accumulatedcredit,
            unnest(%s::uuid[]) AS tracekey
    ) k
    WHERE b.id = k.id{and_all}
    RETURNING 1
), new_day AS (
    INSERT INTO ledger_balance (createdat, updatedat, id, branch, account, currency, dateref, totaldebit, totalcredit,
        accumulateddebit, accumulatedcredit, createdtracekey, updatedtracekey)
    SELECT %s::timestamptz, %s::timestamptz, unnest(%s::uuid[]), unnest(%s::text[]), unnest(%s::text[]),
        unnest(%s::text[]), unnest(%s::date[]), unnest(%s::numeric[]), unnest(%s::numeric[]), unnest(%s::numeric[]),
        unnest(%s::numeric[]), unnest(%s::uuid[]), unnest(%s::uuid[])
    WHERE true{and_all}
    RETURNING 1
)
SELECT (SELECT count(*) FROM account), (SELECT count(*) FROM new_day), (SELECT count(*) FROM stored_day),
    (SELECT xmin::text::bigint FROM account LIMIT 1)
"""
# Tells how many rows it has written, and the version that the accounts have now.
WRITE_SUMS = _SUMS.format(and_seen="", matched="a.id = k.id", and_all="")
# Takes the accounts' locks as well, in the order of the arrays, and writes nothing of their days unless all accounts have
# the versions that were seen: Note [Foreseen] in plain_known.py. ANY: the planner can do nothing with it but look an id up.
# With = it goes through the table by its ids, and locks in their order, if it takes it for one of a single row.
WRITE_SUMS_IF_UNCHANGED = _SUMS.format(
    and_seen=", unnest(%s::xid[]) AS seen",
    matched="a.id = ANY (ARRAY[k.id]) AND a.xmin = k.seen",
    and_all=" AND (SELECT count(*) FROM account) = %s",
)


@dataclass(slots=True)
class Sums:
    """Accounts and days to write: the rows of three unnests, in PostgreSQL's own text."""

    accounts: list[tuple[str, ...]] = field(default_factory=list)
    stored: list[tuple[str, ...]] = field(default_factory=list)
    new: list[tuple[str, ...]] = field(default_factory=list)

    def take(self, books: Iterable[AccountBook]) -> None:
        """Take what was folded. The accounts are locked, so absolute values are right."""
        for book in books:
            if not book.touched:
                continue
            sums = str(book.posted_debit), str(book.posted_credit), str(book.pending_debit)
            self.accounts.append((book.id.hex, *sums))
            for row_id, dateref, debit, credit, debit_sum, credit_sum, created_by, tracekey in book.changed_days():
                day = str(debit), str(credit), str(debit_sum), str(credit_sum)
                changed_by = f"{tracekey.int:032x}"
                if row_id is not None:
                    self.stored.append((row_id, *day, changed_by))
                else:
                    made_by = (created_by or tracekey).hex
                    self.new.append((uuid7().hex, *book.ref, dateref.isoformat(), *day, made_by, changed_by))

    def write(self, *, now: datetime) -> None:
        """Write them in one statement."""
        expected = (len(self.accounts), len(self.new), len(self.stored))
        if not self.accounts:
            return
        accounts, stored = _arrays(self.accounts, 4), _arrays(self.stored, 6)
        new = _arrays(self.new, 11, quote='"')  # an account may be called NULL
        *written, _ = fetch_hot(WRITE_SUMS, [now, *accounts, now, *stored, now, now, *new])[0]
        if tuple(written) != expected:
            raise RuntimeError(f"The ledger wrote {written} rows: somebody changed accounts or days without their lock.")


def _arrays(rows: Sequence[tuple[str, ...]], width: int, *, quote: str = "") -> list[str]:
    """Columns of numbers, dates and keys: nothing in them needs to be escaped."""
    between = f"{quote},{quote}"
    return [f"{{{quote}{between.join(column)}{quote}}}" for column in zip(*rows, strict=True)] or ["{}"] * width

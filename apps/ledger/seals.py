"""Seals: a month that is over is proved from its lines, gets its closing balances, and takes no line any more.

Note [Sealed]
    A seal's hash is over the parts of all blocks for this month, the closing balances and the seal before, so it stands
    for every line and every account up to its month's end. Months are sealed in order. The month's partition gets a
    trigger that refuses every change; it is made first, and waits for who is writing, so what is proved after it stays.
    All is one commit: killed anywhere, the month is open as before.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import ProgrammingError, connection
from django.db.transaction import atomic
from psycopg import sql

from apps.common.clock import business_date
from apps.common.errors import DomainError
from apps.common.transactions import transaction
from apps.ledger import accounts, chain
from apps.ledger.chain_lines import SEQ, Line, Tally, after, encode
from apps.ledger.chain_models import BlockPart, Month
from apps.ledger.months import TRANSACTIONS
from apps.ledger.rows import fetch
from apps.ledger.rules import ZERO, first_day

LOCK_TIMEOUT = "2s"  # writers wait behind whoever changes a partition: rather try again later
ROWS_AT_ONCE = 10_000  # parts or closings in memory
CLOCK_AHEAD_MAX = timedelta(hours=1)
NUMBERS_AT_ONCE = 20_000  # lines in memory: some 20 MB
_NOT_ALONE = "It lies in one partition with other months."


class MonthNotReady(DomainError):
    """The month can't be sealed yet."""

    code, retryable = "R136", True


class MonthDiffers(DomainError):
    """The month's lines do not prove its chain or its balances, so it is not sealed."""

    code = "R137"


class WrongMonthState(DomainError):
    """The month is not in the state that this step begins from."""

    code = "R139"


def name_of(month: date) -> str:
    """How people call a month."""
    return f"{month:%Y-%m}"


def lock_months() -> None:
    """One step of one month at a time, everywhere; to the commit, however long a file is read meanwhile.

    What nobody else waits for may be idle for longer than other transactions (DATABASE_IDLE_TRANSACTION_TIMEOUT_MS).
    """
    fetch("SELECT pg_advisory_xact_lock(hashtext('ledger.months'))", [])
    fetch("SELECT set_config('idle_in_transaction_session_timeout', '0', true)", [])


def seal_month(month: date, *, by: str, now: datetime) -> Month:
    """Prove a month and close it for good. Safe to repeat: a sealed month is given back as it is.

    Raises MonthNotReady while it may still get lines, has some that are not chained, or an earlier month is not sealed;
    MonthDiffers when something does not add up. Raises OperationalError when the table is busy for too long.
    """
    if row := Month.objects.filter(month=month).first():
        return row
    _check_over(month, now)
    try:
        TRANSACTIONS.open(month)  # its lines may be in the default partition
    except ProgrammingError:  # it overlaps with the one that holds all months of a ledger from before there were any
        raise MonthNotReady(_NOT_ALONE, field="month") from None
    return _seal(month, by=by, now=now)


def why_not(month: date, *, now: datetime) -> str:
    """Why a month can't be sealed now; empty when nothing is known that speaks against it."""
    try:
        _check_over(month, now)
        _check_ready(month, is_alone=True)
    except DomainError as refusal:
        return refusal.detail
    return ""


def check_clock(now: datetime) -> None:
    """For those who take the time from a machine: a clock that jumped ahead would close, for ever, what is still posted to.

    Raises MonthNotReady when it is ahead of the database's.
    """
    ahead = now - fetch("SELECT clock_timestamp()", [])[0][0]
    if ahead > CLOCK_AHEAD_MAX:
        raise MonthNotReady(f"This machine's clock is {ahead} ahead of the database's.", field="month")


def close_days(month: date, *, now: datetime) -> list[str]:
    """Close a month's days in the branches where they are open; which ones? Each is a commit. Safe to repeat.

    Only of a month to which nobody can post any more anyway: raises MonthNotReady for others.
    """
    _check_over(month, now)
    last_day, closed = after(month) - timedelta(days=1), []
    for (branch,) in fetch("SELECT branch FROM ledger_branch WHERE closeduntil IS NULL OR closeduntil < %s", [last_day]):
        with atomic(durable=True):
            accounts.close_day(branch=branch, day=last_day, now=now)
        closed.append(branch)
    return closed


def _check_over(month: date, now: datetime) -> None:
    if after(month) > first_day(business_date(now)):
        raise MonthNotReady(f"Lines of {name_of(month)} may still be posted.", field="month")


@transaction
def _seal(month: date, *, by: str, now: datetime) -> Month:
    lock_months()
    if row := Month.objects.filter(month=month).first():
        return row
    chain.share_partitions()
    _check_ready(month)
    refuse_changes(month)
    before = Month.objects.order_by("-month").first()
    total = prove_parts(month)
    _prove_days(month)
    with connection.cursor() as cursor:
        cursor.execute(_CLOSE, {"month": month, "end": after(month)})
    _prove_closings(month)
    row = Month(
        month=month,
        state=Month.State.SEALED,
        lines=total.lines,
        debits=total.debits,
        credits=total.credits,
        seq_last=_seq_last(month),
        sealed_at=now,
        sealed_by=by,
    )
    row.hash = seal_hash(row, before)
    row.save(force_insert=True)
    return row


_OPEN_BRANCHES = (
    "SELECT branch, closeduntil FROM ledger_branch WHERE closeduntil IS NULL OR closeduntil < %s ORDER BY 1 LIMIT 1"
)
_BOUNDS = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = to_regclass(%s)"
_UNSEALED = "SELECT max(seq), min(dateref) FROM ledger_transaction WHERE dateref >= %s AND dateref < %s"


def _check_ready(month: date, *, is_alone: bool = False) -> None:
    """Is it closed, chained, and the next one? Raises MonthNotReady. ``is_alone``: its partition is made later."""
    last_day = after(month) - timedelta(days=1)
    if left := fetch(_OPEN_BRANCHES, [last_day]):
        raise MonthNotReady(f"{last_day} is not closed in branch {left[0][0]}.", field="month")
    if fetch("SELECT 1 FROM ledger_deferred WHERE dateref < %s LIMIT 1", [after(month)]):
        raise MonthNotReady("Lines of deferred accounts wait to be rolled up.", field="month")
    newest = Month.objects.order_by("-month").first()
    if newest is not None and newest.month > month:
        raise WrongMonthState(f"{name_of(newest.month)} is sealed already, and months are sealed in order.", field="month")
    since = after(newest.month) if newest else date.min
    seq, first = fetch(_UNSEALED, [since, after(month)])[0]
    if first is not None and first < month:
        raise MonthNotReady(f"{name_of(first)} comes first: it has lines and is not sealed.", field="month")
    head = chain.head()
    if seq is not None and (head is None or head.seq_to < seq):
        raise MonthNotReady("Some of its lines are not chained yet.", field="month")
    if is_alone:
        return
    bounds = fetch(_BOUNDS, [TRANSACTIONS.name(month)])
    if not bounds or bounds[0][0] != f"FOR VALUES FROM ('{month}') TO ('{after(month)}')":
        raise MonthNotReady(_NOT_ALONE, field="month")


def refuse_changes(month: date) -> None:
    """Let the month's partition take no change any more. Waits for who is writing to it."""
    statement = (
        "CREATE OR REPLACE TRIGGER ledger_month_sealed BEFORE INSERT OR UPDATE OR DELETE ON {} "
        "FOR EACH ROW EXECUTE FUNCTION ledger_refuse_sealed()"
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
        cursor.execute(sql.SQL(statement).format(sql.Identifier(TRANSACTIONS.name(month))))


def parts_of(month: date) -> Iterator[tuple[BlockPart, int, int]]:
    """The parts of a month in the order of blocks, with the numbers that each block covers; read some at a time."""
    number = 0
    while True:
        rows = fetch(
            "SELECT p.id, p.number, p.month, p.lines, p.debits, p.credits, p.hash, b.seqfrom, b.seqto "
            "FROM ledger_block_part p JOIN ledger_block b ON b.number = p.number "
            "WHERE p.month = %s AND p.number > %s ORDER BY p.number LIMIT %s",
            [month, number, ROWS_AT_ONCE],
        )
        if not rows:
            return
        for part_id, number, of_month, lines, debits, credits_, part_hash, seq_from, seq_to in rows:
            sums = {"lines": lines, "debits": debits, "credits": credits_, "hash": part_hash}
            yield BlockPart(id=part_id, number=number, month=of_month, **sums), seq_from, seq_to


def lines_by_part(month: date) -> Iterator[tuple[BlockPart, list[Line]]]:
    """The parts of a month with the lines that the table has for them; small blocks are read together."""
    few: list[tuple[BlockPart, int, int]] = []
    for found in parts_of(month):
        if few and found[2] - few[0][1] >= NUMBERS_AT_ONCE:
            yield from _read_few(month, few)
            few = []
        few.append(found)
    if few:
        yield from _read_few(month, few)


def _read_few(month: date, few: Sequence[tuple[BlockPart, int, int]]) -> Iterator[tuple[BlockPart, list[Line]]]:
    lines = chain.lines_between(few[0][1], few[-1][2], month, after(month))
    begin = 0
    for part, _, seq_to in few:
        # What stands between two parts goes to the later one, where it is one too many.
        end = bisect_right(lines, seq_to, lo=begin, key=lambda line: line[SEQ])
        yield part, lines[begin:end]
        begin = end


def prove_parts(month: date) -> Tally:
    """The month's lines are those that were chained: their sums. Raises MonthDiffers."""
    total = Tally()
    for part, lines in lines_by_part(month):
        tally = Tally()
        tally.add(lines)
        if tally.sum() != chain.sum_of(part):
            raise MonthDiffers(f"Block {part.number} does not match its lines: see verify_chain.", field="month")
        total.lines += tally.lines
        total.debits += tally.debits
        total.credits += tally.credits
    count = fetch("SELECT count(*) FROM ledger_transaction WHERE dateref >= %s AND dateref < %s", [month, after(month)])[0][
        0
    ]
    if count != total.lines:
        raise MonthDiffers(f"{count} lines are there and {total.lines} were chained: see verify_chain.", field="month")
    return total


def differing_part(month: date, lines: Iterator[Line]) -> str | None:
    """Which part of a month lines in the order of seq do not give; None when they give all, and nothing else."""
    ahead, where = next(lines, None), "no block"
    for part, seq_from, seq_to in parts_of(month):
        own = []
        while ahead is not None and ahead[SEQ] <= seq_to:
            own.append(ahead)
            ahead = next(lines, None)
        tally, where = Tally(), f"block {part.number} (seq {seq_from} to {seq_to})"
        tally.add(own)
        if tally.sum() != chain.sum_of(part):
            return f"the lines of {where} are not those that were chained"
    return None if ahead is None else f"there are lines behind those of {where}, from seq {ahead[SEQ]} on"


def _seq_last(month: date) -> int:
    found = fetch(
        "SELECT coalesce(max(seq), 0) FROM ledger_transaction WHERE dateref >= %s AND dateref < %s", [month, after(month)]
    )
    return int(found[0][0])


# Each gives the first key that differs, as a text.
_DAYS = """
WITH line AS (
    SELECT branch, account, currency, dateref,
        coalesce(sum(amount) FILTER (WHERE debitcredit = 'D'), 0) AS debit,
        coalesce(sum(amount) FILTER (WHERE debitcredit = 'C'), 0) AS credit
    FROM ledger_transaction WHERE dateref >= %(month)s AND dateref < %(end)s GROUP BY 1, 2, 3, 4
), day AS (
    SELECT * FROM ledger_balance WHERE dateref >= %(month)s AND dateref < %(end)s
)
SELECT concat_ws(' ', concat_ws('/', branch, account, currency), dateref)
FROM day FULL JOIN line USING (branch, account, currency, dateref)
WHERE day.totaldebit IS DISTINCT FROM line.debit OR day.totalcredit IS DISTINCT FROM line.credit LIMIT 1
"""
_LEGS = """
SELECT tracekey::text FROM ledger_transaction WHERE balanced AND dateref >= %(month)s AND dateref < %(end)s
GROUP BY tracekey, currency HAVING sum(CASE debitcredit WHEN 'C' THEN amount ELSE -amount END) <> 0 LIMIT 1
"""
_CLOSE = """
INSERT INTO ledger_closing (month, branch, account, currency, accumulateddebit, accumulatedcredit)
SELECT %(month)s, line.branch, line.account, line.currency,
    line.debit + coalesce(before.accumulateddebit, 0), line.credit + coalesce(before.accumulatedcredit, 0)
FROM (
    SELECT branch, account, currency, coalesce(sum(amount) FILTER (WHERE debitcredit = 'D'), 0) AS debit,
        coalesce(sum(amount) FILTER (WHERE debitcredit = 'C'), 0) AS credit
    FROM ledger_transaction WHERE dateref >= %(month)s AND dateref < %(end)s GROUP BY 1, 2, 3
) line
LEFT JOIN LATERAL (
    SELECT accumulateddebit, accumulatedcredit FROM ledger_closing c
    WHERE (c.branch, c.account, c.currency) = (line.branch, line.account, line.currency) AND c.month < %(month)s
    ORDER BY c.month DESC LIMIT 1
) before ON true
"""
# What the lines of all months give, against what the day rows have carried.
_CARRIED = """
SELECT concat_ws('/', c.branch, c.account, c.currency) FROM ledger_closing c
LEFT JOIN LATERAL (
    SELECT accumulateddebit, accumulatedcredit FROM ledger_balance b
    WHERE (b.branch, b.account, b.currency) = (c.branch, c.account, c.currency) AND b.dateref < %(end)s
    ORDER BY b.dateref DESC LIMIT 1
) d ON true
WHERE c.month = %(month)s AND (d.accumulateddebit, d.accumulatedcredit) IS DISTINCT FROM
    (c.accumulateddebit, c.accumulatedcredit) LIMIT 1
"""


def _prove_days(month: date) -> None:
    _prove(month, _DAYS, "The day's sums are not those of its lines: ")
    _prove(month, _LEGS, "The debits and credits of the entry differ: ")


def _prove_closings(month: date) -> None:
    _prove(month, _CARRIED, "The accumulated sums are not those of all lines up to the month's end: ")


def _prove(month: date, statement: str, what: str) -> None:
    if found := fetch(statement, {"month": month, "end": after(month)}):
        raise MonthDiffers(f"{what}{found[0][0]}. See check_balances.", field="month")


def closing_sums(month: date) -> Iterator[tuple[str, str, str, Decimal, Decimal]]:
    """branch, account, currency and accumulated debits and credits of the accounts with lines in a month, in key order."""
    key: tuple[str, str, str] = ("", "", "")
    while True:
        rows = fetch(
            "SELECT branch, account, currency, accumulateddebit, accumulatedcredit FROM ledger_closing "
            "WHERE month = %s AND (branch, account, currency) > (%s, %s, %s) ORDER BY 1, 2, 3 LIMIT %s",
            [month, *key, ROWS_AT_ONCE],
        )
        if not rows:
            return
        yield from rows
        key = rows[-1][:3]


def _digest(documents: Iterable[list[Any]]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        digest.update((encode(document) + "\n").encode())
    return digest.hexdigest()


def seal_hash(row: Month, before: Month | None) -> bytes:
    """What a month's hash has to be, by its row, the parts, the closing balances and the seal before."""
    parts = _digest(
        [part.number, part.lines, str(part.debits), str(part.credits), bytes(part.hash).hex()]
        for part, _, _ in parts_of(row.month)
    )
    closings = _digest([*key, str(debit), str(credit)] for *key, debit, credit in closing_sums(row.month))
    document = [
        "lastro.ledger.month",
        1,
        name_of(row.month),
        (bytes(before.hash) if before else chain.NO_HASH).hex(),
        row.lines,
        str(row.debits + ZERO),
        str(row.credits + ZERO),
        row.seq_last,
        parts,
        closings,
    ]
    return hashlib.sha256(encode(document).encode()).digest()


def check(report: Callable[[int | None, date | None, str], None]) -> None:
    """Tell of every month whose seal is not that of its parts and closing balances."""
    before = None
    for row in Month.objects.order_by("month"):
        if seal_hash(row, before) != bytes(row.hash):
            report(None, row.month, "its row, its parts or its closing balances were changed: they do not give its seal")
        before = row

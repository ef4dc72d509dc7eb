"""A full check in pieces: each a snapshot and a commit of its own, and the next call goes on where the last one came to.

Note [Pieces]
    A whole ledger takes longer to read than a task may run, and a snapshot that is held as long keeps the server from
    tidying up. So a pass goes through the accounts in the order of their keys, some ROWS_MAX rows at a time; then through
    the holds and the tracekeys in theirs, for what is said of those that have no line. ``Check.progress`` says how far it
    is. It is written in the commit of the piece, so a process that is killed loses one piece, and nothing is skipped.

    Why no false alarm? All that is compared is of one snapshot. An account is proved from its first line in one piece. One
    with more lines than fit is read in the order of ``seq``, piece after piece, and the sums by day of what was read are
    carried along. Lines are never changed, and none appears below a number that was seen (Note [Increments]); so with the
    last lines those sums are of all lines of the last piece's snapshot, and days and balances are compared in that one.
    Months that go or come in between take lines along: then the account is begun anew.

    What would escape? Accounts and tracekeys that appear behind the place where a pass is. An account without a proof is
    what the next incremental check proves, and a tracekey without lines is found by the next pass.

    A piece that was killed again and again is tried with half as many rows each time. Differences are in the progress, too,
    until the pass ends: so whoever goes on knows which were seen, and which of the others are gone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from apps.common import clock
from apps.common.clock import business_date
from apps.common.transactions import transaction
from apps.ledger import increments, reconciliation, regions, turns
from apps.ledger.care_models import Check
from apps.ledger.reconciliation import Difference
from apps.ledger.regions import KEY, Carried, Scope, Size
from apps.ledger.rows import fetch

Stage = Literal["ACCOUNTS", "HOLDS", "KEYS", "DONE"]

# Of a piece. Some seconds; who waits for the turn, or wants to detach a month, waits as long.
ROWS_MAX = 200_000
ROWS_MIN = 1_000  # of one that was killed again and again
_FIRST = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pass is."""

    stage: Stage
    after: Sequence[str]  # an account's key, or one id
    carried: Carried | None
    found: tuple[Difference, ...]
    told: int = 0  # so many of them have a row for people

    def as_json(self) -> dict[str, Any]:
        """For ``Check.progress``."""
        carried = asdict(self.carried) if self.carried else None
        found = [each.as_dict() for each in self.found]
        return {"stage": self.stage, "after": list(self.after), "carried": carried, "found": found, "told": self.told}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Progress":
        """What ``as_json`` gave."""
        carried = Carried(**document["carried"]) if document["carried"] else None
        found = tuple(map(Difference.of_dict, document["found"]))
        return cls(document["stage"], document["after"], carried, found, document["told"])


BEGIN = Progress("ACCOUNTS", ("", "", ""), None, ()).as_json()


def progress_of(row: Check) -> Progress:
    """How far it is."""
    return Progress.of(row.progress or BEGIN)


def go_on(row_id: UUID, *, wait: str, now: datetime) -> Check:
    """Prove the next piece of a pass: two commits. How far it is now; its differences are in ``progress``.

    Safe to repeat, and beside itself: pieces take turns. ``wait`` for the turn, and raise CheckRunning.
    """
    rows_max = max(ROWS_MIN, ROWS_MAX >> min(_try(row_id, wait), 32))
    return _prove_piece(row_id, rows_max=rows_max, wait=wait, day=business_date(now))


@transaction
def _try(row_id: UUID, wait: str) -> int:
    """Count a try, as one that is killed can't. How often was this piece tried before? In turn: nobody else writes then."""
    turns.take_turn("FULL", wait=wait)
    row = Check.objects.get(pk=row_id)
    Check.objects.filter(pk=row_id).update(tries=row.tries + 1)
    return row.tries


@transaction
def _prove_piece(row_id: UUID, *, rows_max: int, wait: str, day: date) -> Check:
    turns.take_turn("FULL", wait=wait)
    row = Check.objects.get(pk=row_id)
    before, scope = progress_of(row), Scope(row.branch, row.account, row.currency)
    if row.ended_at is not None or before.stage == "DONE":  # somebody else was faster
        return row
    at, row.cluster = clock.now(), turns.know_server()
    progress, size, looked = _STAGES[before.stage](before, scope, rows_max, day)
    row.progress = replace(progress, told=before.told).as_json()
    row.snapshot_at, row.tries = row.snapshot_at or at, 0
    row.accounts, row.days, row.lines = row.accounts + size.accounts, row.days + size.days, row.lines + size.lines
    row.looked, row.continued_at, row.differences = row.looked + looked, at, len(progress.found)
    row.save()
    return row


_Proved = tuple[Progress, Size, int]  # how far it is now, and how much was looked at: for people, and in rows


def _prove_accounts(progress: Progress, scope: Scope, rows_max: int, day: date) -> _Proved:
    """Some accounts, or some lines of one."""
    if progress.carried:  # not who is next: an account may have been opened before it
        ids, last = [UUID(progress.carried.account)], progress.carried.key
    elif chosen := regions.next_accounts(scope, progress.after, rows_max=rows_max):
        ids, last = [each.id for each in chosen], chosen[-1].key
    else:
        return _behind_accounts(progress, scope), Size(0, 0, 0), 0
    if progress.carried or chosen[0].lines > rows_max:
        size, carried = regions.take_lines(ids[0], progress.carried, rows_max=rows_max)
    else:
        size, carried = regions.take_accounts(ids), None
    if carried:
        seen = _with(progress.found, reconciliation.prove(increments.LINE_CHECKS))
        return Progress("ACCOUNTS", progress.after, carried, seen), Size(0, 0, size.lines), size.lines
    found = reconciliation.prove(increments.ACCOUNT_CHECKS if scope == Scope() else increments.CHECKS)
    seen = _with(progress.found, found + (_strays(progress.after, last) if scope == Scope() else []))
    increments.keep_proofs(seen, day=day)
    return Progress("ACCOUNTS", last, None, seen), size, size.lines


def _behind_accounts(progress: Progress, scope: Scope) -> Progress:
    """Those of a part have told of their holds, and tracekeys belong to no account."""
    if scope != Scope():
        return Progress("DONE", progress.after, None, progress.found)
    return Progress("HOLDS", [str(_FIRST)], None, _with(progress.found, _strays(progress.after, None)))


# Lines, days and closing balances of accounts that are not there: between two keys, for no account comes by.
_STRAYS = f"""
SELECT s.branch, s.account, s.currency, NULL, NULL, NULL, (SELECT coalesce(sum(t.amount), 0) FROM ledger_transaction t
    WHERE {KEY.format("t", "s")} AND t.debitcredit = '{{side}}')
FROM (
    SELECT branch, account, currency FROM ledger_transaction WHERE {{span}}
    UNION SELECT branch, account, currency FROM ledger_balance WHERE {{span}}
    UNION SELECT branch, account, currency FROM ledger_closing WHERE {{span}}
) s
WHERE NOT EXISTS (SELECT FROM ledger_account a WHERE {KEY.format("a", "s")})
"""  # noqa: S608
_BEHIND = "(branch, account, currency) > (%(branch)s, %(account)s, %(currency)s)"
_UP_TO = f"{_BEHIND} AND (branch, account, currency) < (%(to_branch)s, %(to_account)s, %(to_currency)s)"


def _strays(after: Sequence[str], until: Sequence[str] | None) -> list[Difference]:
    names = ("branch", "account", "currency")
    span = dict(zip(names, after, strict=True)) | dict(zip([f"to_{n}" for n in names], until or after, strict=True))
    rules = {
        rule: _STRAYS.format(span=_UP_TO if until else _BEHIND, side=side)
        for side, rule in (("D", increments.DEBITS), ("C", increments.CREDITS))
    }
    return reconciliation.prove(rules, span)


# A row of either is looked for where its key says that its lines are; the archive's are not.
_OF_KEY = (
    "t.tracekey = {0}.tracekey AND t.dateref BETWEEN coalesce(k.dateref, '-infinity') AND coalesce(k.dateref, 'infinity')"
)
_IS_ONLINE = "coalesce(k.dateref > (SELECT max(dateref) FROM ledger_opening), true)"
_HOLDS = f"""
SELECT h.branch, h.account, h.currency, NULL, h.tracekey, coalesce(h.postedamount, h.amount), d.amount
FROM (SELECT * FROM ledger_hold WHERE id > %(after)s AND id <= %(until)s AND status = 'POSTED') h
LEFT JOIN ledger_posting_key k ON k.tracekey = h.tracekey
LEFT JOIN LATERAL (SELECT t.amount FROM ledger_transaction t WHERE {_OF_KEY.format("h")} AND t.debitcredit = 'D'
    AND {KEY.format("t", "h")} OFFSET 0) d ON true
WHERE d.amount IS DISTINCT FROM coalesce(h.postedamount, h.amount) AND (d.amount IS NOT NULL OR {_IS_ONLINE})
"""  # noqa: S608
_KEYS = f"""
SELECT NULL, NULL, NULL, NULL, k.tracekey, (k.state = 'POSTED')::int, l.lines
FROM (SELECT * FROM ledger_posting_key WHERE tracekey > %(after)s AND tracekey <= %(until)s) k
CROSS JOIN LATERAL (SELECT count(*) AS lines FROM (SELECT FROM ledger_transaction t WHERE {_OF_KEY.format("k")}
    UNION ALL SELECT FROM ledger_deferred w WHERE w.tracekey = k.tracekey) n OFFSET 0) l
WHERE (k.state = 'POSTED') <> (l.lines > 0) AND (l.lines > 0 OR {_IS_ONLINE})
"""  # noqa: S608


class _Rows(NamedTuple):
    """Rows of a table that are proved one by one, in the order of a key."""

    table: str
    key: str
    rule: str
    statement: str
    behind: Stage


_ROWS = {
    "HOLDS": _Rows("ledger_hold", "id", increments.HOLDS, _HOLDS, "KEYS"),
    "KEYS": _Rows("ledger_posting_key", "tracekey", increments.KEYS, _KEYS, "DONE"),
}


def _prove_rows(progress: Progress, _scope: Scope, rows_max: int, _day: date) -> _Proved:
    """Posted holds that have no debit, or another one; tracekeys that have no lines, or should have none."""
    table, key, rule, statement, behind = _ROWS[progress.stage]
    some = f"SELECT {key} AS key FROM {table} WHERE {key} > %s ORDER BY {key} LIMIT %s"  # noqa: S608 - constants
    last = f"SELECT count(*), (array_agg(key ORDER BY key DESC))[1] FROM ({some}) s"  # noqa: S608
    ((count, until),) = fetch(last, [progress.after[0], rows_max])
    if not count:
        return Progress(behind, [str(_FIRST)], None, progress.found), Size(0, 0, 0), 0
    found = reconciliation.prove({rule: statement}, {"after": progress.after[0], "until": until})
    return Progress(progress.stage, [str(until)], None, _with(progress.found, found)), Size(0, 0, 0), count


def _with(known: Sequence[Difference], found: Sequence[Difference]) -> tuple[Difference, ...]:
    """All of them, each once, and of one rule no more than are reported."""
    seen, counts = list(known), dict[str, int]()
    for each in known:
        counts[each.rule] = counts.get(each.rule, 0) + 1
    for each in found:
        if each not in seen and counts.get(each.rule, 0) < reconciliation.DIFFERENCES_MAX:
            counts[each.rule] = counts.get(each.rule, 0) + 1
            seen.append(each)
    return tuple(seen)


_STAGES: dict[str, Callable[[Progress, Scope, int, date], _Proved]] = {
    "ACCOUNTS": _prove_accounts,
    "HOLDS": _prove_rows,
    "KEYS": _prove_rows,
}

# As the server estimates them: counting would take as long as a piece, or as a hundred.
_EXPECTED = """
SELECT coalesce(sum(greatest(reltuples, 0)), 0)::bigint FROM pg_class
WHERE oid IN ('ledger_hold'::regclass, 'ledger_posting_key'::regclass)
    OR oid IN (SELECT relid FROM pg_partition_tree('ledger_transaction') WHERE isleaf)
"""


def expected_rows() -> int:
    """How many rows a pass over everything will look at, more or less."""
    return int(fetch(_EXPECTED, [])[0][0])

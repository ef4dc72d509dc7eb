"""What the ledger knew at a moment: back-dated lines that came later are left out.

Note [As of]
    Every line has two times: ``dateref``, the day it counts for, and ``createdat``, when it was inserted. Day rows know
    only the first. But a line that is inserted after a moment is dated at most BACKDATE_DAYS_MAX days before that moment's
    day, so the days before those hold nothing that came later: their last row is the start, and only the lines of the few
    days behind it are looked at one by one. However long an account's history is, some days of it are read.
    - The day of a moment is São Paulo's, as the engine's own window: both are taken from the same ``now``.
    - A day row that was changed after the moment is no start, whatever its date: the window may once have been larger.
    - A line of a deferred account is written anew when it is rolled up; it was inserted when its tracekey was claimed.
      What still waits counts from when it was asked for. So an answer does not change when a line is rolled up.
    - The lines that were read are compared with the day rows. Where lines are missing, they are in the archive, and no
      answer is given rather than a wrong one.
    ``createdat`` is the moment at which a posting was asked for, and its commit comes later: an answer about the last
    seconds may still change.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from apps.common.clock import business_date
from apps.common.errors import DomainError, NotFound
from apps.ledger import months_behind
from apps.ledger.queries import check_key
from apps.ledger.reading import fetch_limited
from apps.ledger.rules import AccountRef, first_day

# Where ids begin to count, so no account is older; and near the year 1 there are no dates for its window.
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


class MomentRefused(DomainError):
    """The moment lies in the future."""

    code = "R140"


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentBalance:
    """An account at the end of ``dateref``, as the ledger knew it at ``moment``. ``available`` = posted − pending."""

    account: AccountRef
    moment: datetime
    dateref: date
    posted: Decimal
    pending: Decimal
    available: Decimal
    accumulated_debit: Decimal
    accumulated_credit: Decimal


# The account's key is written as constants everywhere: with columns of a join in their place, the newest day row before a
# date would be found by sorting all of them.
_KEY = "{0}.branch = %(branch)s AND {0}.account = %(account)s AND {0}.currency = %(currency)s"
_HELD = """
        SELECT h.amount FROM ledger_hold h
        WHERE {key} AND h.createdat <= %(moment)s AND h.dateref <= %(until)s AND {open_then}"""
_SUMS = """
    SELECT coalesce(sum(amount) FILTER (WHERE debitcredit = 'D'), 0.00) AS debit,
        coalesce(sum(amount) FILTER (WHERE debitcredit = 'C'), 0.00) AS credit"""
_AS_OF = f"""
WITH start AS (
    SELECT b.dateref, b.accumulateddebit AS debit, b.accumulatedcredit AS credit FROM ledger_balance b
    WHERE {_KEY.format("b")} AND b.dateref <= %(settled)s AND b.updatedat <= %(moment)s ORDER BY b.dateref DESC LIMIT 1
), ending AS (
    SELECT b.accumulateddebit AS debit, b.accumulatedcredit AS credit FROM ledger_balance b
    WHERE {_KEY.format("b")} AND b.dateref <= %(until)s ORDER BY b.dateref DESC LIMIT 1
), line AS (
    SELECT t.debitcredit, t.amount, t.createdat <= %(moment)s OR (t.deferred AND
        (SELECT k.createdat FROM ledger_posting_key k WHERE k.tracekey = t.tracekey) <= %(moment)s) AS is_known
    FROM ledger_transaction t
    WHERE {_KEY.format("t")} AND t.dateref <= %(until)s AND t.dateref > coalesce((SELECT dateref FROM start), '-infinity')
), read AS ({_SUMS},
        coalesce(sum(amount) FILTER (WHERE debitcredit = 'D' AND is_known), 0.00) AS known_debit,
        coalesce(sum(amount) FILTER (WHERE debitcredit = 'C' AND is_known), 0.00) AS known_credit
    FROM line
), waiting AS ({_SUMS}
    FROM ledger_deferred d WHERE {_KEY.format("d")} AND d.dateref <= %(until)s AND d.createdat <= %(moment)s
), held AS (
    SELECT coalesce(sum(amount), 0.00) AS amount FROM ({_HELD.format(key=_KEY.format("h"), open_then="h.status = 'OPEN'")}
        UNION ALL{_HELD.format(key=_KEY.format("h"), open_then="h.endedat > %(moment)s")}
    ) hold
)
SELECT coalesce(start.debit, 0.00) + read.known_debit + waiting.debit,
    coalesce(start.credit, 0.00) + read.known_credit + waiting.credit, held.amount,
    coalesce(start.debit, 0.00) + read.debit = coalesce(ending.debit, 0.00)
        AND coalesce(start.credit, 0.00) + read.credit = coalesce(ending.credit, 0.00)
FROM ledger_account a CROSS JOIN read CROSS JOIN waiting CROSS JOIN held LEFT JOIN start ON true LEFT JOIN ending ON true
WHERE {_KEY.format("a")} AND a.createdat <= %(moment)s
"""  # noqa: S608 - constants


def balance_as_of(account: AccountRef, moment: datetime, *, day: date | None = None, now: datetime) -> MomentBalance:
    """The account as the ledger knew it at a moment: all it knew, or of that what counts up to the end of ``day``.

    ``pending``: what was held at that moment. See Note [As of]. Raises NotFound also for an account that was opened later,
    MomentRefused for a moment after ``now``, MonthArchived, TooMuchToRead.
    """
    check_key(account)
    if moment > now:
        raise MomentRefused(f"{moment.isoformat()} lies in the future.", field="as_of")
    if moment < _EARLIEST:
        raise _no_account()
    today = business_date(moment)
    until = min(day or today, today)
    found = fetch_limited(
        _AS_OF,
        {
            **account._asdict(),
            "moment": moment,
            "until": until,
            # The first day that may have got a line later is first_day(today).
            "settled": min(until, first_day(today) - timedelta(days=1)),
        },
    )
    if not found:
        raise _no_account()
    debit, credit, pending, is_complete = found[0]
    if not is_complete:
        months_behind.check_period(account, date_from=date.min, date_to=until)
        raise RuntimeError(f"Lines of {account} up to {until} do not add up to its days, and none are archived.")
    posted = credit - debit
    return MomentBalance(
        account=account,
        moment=moment,
        dateref=day or today,
        posted=posted,
        pending=pending,
        available=posted - pending,
        accumulated_debit=debit,
        accumulated_credit=credit,
    )


def _no_account() -> NotFound:
    return NotFound("There was no such ledger account at that moment.", field="account")

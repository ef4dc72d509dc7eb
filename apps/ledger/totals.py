"""Totals by event: how often, and how much, on either side, in a period. From the lines, in one statement."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from apps.common.errors import InvalidRequest
from apps.common.money import CURRENCY
from apps.ledger import months_behind
from apps.ledger.chain_lines import after
from apps.ledger.months_behind import MonthArchived
from apps.ledger.queries import check_key, check_period, no_account
from apps.ledger.reading import fetch, fetch_limited
from apps.ledger.rules import AccountRef, Side

# A year, and a leap one: it reads every line of the period.
TOTALS_DAYS_MAX = 366


@dataclass(frozen=True, slots=True)
class EventTotal:
    """One event on one side. ``description``: the catalogue's; empty for an event that is not in it any more."""

    eventcode: int
    description: str
    debitcredit: Side
    count: int
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTotals:
    """All events of a period, by code and side. ``branch`` None: all branches; ``account`` None: all of the branch's."""

    branch: str | None
    account: str | None
    currency: str
    date_from: date
    date_to: date
    debits: Decimal
    credits: Decimal
    events: tuple[EventTotal, ...]


# What waits to be rolled up was posted, too: without it the legs of an entry would not add up.
_TOTALS = """
SELECT l.eventcode, coalesce(e.description, ''), l.debitcredit, l.lines, l.amount
FROM (
    SELECT eventcode, debitcredit, sum(lines)::bigint AS lines, sum(amount) AS amount FROM (
        SELECT eventcode, debitcredit, count(*) AS lines, sum(amount) AS amount FROM ledger_transaction
        WHERE {where} GROUP BY 1, 2
        UNION ALL
        SELECT eventcode, debitcredit, count(*), sum(amount) FROM ledger_deferred WHERE {where} GROUP BY 1, 2
    ) part GROUP BY 1, 2
) l
LEFT JOIN ledger_event e ON e.code = l.eventcode
ORDER BY l.eventcode, l.debitcredit DESC
"""
_PERIOD = "currency = %(currency)s AND dateref BETWEEN %(from)s AND %(to)s"


def totals_by_event(
    *,
    date_from: date,
    date_to: date,
    branch: str | None = None,
    account: str | None = None,
    currency: str = CURRENCY,
) -> EventTotals:
    """Count and sum of each event and side in a period, of one account, a branch, or the whole ledger.

    Raises NotFound for an unknown account or branch, InvalidRequest for a period that ends before it begins or is longer
    than TOTALS_DAYS_MAX days, MonthArchived, and TooMuchToRead.
    """
    check_period(date_from, date_to, days_max=TOTALS_DAYS_MAX)
    if account is not None and branch is None:
        raise InvalidRequest("An account is known by its branch, too.", field="branch")
    _check_scope(branch, account, currency)
    named = [f"{name} = %({name})s" for name, value in (("branch", branch), ("account", account)) if value is not None]
    values = {"branch": branch, "account": account, "currency": currency, "from": date_from, "to": date_to}
    found = fetch_limited(_TOTALS.format(where=" AND ".join([*named, _PERIOD])), values)
    _check_at_hand(branch, account, currency, date_from, date_to)
    events = tuple(EventTotal(*row) for row in found)
    return EventTotals(
        branch=branch,
        account=account,
        currency=currency,
        date_from=date_from,
        date_to=date_to,
        debits=_sum(events, "D"),
        credits=_sum(events, "C"),
        events=events,
    )


def _check_scope(branch: str | None, account: str | None, currency: str) -> None:
    check_key(AccountRef(branch or "", account or "", currency))
    if branch is None:
        return
    if account is None:
        is_there = fetch("SELECT 1 FROM ledger_branch WHERE branch = %s", [branch])
    else:
        sql = "SELECT 1 FROM ledger_account WHERE branch = %s AND account = %s AND currency = %s"
        is_there = fetch(sql, [branch, account, currency])
    if not is_there:
        raise no_account()


def _check_at_hand(branch: str | None, account: str | None, currency: str, date_from: date, date_to: date) -> None:
    """Raises MonthArchived when lines of the period are archived. Asked after reading, as ``months_behind`` says."""
    if branch is not None and account is not None:
        months_behind.check_period(AccountRef(branch, account, currency), date_from=date_from, date_to=date_to)
        return
    gone = [month for month in months_behind.detached() if date_from < after(month) and month <= date_to]
    if gone:
        raise MonthArchived(f"The lines of {max(gone):%Y-%m} are archived. Begin at {after(max(gone))}.", field="from")


def _sum(events: tuple[EventTotal, ...], side: Side) -> Decimal:
    return sum((event.amount for event in events if event.debitcredit == side), Decimal("0.00"))

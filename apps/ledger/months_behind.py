"""Months that left the table: what still stands for them, and what is answered to those who ask for their lines.

Read where the lines are read: a replica that is behind may still have a month that the primary detached, and not have one
that came back.
"""

from collections.abc import Collection
from datetime import date, timedelta
from uuid import UUID

from apps.common.arrays import array_text
from apps.common.clock import business_date, time_of_uuid7
from apps.common.errors import DomainError
from apps.ledger.chain_lines import after
from apps.ledger.chain_models import Month
from apps.ledger.reading import alias, fetch
from apps.ledger.rules import BACKDATE_DAYS_MAX, AccountRef


class MonthArchived(DomainError):
    """The lines of this month are in the archive, and no longer at hand."""

    code = "R135"


def detached() -> frozenset[date]:
    """The first days of the months whose lines are not in the table."""
    return frozenset(Month.objects.using(alias()).filter(state=Month.State.DETACHED).values_list("month", flat=True))


def _words(month: date, path: str) -> str:
    return f"The lines of {month:%Y-%m} are archived: {path} in the archive's folder ledger_transaction."


# Day rows stay, so they tell whether the account had lines in a month.
_OF_ACCOUNT = """
SELECT m.month, m.path FROM ledger_month m
WHERE m.state = 'DETACHED' AND EXISTS (
    SELECT FROM ledger_balance b WHERE b.branch = %(branch)s AND b.account = %(account)s AND b.currency = %(currency)s
        AND b.dateref >= greatest(m.month, %(from)s)
        AND b.dateref < least(m.month + interval '1 month', %(to)s::date + interval '1 day')
)
ORDER BY m.month DESC LIMIT 1
"""


def check_period(account: AccountRef, *, date_from: date, date_to: date) -> None:
    """Raises MonthArchived when lines of this account and period are archived.

    Ask after reading: a month that was detached before is told of, and of one that was not everything was read.
    """
    branch, name, currency = account
    values = {"branch": branch, "account": name, "currency": currency, "from": date_from, "to": date_to}
    if found := fetch(_OF_ACCOUNT, values):
        month, path = found[0]
        raise MonthArchived(f"{_words(month, path)} Begin at {after(month)}.", field="from")


_OF_KEYS = """
SELECT k.tracekey, k.dateref, m.month, m.path FROM ledger_posting_key k
JOIN ledger_month m ON m.month = date_trunc('month', k.dateref)::date AND m.state = 'DETACHED'
WHERE k.tracekey = ANY(%s::uuid[]) AND k.state = 'POSTED'
"""


def archived_entries(tracekeys: Collection[UUID]) -> dict[UUID, MonthArchived]:
    """Of these tracekeys those that were posted and whose lines are archived, with what to answer."""
    if not tracekeys:
        return {}
    return {
        key: MonthArchived(f"It was posted for {day}, once and for all. {_words(month, path)}", field="tracekey")
        for key, day, month, path in fetch(_OF_KEYS, [array_text(list(tracekeys))])
    }


def refusal_of(tracekey: UUID) -> MonthArchived:
    """Why a posted entry has no lines. Raises RuntimeError when they are not archived: then they were taken out."""
    found = archived_entries([tracekey]).get(tracekey)
    if found is None:
        raise RuntimeError(f"The entry {tracekey} was posted, and its lines are gone.")
    return found


def check_line(line_id: UUID) -> None:
    """Raises MonthArchived when a line with this id, if there ever was one, may be archived: ids tell their time."""
    if line_id.version != 7:
        return
    try:
        day = business_date(time_of_uuid7(line_id))
    except ValueError:
        return  # 48 bits of milliseconds reach the year 10889, and dates 9999
    months = {(day + timedelta(days=n)).replace(day=1) for n in (-BACKDATE_DAYS_MAX, 0)}
    away = Month.objects.using(alias()).filter(state=Month.State.DETACHED, month__in=months)
    row = away.order_by("month").last()
    if row is not None:
        raise MonthArchived(f"If there was such a line, it is in the archive. {_words(row.month, row.path)}")

"""What tests of the chain and of months share: a history of two months, and damage behind everybody's back."""

from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from django.db import connection, transaction

from apps.common.clock import uuid7
from apps.ledger import chain
from apps.ledger import public as ledger
from tests.integration.ledger.conftest import ANA, ANY, BOB, CLEARING, NOW, fund, line, money, move, post

JANUARY, FEBRUARY, MARCH = date(2026, 1, 1), date(2026, 2, 1), date(2026, 3, 1)
IN_JANUARY = datetime(2026, 1, 20, 15, 0, tzinfo=UTC)
IN_FEBRUARY = datetime(2026, 2, 2, 15, 0, tzinfo=UTC)

# Keys that a test asks for again.
FIRST, TRANSFER, BACKDATED = (UUID(int=n) for n in (1, 2, 3))


def restart_numbers() -> None:
    """seq begins at 1, as in a new database."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER SEQUENCE ledger_transaction_seq RESTART")


def two_months() -> None:
    """Nine lines: 1 to 5 and 7 are of January, 6 and 8 of February, 9 is of March. 7 was posted in February."""
    restart_numbers()
    post(line(ANA, "C", 100, tracekey=FIRST, details={"name": "Zoë \u2028 \t", "rate": money("1.10")}), IN_JANUARY)
    post(move(ANA, BOB, "10.50", tracekey=TRANSFER, description="rent\n'\""), IN_JANUARY)
    with transaction.atomic():
        ledger.hold(key="rent", branch="0001", account=ANA.account, amount=money(20), now=IN_JANUARY)
        ledger.post_hold(key="rent", tracekey=uuid7(), credit=CLEARING, eventcode=ANY, description="", now=IN_JANUARY)
    post(line(BOB, "C", 7), IN_FEBRUARY)
    post(line(BOB, "C", 3, tracekey=BACKDATED, dateref=date(2026, 1, 31)), IN_FEBRUARY)
    post(line(ANA, "C", 1), IN_FEBRUARY)
    fund(ANA, 5)  # in March
    settle_constraints()


def close_until(day: date, now: datetime = NOW) -> None:
    with transaction.atomic():
        ledger.close_day(branch="0001", day=day, now=now)


def settle_constraints() -> None:
    """What waits for the commit is checked now: a table with waiting checks can't be altered in a test's transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")


def chain_all(now: datetime = NOW) -> int:
    settle_constraints()
    return chain.chain(now=now)


def damage(*statements: str) -> None:
    """As somebody who may switch triggers off."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET LOCAL session_replication_role = replica")
        for statement in statements:
            cursor.execute(statement)
        cursor.execute("SET LOCAL session_replication_role = origin")


def end_of(month: date) -> date:
    return (month + timedelta(days=31)).replace(day=1) - timedelta(days=1)

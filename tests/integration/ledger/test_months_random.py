"""Months come and go among random commands, across days, months and a leap day: no check alarms and nothing is lost."""

import random
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.db import connection, transaction

from apps.common.clock import business_date, uuid7
from apps.ledger import chain, checks, detaching, months
from apps.ledger import public as ledger
from apps.ledger.chain_models import Month
from apps.ledger.chain_proof import verify_chain
from apps.ledger.public import AccountRef
from apps.ledger.reconciliation import prove
from tests.integration.ledger.conftest import ANA, ANY, BOB, CLEARING, let_others_end, line, money, move, post

pytestmark = pytest.mark.usefixtures("committed_bank")

BEGIN = datetime(2027, 12, 27, 3, 0, tzinfo=UTC)  # 2028 has a 29th of February
FEES, FAR = AccountRef("0001", "FEES"), AccountRef("0002", "FAR")
ACCOUNTS = (ANA, BOB, CLEARING, FEES, FAR)
STEPS = 160
# Across midnights in both zones, weeks and months.
JUMPS = [timedelta(hours=3), timedelta(days=1), timedelta(days=9), timedelta(days=40), timedelta(hours=23, minutes=59)]
# How often each command is drawn.
WEIGHTS = {
    "line": 12,
    "transfer": 6,
    "held": 4,
    "roll_up": 4,
    "chain": 5,
    "archive": 5,
    "back": 1,
    "drop": 1,
    "wait": 5,
    "look": 6,
}
_TABLES = "SELECT relname FROM pg_class WHERE relname ~ '^ledger_transaction_20(27|28|29|30)[0-9]{2}$' AND relkind = 'r'"


@pytest.fixture(autouse=True)
def _no_months_afterwards(committed_bank: None) -> Iterator[None]:
    yield
    with connection.cursor() as cursor:
        cursor.execute(_TABLES)
        for (table,) in cursor.fetchall():
            cursor.execute(f"DROP TABLE {table}")
        cursor.execute("ALTER TABLE ledger_transaction_default DROP CONSTRAINT IF EXISTS ledger_transaction_online")


class World:
    """A ledger, a clock, a folder, and one command after the other."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.draw, self.folder, self.now, self.holds = random.Random(seed), folder, BEGIN, list[str]()
        with transaction.atomic():
            ledger.open_branch(branch=FAR.branch, now=self.now)
            ledger.open_account(branch=FAR.branch, account=FAR.account, min_balance=None, now=self.now)
            ledger.open_account(branch=FEES.branch, account=FEES.account, min_balance=None, deferred=True, now=self.now)

    def step(self) -> None:
        (name,) = self.draw.choices(list(WEIGHTS), list(WEIGHTS.values()))
        with suppress(ledger.InsufficientFunds):
            getattr(self, name)()

    def line(self) -> None:
        for _ in range(self.draw.randint(1, 4)):
            post(line(self.draw.choice(ACCOUNTS), "C", self.draw.randint(1, 9), dateref=self.day()), self.now)

    def transfer(self) -> None:
        one, other = self.draw.sample(ACCOUNTS, 2)
        post(move(one, other, self.draw.randint(1, 9), dateref=self.day()), self.now)

    def day(self) -> object:
        return business_date(self.now) - timedelta(days=self.draw.choice([0, 0, 0, 1, 3, 7]))

    @transaction.atomic
    def held(self) -> None:
        if self.holds and self.draw.random() < 0.5:
            to = {"credit": self.draw.choice([BOB, FEES]), "eventcode": ANY, "description": ""}
            ledger.post_hold(key=self.holds.pop(), tracekey=uuid7(), now=self.now, **to)
        else:
            key = str(uuid7())
            ledger.hold(key=key, branch=ANA.branch, account=ANA.account, amount=money(1), now=self.now)
            self.holds.append(key)

    @transaction.atomic
    def roll_up(self) -> None:
        ledger.roll_up(now=self.now)

    def chain(self) -> None:
        chain.chain(now=self.now)

    def archive(self) -> None:
        how = {"online": self.draw.choice([1, 1, 2, 3]), "steps_max": self.draw.choice([1, 2, 50])}
        detaching.archive_months(directory=self.folder, by="beat", now=self.now, **how)

    def back(self) -> None:
        if row := Month.objects.filter(state="DETACHED").order_by("-month").first():
            detaching.attach_month(row.month, directory=self.folder)
            if self.draw.random() < 0.7:
                detaching.detach_month(row.month, directory=self.folder, by="ana", now=self.now)

    def drop(self) -> None:
        if row := Month.objects.filter(state="DETACHED").order_by("month").first():
            detaching.drop_detached(row.month, directory=self.folder)

    def wait(self) -> None:
        self.now += self.draw.choice(JUMPS)
        if self.draw.random() < 0.7:
            months.open_ahead(now=self.now)

    def look(self) -> None:
        let_others_end()
        scope = self.draw.choice([{}, {}, {"account": self.draw.choice(ACCOUNTS)}, {"branch": "0001"}])
        assert checks.run_check(kind=self.draw.choice(["FULL", "INCREMENTAL"]), now=self.now, **scope).differences == []

    def prove_all(self) -> None:
        assert prove() == []
        assert verify_chain(archive=self.folder).damages == []


# With 22 and 35 a check once alarmed about lines that were posted and archived since it had last looked.
@pytest.mark.parametrize("seed", [0, 22, 35])
def test_nothing_is_lost_and_nobody_is_alarmed(seed: int, tmp_path: Path) -> None:
    world = World(seed, tmp_path)
    for _ in range(STEPS):
        world.step()
    world.prove_all()
    away = list(Month.objects.filter(state="DETACHED").order_by("-month").values_list("month", flat=True))
    assert away, "a seed that archives nothing shows nothing"
    for month in away:
        detaching.attach_month(month, directory=tmp_path)
    world.prove_all()
    world.look()

"""The processes of ``ledger.py``: each writes with one connection, and does nothing else.

    python -m benchmarks.ledger_roles <role> <arguments as JSON>

A role prepares its lines, says "ready", waits for a line on its input, writes, and says what it wrote as JSON.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

BRANCH = "0001"
EVENT = 1
ACCOUNTS = 1_000
BACK = (1, 3, 7)  # days, for three lines in ten
COPY_ROWS_AT_ONCE = 10_000
SEED_TRIES_MAX = 20  # of a line whose statement was the one to give way
_backends: list[int] = []  # the server process of this one's connection


class Line(NamedTuple):
    """What is posted, whoever posts it."""

    account: str
    amount: Decimal
    side: str
    dateref: date
    tracekey: UUID


def lines(count: int, *, seed: int, today: date, accounts: int = ACCOUNTS, hot: bool = False) -> list[Line]:
    """Lines as everybody gets them; ``hot``: every second one is for the first account."""
    draw, made = random.Random(seed), []  # a benchmark
    for _ in range(count):
        account = 0 if hot and draw.random() < 0.5 else draw.randrange(accounts)
        day = today if draw.random() < 0.7 else today - timedelta(days=draw.choice(BACK))
        amount = Decimal(draw.randint(1, 100_000)) / 100
        made.append(Line(f"{account:09d}", amount, draw.choice("DC"), day, UUID(int=draw.getrandbits(128))))
    return made


def connect() -> Any:
    """A connection of the driver's own."""
    import psycopg
    from django.conf import settings

    database = settings.DATABASES["default"]
    place = {"host": database["HOST"], "port": database["PORT"], "user": database["USER"]}
    made = psycopg.connect(**place, dbname=os.environ["BENCH_DATABASE"], autocommit=True)
    _backends.append(made.info.backend_pid)
    return made


def processor_seconds() -> tuple[float, float]:
    """What this process and its server process have taken of a core so far; the latter where Linux says it, else 0.

    Unlike lines a second, they hardly depend on who else uses the machine.
    """
    try:
        server = int(Path(f"/proc/{_backends[0]}/schedstat").read_text().split()[0]) / 1e9
    except OSError:
        server = 0.0
    return time.process_time(), server


def seed(*, count: int, seed: int, today: date) -> Callable[[], int]:
    """The seed's engine: a statement and a commit for each transaction, prepared by the driver.

    Several of its writers may deadlock; the loser's line is tried again, as its caller would.
    """
    from benchmarks.ledger_peers import SEED_ENGINE

    wanted = lines(count, seed=seed, today=today)
    cursor = connect().cursor()

    def write() -> int:
        for line in wanted:
            values = (BRANCH, line.account, line.amount, line.side, EVENT, "bench", line.tracekey, None, line.dateref)
            for attempt in range(SEED_TRIES_MAX):
                try:
                    cursor.execute(SEED_ENGINE, values).fetchone()
                    break
                except psycopg.errors.DeadlockDetected:
                    if attempt + 1 == SEED_TRIES_MAX:
                        raise
        return count

    return write


def copy(*, count: int, seed: int, today: date) -> Callable[[], int]:
    """COPY of the same rows: the limit."""
    from apps.common.clock import uuid7_run
    from benchmarks.ledger_peers import COPY

    now = datetime.now(UTC).isoformat()
    texts = []
    for row_id, line in zip(uuid7_run(count), lines(count, seed=seed, today=today), strict=True):
        row = (row_id.hex, BRANCH, line.account, "BRL", line.amount, line.side, EVENT, "bench", line.tracekey.hex, "\\N")
        sums = (line.dateref, "f", line.amount, "0.00", line.amount, line.amount, "f", now)
        texts.append("\t".join(map(str, (*row, *sums))) + "\n")
    blocks = ["".join(texts[start : start + COPY_ROWS_AT_ONCE]) for start in range(0, count, COPY_ROWS_AT_ONCE)]
    cursor = connect().cursor()

    def write() -> int:
        for block in blocks:
            with cursor.copy(COPY) as into:
                into.write(block)
        return count

    return write


def ours(*, count: int, seed: int, today: date, batch: int, apart: bool = False) -> Callable[[], int]:
    """This ledger: a stream of batches. A batch of one is a single line, a commit of its own.

    ``apart``: each batch, or line, by a call of its own, before which nobody knew of it.
    """
    from django.db import transaction

    from apps.ledger import plain_batch  # noqa: F401  # numpy: a process loads it with its first large batch, once
    from apps.ledger import public as ledger

    now = datetime.now(UTC)
    entries = [
        ledger.Entry.line(
            tracekey=line.tracekey,
            account=ledger.AccountRef(BRANCH, line.account),
            amount=line.amount,
            debitcredit="D" if line.side == "D" else "C",
            eventcode=EVENT,
            description="bench",
            dateref=line.dateref,
        )
        for line in lines(count, seed=seed, today=today)
    ]

    def one_batch(some: list[ledger.Entry]) -> list[ledger.EntryResult]:
        with transaction.atomic(durable=True):
            return ledger.post_batch(some, now=now)

    def write() -> int:
        if batch == 1 and apart:
            for entry in entries:
                ledger.post_alone(entry, now=now)
            return count
        batches = (entries[start : start + batch] for start in range(0, count, batch))
        posted = 0
        for results in map(one_batch, batches) if apart else ledger.post_batches(batches, clock=lambda: now):
            posted += sum(result.posting is not None for result in results)
        assert posted == count  # nobody is refused here
        return posted

    return write


def hot(*, count: int, seed: int, today: date, deferred: bool) -> Callable[[], int]:
    """Ten accounts, of which one is in every posting; every second command is a hold, then post or void."""
    from django.db import transaction

    from apps.common.clock import uuid7
    from apps.ledger import public as ledger

    draw, now = random.Random(seed), datetime.now(UTC)  # a benchmark
    central = ledger.AccountRef(BRANCH, "hot-deferred" if deferred else "hot")
    amount = Decimal("1.00")

    def hold(debit: Any) -> None:
        key, tracekey = str(uuid7()), uuid7()
        with transaction.atomic(durable=True):
            ledger.hold(key=key, branch=BRANCH, account=debit.account, amount=amount, now=now)
        with transaction.atomic(durable=True):
            if draw.random() < 0.5:
                ledger.void_hold(key=key, now=now)
            else:
                ledger.post_hold(key=key, tracekey=tracekey, credit=central, eventcode=EVENT, description="", now=now)

    def transfer(debit: Any) -> None:
        entry = ledger.Entry.transfer(tracekey=uuid7(), debit=debit, credit=central, amount=amount, eventcode=EVENT)
        with transaction.atomic(durable=True):
            ledger.post(entry, now=now)

    def write() -> int:
        for _ in range(count):
            debit = ledger.AccountRef(BRANCH, f"ten-{draw.randrange(9)}")
            (hold if draw.random() < 0.5 else transfer)(debit)
        return count

    return write


def spot(*, count: int, seed: int, today: date, deferred: bool) -> Callable[[], int]:
    """Transfers from an account of this writer's own into the one that all writers share."""
    from django.db import transaction

    from apps.common.clock import uuid7
    from apps.ledger import public as ledger

    now = datetime.now(UTC)
    own = ledger.AccountRef(BRANCH, f"{seed % ACCOUNTS:09d}")
    central = ledger.AccountRef(BRANCH, "hot-deferred" if deferred else "hot")

    def write() -> int:
        for _ in range(count):
            amount = Decimal("1.00")
            entry = ledger.Entry.transfer(tracekey=uuid7(), debit=own, credit=central, amount=amount, eventcode=EVENT)
            with transaction.atomic(durable=True):
                ledger.post(entry, now=now)
        return count

    return write


def hordak(*, count: int, seed: int, today: date) -> Callable[[], int]:
    """django-hordak: the same postings, each against one other account, because its transactions have two legs."""
    from django.db import transaction
    from hordak.models import Account
    from moneyed import Money

    accounts = {account.name: account for account in Account.objects.all()}
    wanted = [(line, Money(line.amount, "BRL")) for line in lines(count, seed=seed, today=today)]

    def write() -> int:
        for line, amount in wanted:
            pair = (accounts[line.account], accounts["other"])
            source, target = pair if line.side == "D" else pair[::-1]
            with transaction.atomic():
                source.transfer_to(target, amount, date=line.dateref, description="bench")
        return count

    return write


def main() -> None:
    """One role."""
    import django

    django.setup()
    from django.db import connection

    connection.settings_dict["NAME"] = os.environ["BENCH_DATABASE"]
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    roles: dict[str, Callable[..., Callable[[], int]]] = {
        "seed": seed,
        "copy": copy,
        "ours": ours,
        "hot": hot,
        "spot": spot,
        "hordak": hordak,
    }
    write = roles[name](**{**arguments, "today": date.fromisoformat(arguments["today"])})
    if not _backends:
        connection.ensure_connection()
        _backends.append(connection.connection.info.backend_pid)
    print("ready", flush=True)
    sys.stdin.readline()
    before = processor_seconds()
    written = write()
    client, server = (after - start for after, start in zip(processor_seconds(), before, strict=True))
    print(json.dumps({"lines": written, "client_s": client, "server_s": server}), flush=True)
    connection.close()


if __name__ == "__main__":
    main()

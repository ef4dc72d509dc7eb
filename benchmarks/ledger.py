"""This ledger against the seed's engine, a bare COPY and django-hordak, on one PostgreSQL, in one run, all durable.

    make bench-ledger        (BENCH_ROUNDS=3 BENCH_HISTORY=10000000)

1,000 accounts, three lines in ten back-dated by 1, 3 or 7 days. Every writer is a process with one connection
(ledger_roles.py), and this ledger's posts batch after batch as a stream: the next one is made ready while the server works
on the one before. A batch of one is a single line, a statement and a durable commit of its own, and the next one is sent
while the server works on it. ``…_apart`` are batches and lines of which nobody knew before, each a call of its own, as
the seed's engine posts. Ratios, each the median of the rounds' own:
``vs_seed_engine_batch1000`` and ``_batch1``: lines a second by the seed's engine's on one connection;
``of_copy_batch10000``: by COPY's of the same rows into the same table; ``writers4_vs_1``: four writers of batches of 1,000
by one that writes as many lines, two pairs a round; ``vs_hordak``: batches of 1,000 by django-hordak.
``batch_with_history``: time of a batch of 1,000 behind BENCH_HISTORY lines by its time behind none. Figures: lines a second
of each, the processor's time that a line takes (which says more on a busy machine), and how many day balances were wrong at
the end, proved from the lines. ``hot8``: see ledger_hot.py.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import ledger_peers, server

if TYPE_CHECKING:
    from benchmarks.processes import Role

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ.setdefault("EMBEDDED_POSTGRES_DIR", "postgres-bench")
os.environ["CELERY_BROKER_URL"] = "memory://"

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
HISTORY = int(os.environ.get("BENCH_HISTORY", "10000000"))
DATABASE, HORDAK_DATABASE = "bench_ledger", "bench_hordak"
BEGIN_DATABASE = "bench_ledger_begin"  # what each round begins with: the accounts, and a few days of each
PRESENT_DATABASE, HISTORY_DATABASE = "bench_ledger_no_history", "bench_ledger_history"
SEED_LINES = 4_000
STREAM_LINES = 80_000  # of a writer of four: the beginning, when all want the same at once, is a small part of it
HORDAK_LINES = 300
COPY_LINES = 50_000
BATCHES = {1: 4_000, 10: 4_000, 100: 10_000, 1_000: 40_000, 10_000: 100_000}  # of so many lines, so many in all
HOT_COMMANDS = 400
WRITERS = 4
HISTORY_ROUNDS = 5
HISTORY_DAYS = 720


def _writer(role: str, *, database: str = DATABASE, settings: str = "config.settings", **given: Any) -> "Role":
    """A process of ledger_roles.py."""
    from benchmarks.processes import Role

    environment = {"BENCH_DATABASE": database, "DJANGO_SETTINGS_MODULE": settings}
    return Role("ledger_roles", role, environment=environment, **given)


class Bench:
    """The rounds, and what they measured."""

    def __init__(self) -> None:
        self.rates: dict[str, list[float]] = {}
        self._processor: dict[str, list[tuple[float, float]]] = {}
        self._seed = int(time.time())

    def measure(self, key: str, role: str, *, writers: int = 1, **arguments: Any) -> None:
        """Lines a second of so many writers, from their start to the last one's end."""
        today = _today()
        made = []
        for _ in range(writers):
            self._seed += 1
            made.append(_writer(role, seed=self._seed, today=today, **arguments))
        began = time.perf_counter()
        for one in made:
            one.go()
        done = [one.done() for one in made]
        written = sum(one["lines"] for one in done)
        rate = written / (time.perf_counter() - began)
        for one in made:
            one.end()
        self.rates.setdefault(key, []).append(rate)
        client, server = (sum(one[name] for one in done) / written * 1e6 for name in ("client_s", "server_s"))
        self._processor.setdefault(key, []).append((client, server))
        print(f"  {key}: {rate:,.0f} a second; processor {client:.1f} + {server:.1f} us a line", flush=True)

    def forget(self) -> None:
        """Drop what was measured so far."""
        self.rates.clear()
        self._processor.clear()

    def processor_us(self) -> dict[str, dict[str, float]]:
        """Microseconds of a core that a line takes, of the client and of its server process; the middle values."""
        from benchmarks.harness import median

        return {
            key: {
                name: round(median(values), 1)
                for name, values in zip(("client", "server"), zip(*found, strict=True), strict=True)
            }
            for key, found in self._processor.items()
        }

    def median(self, key: str) -> float:
        """The middle rate."""
        from benchmarks.harness import median

        return median(self.rates[key])

    def ratio(self, above: str, below: str) -> float:
        """The middle one of the ratios in turn: both sides of each were measured within the same minute."""
        from benchmarks.harness import median

        return median([a / b for a, b in zip(self.rates[above], self.rates[below], strict=True)])


def _today() -> date:
    from apps.common.clock import business_date

    return business_date(datetime.now(UTC))


def create(name: str, *, template: str = "template1") -> None:
    """A new database, and this process's connection to it. One of this name is dropped before."""
    from django.db import connection

    server.use("postgres")
    with connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    server.use(name)


def build(name: str, *, accounts: int) -> None:
    """A new database with the ledger's tables and open accounts."""
    from django.core.management import call_command
    from django.db import transaction

    from apps.ledger import public as ledger

    create(name)
    call_command("migrate", verbosity=0, interactive=False)
    now = datetime.now(UTC)
    with transaction.atomic():
        ledger.open_branch(branch="0001", now=now)
        ledger.ensure_event(code=1, description="Bench", now=now)
        names = [f"{n:09d}" for n in range(accounts)] + [f"ten-{n}" for n in range(9)]
        for account in names:
            ledger.open_account(branch="0001", account=account, min_balance=Decimal("-9999999999"), now=now)
        ledger.open_account(branch="0001", account="hot", min_balance=None, now=now)
        ledger.open_account(branch="0001", account="hot-deferred", min_balance=None, deferred=True, now=now)
        for n in range(9):
            account_ref = ledger.AccountRef("0001", f"ten-{n}")
            entry = ledger.Entry.line(
                tracekey=__import__("uuid").uuid4(),
                account=account_ref,
                amount=Decimal("1000000.00"),
                debitcredit="C",
                eventcode=1,
            )
            ledger.post(entry, now=now)


def build_hordak() -> None:
    """django-hordak's own database, with the same accounts."""
    from django.db import connection

    place = {key: str(connection.settings_dict[key]) for key in ("HOST", "PORT", "USER")}
    os.environ["BENCH_SERVER"] = json.dumps({**place, "NAME": HORDAK_DATABASE})
    create(HORDAK_DATABASE)
    script = (
        "import django; django.setup()\n"
        "from django.core.management import call_command; call_command('migrate', verbosity=0)\n"
        "from hordak.models import Account\n"
        "for name in [f'{n:09d}' for n in range(1000)] + ['other']:\n"
        "    Account.objects.create(name=name, type='LI', currencies=['BRL'])\n"
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "benchmarks.ledger_hordak_settings"}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=True)


@contextmanager
def no_checkpoint() -> Iterator[None]:
    """After a checkpoint the first change of every page is written in full, by whoever has his turn just then."""
    from django.db import connection

    settings = {"checkpoint_timeout": "1h", "max_wal_size": "16GB"}
    try:
        with connection.cursor() as cursor:
            for name, value in settings.items():
                cursor.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            cursor.execute("SELECT pg_reload_conf()")
            cursor.execute("CHECKPOINT")
        yield
    finally:
        with connection.cursor() as cursor:
            for name in settings:
                cursor.execute(f"ALTER SYSTEM RESET {name}")
            cursor.execute("SELECT pg_reload_conf()")


def prepare(bench: Bench) -> None:
    """What each round begins with: the tables of all, open accounts, and a few days of each by a first run of everybody."""
    from django.db import connection

    build(BEGIN_DATABASE, accounts=1_000)
    with connection.cursor() as cursor:
        cursor.execute(ledger_peers.SEED_TABLES)
        cursor.execute(ledger_peers.COPY_TABLE)
    print("before the rounds", flush=True)
    bench.measure("seed_1", "seed", database=BEGIN_DATABASE, count=SEED_LINES)
    bench.measure("ours_1000", "ours", database=BEGIN_DATABASE, count=BATCHES[1_000], batch=1_000)
    bench.measure("copy", "copy", database=BEGIN_DATABASE, count=COPY_LINES)
    bench.forget()
    build_hordak()


def run_rounds(bench: Bench) -> dict[str, int]:
    """Everything in turn, so that a slow minute of the machine is everybody's, and each part of it from the same beginning.

    Gives how many day balances were wrong behind the parts, by whose they are.
    """
    found = {"seed": 0, "ours": 0}
    for number in range(1, ROUNDS + 1):
        print(f"round {number} of {ROUNDS}", flush=True)
        for part in (run_round, one_writer, four_writers, four_writers, one_writer):
            create(DATABASE, template=BEGIN_DATABASE)
            with no_checkpoint():
                part(bench)
            if part is run_round:
                roll_up(bench)
            found["seed"] += wrong(ledger_peers.SEED_WRONG)
            found["ours"] += wrong(ledger_peers.OURS_WRONG)
    return found


def one_writer(bench: Bench) -> None:
    """As many lines as the four write, from the same beginning: a larger ledger is a slower one."""
    bench.measure("ours_1000_writer1", "ours", count=WRITERS * STREAM_LINES, batch=1_000)


def four_writers(bench: Bench) -> None:
    """The same lines' worth by four, before or behind it."""
    bench.measure("ours_1000_writers4", "ours", writers=WRITERS, count=STREAM_LINES, batch=1_000)


def run_round(bench: Bench) -> None:
    """All others once."""
    from benchmarks import ledger_hot

    bench.measure("seed_1", "seed", count=SEED_LINES)
    bench.measure("ours_1", "ours", count=BATCHES[1], batch=1)
    bench.measure("ours_1000", "ours", count=BATCHES[1_000], batch=1_000)
    bench.measure("copy", "copy", count=COPY_LINES)
    bench.measure("ours_10000", "ours", count=BATCHES[10_000], batch=10_000)
    for batch in (1, 1_000, 10_000):
        bench.measure(f"ours_{batch}_apart", "ours", count=BATCHES[batch], batch=batch, apart=True)
    bench.measure("seed_4", "seed", writers=WRITERS, count=SEED_LINES)
    for batch in (10, 100):
        bench.measure(f"ours_{batch}", "ours", count=BATCHES[batch], batch=batch)
    for batch in (1, 10, 100, 10_000):
        bench.measure(f"ours_{batch}_writers4", "ours", writers=WRITERS, count=BATCHES[batch], batch=batch)
    hordak: dict[str, Any] = {"database": HORDAK_DATABASE, "settings": "benchmarks.ledger_hordak_settings"}
    bench.measure("hordak", "hordak", count=HORDAK_LINES, **hordak)
    for deferred in (False, True):
        name = "hot_deferred" if deferred else "hot"
        bench.measure(name, "hot", writers=WRITERS, count=HOT_COMMANDS, deferred=deferred)
    ledger_hot.measure(bench)
    # Behind some 750,000 lines of ours, and 24,000 of the seed's.
    bench.measure("seed_1_later", "seed", count=SEED_LINES)
    bench.measure("ours_1000_later", "ours", count=BATCHES[1_000], batch=1_000)


def wrong(sql: str) -> int:
    """How many day balances do not follow from the lines."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(sql)
        return int(cursor.fetchone()[0])


def roll_up(bench: Bench) -> None:
    """Lines a second of the roll-up of what the hot load left."""
    from django.db import transaction

    from apps.ledger import public as ledger

    began, count = time.perf_counter(), 0
    while True:
        with transaction.atomic(durable=True):
            rolled = ledger.roll_up(now=datetime.now(UTC))
        if not rolled:
            break
        count += rolled
    bench.rates.setdefault("roll_up", []).append(count / (time.perf_counter() - began))


def history(bench: Bench) -> None:
    """Batches of 1,000 behind no history and behind HISTORY lines of two years, in turn."""
    from django.db import connection

    from apps.ledger import months

    build(PRESENT_DATABASE, accounts=1_000)
    build(HISTORY_DATABASE, accounts=1_000)
    first, each = _today() - timedelta(days=HISTORY_DAYS + 10), HISTORY // HISTORY_DAYS // 1_000
    day = first.replace(day=1)
    while day < _today():
        months.TRANSACTIONS.quietly(months.TRANSACTIONS.open, day)
        day = (day + timedelta(days=31)).replace(day=1)
    with connection.cursor() as cursor:
        cursor.execute(ledger_peers.HISTORY_BEGIN)
        for n in range(HISTORY_DAYS):
            values: dict[str, Any] = {
                "day": first + timedelta(days=n),
                "first": n * each * 1_000,
                "each": each,
                "sum": each * (n + 1),
            }
            cursor.execute(ledger_peers.HISTORY_DAY, values)
            if n % 90 == 0:
                print(f"  {each * 1_000 * n:,} lines of history", flush=True)
        cursor.execute(ledger_peers.HISTORY_END, {"total": each * HISTORY_DAYS})
        cursor.execute("VACUUM ANALYZE ledger_balance, ledger_account, ledger_transaction, ledger_posting_key")
        cursor.execute("CHECKPOINT")
    for number in range(HISTORY_ROUNDS + 1):
        for name in (PRESENT_DATABASE, HISTORY_DATABASE):
            key = f"ours_1000_{name}" if number else f"warm_{name}"
            bench.measure(key, "ours", database=name, count=BATCHES[1_000], batch=1_000)


def main() -> None:
    """Run it all; the last line is JSON."""
    import django

    django.setup()
    from django.db import connection

    from benchmarks import ledger_hot
    from benchmarks.harness import load, report

    server.give_memory()
    with connection.cursor() as cursor:
        about = {}
        for name in ("server_version", "synchronous_commit", "shared_buffers"):
            cursor.execute(f"SHOW {name}")
            about[name] = cursor.fetchone()[0]
    bench = Bench()
    prepare(bench)
    found = run_rounds(bench)
    figures: dict[str, Any] = {f"per_s_{key}": round(bench.median(key)) for key in bench.rates}
    figures |= {
        "wrong_balances_seed": found["seed"],
        "wrong_balances_ours": found["ours"],
        "synchronous_commit": about["synchronous_commit"],
        "shared_buffers": about["shared_buffers"],
        "history_lines": HISTORY,
        "vs_seed_engine_batch1000_later": round(bench.ratio("ours_1000_later", "seed_1_later"), 2),
    } | ledger_hot.figures(bench)
    ratios = {
        "vs_seed_engine_batch1000": bench.ratio("ours_1000", "seed_1"),
        "vs_seed_engine_batch1": bench.ratio("ours_1", "seed_1"),
        "of_copy_batch10000": bench.ratio("ours_10000", "copy"),
        "writers4_vs_1": bench.ratio("ours_1000_writers4", "ours_1000_writer1"),
        "vs_hordak": bench.ratio("ours_1000", "hordak"),
    } | ledger_hot.ratios(bench)
    if HISTORY:
        history(bench)
        without, behind = f"ours_1000_{PRESENT_DATABASE}", f"ours_1000_{HISTORY_DATABASE}"
        figures |= {
            "batch1000_ms_no_history": round(1_000_000 / bench.median(without), 1),
            "batch1000_ms_history": round(1_000_000 / bench.median(behind), 1),
            "wrong_balances_history": wrong(ledger_peers.OURS_WRONG),
        }
        ratios["batch_with_history"] = bench.ratio(without, behind)
    figures |= {"processor_us_a_line": bench.processor_us(), "load": load()}
    report("ledger", ratios=ratios, figures=figures, postgresql=about["server_version"])


if __name__ == "__main__":
    main()

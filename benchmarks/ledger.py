"""This ledger against the seed's engine, a bare COPY and django-hordak, on one PostgreSQL, in one run, all durable.

    make bench-ledger        (BENCH_ROUNDS=3 BENCH_HISTORY=10000000)

1,000 accounts, three lines in ten back-dated by 1, 3 or 7 days. Every writer is a process with one connection
(ledger_roles.py). Ratios, each the median of the rounds' own: ``vs_seed_engine_batch1000`` and ``_batch1``: lines a second
by the seed's engine's on one connection; ``of_copy_batch10000``: by COPY's of the same rows into the same table;
``writers4_vs_1``: four writers of batches of 1,000 by one; ``vs_hordak``: batches of 1,000 by django-hordak.
``batch_with_history``: time of a batch behind BENCH_HISTORY lines by its time behind none. Figures: lines a second of each,
and how many day balances were wrong at the end, proved from the lines. ``hot8``: see ledger_hot.py.
"""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ.setdefault("EMBEDDED_POSTGRES_DIR", "postgres-bench")
os.environ["CELERY_BROKER_URL"] = "memory://"

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
HISTORY = int(os.environ.get("BENCH_HISTORY", "10000000"))
DATABASE, HORDAK_DATABASE, HISTORY_DATABASE = "bench_ledger", "bench_hordak", "bench_ledger_history"
SEED_LINES = 2_000
HORDAK_LINES = 300
COPY_LINES = 50_000
BATCHES = {1: 1_500, 10: 4_000, 100: 10_000, 1_000: 20_000, 10_000: 50_000}  # of so many lines, so many in all
HOT_COMMANDS = 400
WRITERS = 4
HISTORY_BATCHES = 20
HISTORY_DAYS = 720


class Role:
    """A process of ledger_roles.py."""

    def __init__(self, name: str, *, database: str = DATABASE, settings: str = "config.settings", **arguments: Any) -> None:
        environment = {**os.environ, "BENCH_DATABASE": database, "DJANGO_SETTINGS_MODULE": settings}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.ledger_roles", name, json.dumps(arguments, default=str)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._until("ready")

    def _until(self, wanted: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(wanted):
                return line
        raise SystemExit(f"a process of the benchmark ended with {self._process.wait()}")

    def go(self) -> None:
        """Let it work."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def lines(self) -> int:
        """How many it wrote, when it is done."""
        found: dict[str, int] = json.loads(self._until("{"))
        return found["lines"]

    def end(self) -> None:
        """Wait until the process is gone."""
        self._process.communicate()


class Bench:
    """The rounds, and what they measured."""

    def __init__(self) -> None:
        self.rates: dict[str, list[float]] = {}
        self._seed = int(time.time())

    def measure(self, key: str, role: str, *, writers: int = 1, **arguments: Any) -> None:
        """Lines a second of so many writers, from their start to the last one's end."""
        today = _today()
        made = []
        for _ in range(writers):
            self._seed += 1
            made.append(Role(role, seed=self._seed, today=today, **arguments))
        began = time.perf_counter()
        for one in made:
            one.go()
        written = sum(one.lines() for one in made)
        rate = written / (time.perf_counter() - began)
        for one in made:
            one.end()
        self.rates.setdefault(key, []).append(rate)
        print(f"  {key}: {rate:,.0f} a second", flush=True)

    def median(self, key: str) -> float:
        """The middle rate."""
        from benchmarks.harness import median

        return median(self.rates[key])

    def ratio(self, above: str, below: str) -> float:
        """The middle one of the rounds' ratios: both sides of each were measured within the same minute."""
        from benchmarks.harness import median

        return median([a / b for a, b in zip(self.rates[above], self.rates[below], strict=True)])


def _today() -> date:
    from apps.common.clock import business_date

    return business_date(datetime.now(UTC))


def _use(name: str) -> None:
    from django.db import connection

    ours: Any = connection  # django-stubs does not know that PostgreSQL's has a pool
    ours.close()
    if ours.pool is not None:
        ours.close_pool()
    ours.settings_dict["NAME"] = name


def build(name: str, *, accounts: int) -> None:
    """A new database with the ledger's tables and open accounts."""
    from django.core.management import call_command
    from django.db import connection, transaction

    from apps.ledger import public as ledger

    _use("postgres")
    with connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        cursor.execute(f"CREATE DATABASE {name}")
    _use(name)
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
    _use("postgres")
    with connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {HORDAK_DATABASE} WITH (FORCE)")
        cursor.execute(f"CREATE DATABASE {HORDAK_DATABASE}")
    script = (
        "import django; django.setup()\n"
        "from django.core.management import call_command; call_command('migrate', verbosity=0)\n"
        "from hordak.models import Account\n"
        "for name in [f'{n:09d}' for n in range(1000)] + ['other']:\n"
        "    Account.objects.create(name=name, type='LI', currencies=['BRL'])\n"
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "benchmarks.ledger_hordak_settings"}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=True)


def run_rounds(bench: Bench) -> None:
    """Everything in turn, so that a slow minute of the machine is everybody's."""
    from benchmarks import ledger_hot

    for number in range(ROUNDS):
        print(f"round {number + 1} of {ROUNDS}", flush=True)
        bench.measure("seed_1", "seed", count=SEED_LINES)
        bench.measure("ours_1", "ours", count=BATCHES[1], batch=1)
        bench.measure("ours_1000", "ours", count=BATCHES[1_000], batch=1_000)
        bench.measure("ours_1000_writers4", "ours", writers=WRITERS, count=BATCHES[1_000], batch=1_000)
        bench.measure("copy", "copy", count=COPY_LINES)
        bench.measure("ours_10000", "ours", count=BATCHES[10_000], batch=10_000)
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


def wrong(sql: str) -> int:
    """How many day balances do not follow from the lines."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(sql)
        return int(cursor.fetchone()[0])


def roll_up() -> float:
    """Lines a second of the roll-up of what the hot load left."""
    from django.db import transaction

    from apps.ledger import public as ledger

    began, count = time.perf_counter(), 0
    while True:
        with transaction.atomic(durable=True):
            rolled = ledger.roll_up(now=datetime.now(UTC))
        if not rolled:
            return count / (time.perf_counter() - began)
        count += rolled


_HISTORY = """
INSERT INTO ledger_transaction (id, branch, account, currency, amount, debitcredit, eventcode, description, tracekey,
    dateref, createdat, balanced, balanceafter, pendingafter, dayafter, daynet)
SELECT gen_random_uuid(), '0001', lpad((n %% 1000)::text, 9, '0'), 'BRL', 1, 'C', 1, 'history', gen_random_uuid(),
    %(day)s, %(day)s, false, 0, 0, 0, 0
FROM generate_series(1, %(count)s) n
"""
_HISTORY_KEYS = """
INSERT INTO ledger_posting_key (tracekey, bodyhash, state, dateref, createdat)
SELECT tracekey, '', 'POSTED', dateref, createdat FROM ledger_transaction WHERE dateref = %(day)s
"""
_HISTORY_DAYS = """
INSERT INTO ledger_balance (id, branch, account, currency, dateref, totaldebit, totalcredit, accumulateddebit,
    accumulatedcredit, createdtracekey, updatedtracekey, createdat, updatedat)
SELECT gen_random_uuid(), '0001', lpad(n::text, 9, '0'), 'BRL', %(day)s, 0, %(each)s, 0, %(sum)s, gen_random_uuid(),
    gen_random_uuid(), %(day)s, %(day)s FROM generate_series(0, 999) n
"""


def _batch_ms() -> float:
    """Milliseconds of a batch of 1,000, the middle one of HISTORY_BATCHES."""
    from django.db import transaction

    from apps.ledger import public as ledger
    from benchmarks.harness import median, timed
    from benchmarks.ledger_roles import lines

    now, today, times = datetime.now(UTC), _today(), []
    for n in range(HISTORY_BATCHES):
        entries = [
            ledger.Entry.line(
                tracekey=line.tracekey,
                account=ledger.AccountRef("0001", line.account),
                amount=line.amount,
                debitcredit="D" if line.side == "D" else "C",
                eventcode=1,
                dateref=line.dateref,
            )
            for line in lines(1_000, seed=time.time_ns() + n, today=today)
        ]

        def post(entries: list[ledger.Entry] = entries) -> None:
            with transaction.atomic(durable=True):
                ledger.post_batch(entries, now=now)

        times.append(timed(post) * 1000)
    return median(times[2:])


def history() -> tuple[float, float]:
    """Milliseconds of a batch behind no history, and behind HISTORY lines of two years."""
    from django.db import connection

    from apps.ledger import months

    build(HISTORY_DATABASE, accounts=1_000)
    without = _batch_ms()
    first = _today() - timedelta(days=HISTORY_DAYS + 10)
    day = first
    while day < _today():
        months.TRANSACTIONS.quietly(months.TRANSACTIONS.open, day.replace(day=1))
        day = (day.replace(day=1) + timedelta(days=31)).replace(day=1)
    count = HISTORY // HISTORY_DAYS // 1_000 * 1_000
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        for n in range(HISTORY_DAYS):
            each = count // 1_000
            values: dict[str, Any] = {"day": first + timedelta(days=n), "count": count, "each": each, "sum": each * (n + 1)}
            for sql in (_HISTORY, _HISTORY_KEYS, _HISTORY_DAYS):
                cursor.execute(sql, values)
            if n % 90 == 0:
                print(f"  {count * n:,} lines of history", flush=True)
        total = count // 1_000 * HISTORY_DAYS
        cursor.execute("UPDATE ledger_account SET postedcredit = postedcredit + %s WHERE account ~ '^0'", [total])
        sql = "UPDATE ledger_balance SET accumulatedcredit = accumulatedcredit + %s WHERE dateref > %s"
        cursor.execute(sql, [total, _today() - timedelta(days=10)])
        cursor.execute("RESET synchronous_commit")
        cursor.execute("VACUUM ANALYZE ledger_balance")
        cursor.execute("ANALYZE")
        cursor.execute("CHECKPOINT")
    return without, _batch_ms()


def main() -> None:
    """Run it all; the last line is JSON."""
    import django

    django.setup()
    from django.db import connection

    from benchmarks import ledger_hot, ledger_peers
    from benchmarks.harness import report

    build(DATABASE, accounts=1_000)
    with connection.cursor() as cursor:
        cursor.execute(ledger_peers.SEED_TABLES)
        cursor.execute(ledger_peers.COPY_TABLE)
        cursor.execute("SHOW synchronous_commit")
        synchronous = cursor.fetchone()[0]
        cursor.execute("SHOW server_version")
        version = cursor.fetchone()[0]
    build_hordak()
    _use(DATABASE)
    bench = Bench()
    run_rounds(bench)
    rolled = roll_up()
    figures: dict[str, Any] = {f"per_s_{key}": round(bench.median(key)) for key in bench.rates}
    figures |= {
        "wrong_balances_seed": wrong(ledger_peers.SEED_WRONG),
        "wrong_balances_ours": wrong(ledger_peers.OURS_WRONG),
        "per_s_roll_up": round(rolled),
        "synchronous_commit": synchronous,
        "history_lines": HISTORY,
    } | ledger_hot.figures()
    ratios = {
        "vs_seed_engine_batch1000": bench.ratio("ours_1000", "seed_1"),
        "vs_seed_engine_batch1": bench.ratio("ours_1", "seed_1"),
        "of_copy_batch10000": bench.ratio("ours_10000", "copy"),
        "writers4_vs_1": bench.ratio("ours_1000_writers4", "ours_1000"),
        "vs_hordak": bench.ratio("ours_1000", "hordak"),
    } | ledger_hot.ratios(bench)
    if HISTORY:
        without, behind = history()
        figures |= {"batch1000_ms_no_history": round(without, 1), "batch1000_ms_history": round(behind, 1)}
        ratios["batch_with_history"] = behind / without
    report("ledger", ratios=ratios, figures=figures, postgresql=version)


if __name__ == "__main__":
    main()

"""One sale of five local steps, run by our engine, by DBOS Transact, and as bare writes of the same rows.

    make bench-saga

Every side is a process of its own, on one PostgreSQL server, durable (fsync, synchronous_commit), in alternating rounds;
the medians of the rounds' ratios are reported. Variants, each with runs a second, p50, p99, statements and commits a run:
``inline`` (start() does it all in the caller's commit; one thread, and 8), ``workers`` (start() commits, a Celery worker
on Redis does the steps), ``dbos`` (workflow called directly; one thread, and 8), ``dbos_queued`` (enqueued, executors take
it), ``limit`` (psycopg pipelines the rows that one inline run leaves; one thread, and 8).
p50 and p99 of the queued ones are from start to last business row, at PACED_RATE a second: in a flood they would only
tell how long the queue is.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ.setdefault("EMBEDDED_POSTGRES_DIR", "postgres-bench")
os.environ["MESSAGING_TRANSPORT"] = "local"  # nothing is relayed here

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "4"))  # of each measurement with a rate
THREADS = 8
# Runs of a flood: enough for seconds of work, and fewer for DBOS, whose rate is lower.
FLOOD, FLOOD_DBOS = 1_000, 300
PACED, PACED_RATE = 120, 20.0
QUEUE_S_MAX = 120
COUNTED = (50, 150)  # runs of two counting passes: their difference is free of what starting a process costs
DBOS_DATABASE = "bench_dbos"
DBOS_PYTHON = os.environ.get("BENCH_DBOS_PYTHON", str(ROOT / ".venv/bench/bin/python"))
# DBOS's queue at the best of twelve settings that were tried: 1, 2 and 4 executors; polling every second (its default), and
# every tenth of one; 8, 50 and any number of runs at once in an executor. Its defaults reach about half of this rate.
DBOS_EXECUTORS = int(os.environ.get("BENCH_DBOS_EXECUTORS", "2"))
DBOS_POLLING_S = float(os.environ.get("BENCH_DBOS_POLLING_S", "0.1"))
DBOS_CONCURRENCY = int(os.environ.get("BENCH_DBOS_CONCURRENCY", "8"))  # of one executor; 0: no limit
WORKER_PROCESSES = os.cpu_count() or 4  # Celery's own default

Measured = dict[str, Any]


class World:
    """Where everything is."""

    def __init__(self, folder: str) -> None:
        from benchmarks import saga_world

        self.rows = str(Path(folder) / "rows.json")
        self.dsn = saga_world.dsn()
        self.database = saga_world.database_name()
        self.url = _url(DBOS_DATABASE)


def _url(name: str) -> str:
    from django.conf import settings

    database = settings.DATABASES["default"]
    login = f"{quote(database['USER'])}:{quote(database.get('PASSWORD') or '')}"
    return f"postgresql://{login}@/{name}?host={database['HOST']}&port={database['PORT'] or 5432}"


# --- One measurement each ---------------------------------------------------------------------------------------------
def inline(world: World, **given: Any) -> Measured:
    """Our engine, in the caller's process."""
    return _timed("saga_roles", "inline", **given)


def dbos(world: World, **given: Any) -> Measured:
    """DBOS, a direct call."""
    return _timed("saga_dbos", "inline", python=DBOS_PYTHON, url=world.url, **given)


def limit(world: World, **given: Any) -> Measured:
    """The same rows, bare."""
    return _timed("saga_limit", "limit", path=world.rows, dsn=world.dsn, **given)


def _timed(module: str, role: str, *, threads: int = 1, seconds: float = SECONDS, **given: Any) -> Measured:
    from benchmarks.saga_processes import Role

    return Role(module, role, threads=threads, seconds=seconds, **given).go().result()


def workers(world: World, *, runs: int = FLOOD, rate: float = 0, wire: str = "") -> Measured:
    """Our engine through a Celery worker and beat as production has them."""
    from benchmarks.saga_processes import Background, Role

    celery = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "config"]
    # Without a pool, as settings.py advises a prefork worker: with one, Celery connects anew for every task.
    environment = {"DATABASE_POOL_MAX": "0", **({"BENCH_WIRE": wire} if wire else {})}
    words = ["worker", "-Q", "saga", "-c", str(WORKER_PROCESSES), "-I", "benchmarks.saga_world"]
    _empty_queues()
    worker = Background([*celery, *words], ready="ready", **environment)
    beat = Background([*celery, "beat"])
    try:
        given = {"wire": wire} if wire else {}
        role = Role("saga_roles", "queued", runs=runs, rate_per_s=rate, seconds_max=QUEUE_S_MAX, **given)
        before = worker.cpu_s() + beat.cpu_s()
        found = role.go().result()
        found["cpu_s"] += worker.cpu_s() + beat.cpu_s() - before
        return found
    finally:
        beat.stop()
        worker.stop()


def _empty_queues() -> None:
    """What an earlier round has left: wake-ups of runs that were over when their turn came."""
    from config.celery import app

    with app.connection_for_write() as connection:
        for queue in app.amqp.queues:
            connection.default_channel.queue_purge(queue)


def dbos_queued(world: World, *, runs: int = FLOOD_DBOS, rate: float = 0, wire: str = "") -> Measured:
    """DBOS's queue: one process enqueues, others execute."""
    from benchmarks.saga_processes import Role

    given: dict[str, Any] = {
        "python": DBOS_PYTHON,
        "url": world.url,
        "threads": THREADS,
        **({"wire": wire} if wire else {}),
    }
    queue = {"polling_s": DBOS_POLLING_S, "concurrency": DBOS_CONCURRENCY or None}
    executors = [
        Role("saga_dbos", "executor", executor=f"executor-{number}", **queue, **given) for number in range(DBOS_EXECUTORS)
    ]
    role = Role("saga_dbos", "queued", runs=runs, rate_per_s=rate, seconds_max=QUEUE_S_MAX, **given)
    found = role.go().result()
    for executor in executors:
        found["cpu_s"] += executor.go().result()["cpu_s"]
    return found


# --- Rounds -------------------------------------------------------------------------------------------------------------
def one_round(world: World, number: int) -> dict[str, Measured]:
    """Every variant once, ours and the others in turn."""
    from benchmarks.harness import say

    found = {}
    for name, threads in (("sequential", 1), ("threads8", THREADS)):
        for side in (inline, dbos, limit):
            found[f"{side.__name__}_{name}"] = side(world, threads=threads)
    for side in (workers, dbos_queued):
        found[side.__name__] = side(world)
    told = ", ".join(f"{name} {rate(measured):,.0f}/s" for name, measured in found.items())
    say(f"round {number}: {told}")
    return found


def rate(measured: Measured) -> float:
    """Runs a second."""
    return float(measured["runs"] / measured["seconds"])


# --- Counting -----------------------------------------------------------------------------------------------------------
def counts(world: World) -> dict[str, dict[str, float]]:
    """Statements, round trips and commits of one run, by variant."""
    passes = {
        "inline": (lambda n, wire: inline(world, runs_max=n, seconds=60, wire=wire), world.database),
        "workers": (lambda n, wire: workers(world, runs=n, wire=wire), world.database),
        "dbos": (lambda n, wire: dbos(world, runs_max=n, seconds=60, wire=wire), DBOS_DATABASE),
        "dbos_queued": (lambda n, wire: dbos_queued(world, runs=n, wire=wire), DBOS_DATABASE),
        "limit": (lambda n, wire: limit(world, runs_max=n, seconds=60, wire=wire), world.database),
    }
    found = {}
    with _no_autovacuum():  # its commits are counted like ours
        for name, (run, database) in passes.items():
            few, many = (_counted(world, run, runs, database) for runs in COUNTED)
            runs = COUNTED[1] - COUNTED[0]
            found[name] = {key: round((many[key] - few[key]) / runs, 1) for key in many}
    return found


@contextlib.contextmanager
def _no_autovacuum() -> Iterator[None]:
    import psycopg

    from benchmarks.saga_world import dsn

    with psycopg.connect(dsn("postgres"), autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET autovacuum = off")
        admin.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            admin.execute("ALTER SYSTEM RESET autovacuum")
            admin.execute("SELECT pg_reload_conf()")


def _counted(world: World, run: Any, runs: int, database: str) -> dict[str, int]:
    from benchmarks.saga_meter import statements

    with tempfile.TemporaryDirectory(prefix="bench-wire-") as folder:
        before = _commits(world, database)
        polls = run(runs, folder).get("polls", 0)  # our own question whether the flood is over
        commits = _commits(world, database) - before
        executed, trips = statements(Path(folder))
    return {"statements": executed - polls, "round_trips": trips - polls, "commits": commits - polls}


def _commits(world: World, database: str) -> int:
    """Commits of a database so far; asked from another one, so that asking is not counted."""
    import psycopg

    from benchmarks.saga_world import dsn

    time.sleep(1)  # backends that have just ended report what they did
    with psycopg.connect(dsn("postgres"), autocommit=True) as admin:
        found = admin.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = %s", [database]).fetchone()
    assert found is not None
    return int(found[0])


# --- The whole ----------------------------------------------------------------------------------------------------------
def prepare() -> None:
    """Tables on both databases, and a server that is durable."""
    import psycopg
    from django.conf import settings

    from benchmarks import saga_world
    from benchmarks.saga_meter import TABLES
    from config import embedded

    if "CELERY_BROKER_URL" not in os.environ:
        raise SystemExit("CELERY_BROKER_URL is missing: `make bench-saga` starts Redis")
    if not Path(DBOS_PYTHON).exists():
        raise SystemExit(f"{DBOS_PYTHON} is missing: `make bench-saga` makes it from requirements-bench.txt")
    saga_world.prepare()
    with psycopg.connect(saga_world.dsn("postgres"), autocommit=True) as admin:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            found = admin.execute(f"SHOW {setting}").fetchone()
            if found != ("on",):
                raise SystemExit(f"PostgreSQL has {setting} = {found}: nothing here would be durable")
        admin.execute(f"DROP DATABASE IF EXISTS {DBOS_DATABASE} WITH (FORCE)")
    embedded.ensure_database(settings.DATABASES["default"], DBOS_DATABASE)
    with psycopg.connect(saga_world.dsn(DBOS_DATABASE), autocommit=True) as database:
        database.execute(TABLES)


def written(world: World) -> dict[str, int]:
    """How many whole sales each database has."""
    import psycopg

    from benchmarks.saga_meter import STEPS
    from benchmarks.saga_world import dsn

    found = {}
    for name in (world.database, DBOS_DATABASE):
        with psycopg.connect(dsn(name)) as database:
            rows = database.execute(
                "SELECT count(*) FROM (SELECT sale_id FROM bench_sale_row GROUP BY 1 HAVING count(DISTINCT step) = %s "
                "AND count(*) = %s) whole",
                [len(STEPS), len(STEPS)],
            ).fetchone()
            assert rows is not None
            found[name] = int(rows[0])
    return found


def check_work(world: World, rounds: list[dict[str, Measured]], before: dict[str, int]) -> None:
    """Every run that was counted has left all of its rows, once."""
    after = written(world)
    for database, ours in ((world.database, True), (DBOS_DATABASE, False)):
        counted = sum(
            measured["all_runs"]
            for found in rounds
            for name, measured in found.items()
            if name.startswith("dbos") is not ours
        )
        if after[database] - before[database] != counted:
            raise SystemExit(f"{database}: {counted} runs were counted, {after[database] - before[database]} are whole")


def main() -> None:
    """Run everything and print the report."""
    import django

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the orderly way: workers are stopped
    django.setup()
    from benchmarks.harness import median, report, say
    from benchmarks.saga_processes import Role

    prepare()
    with tempfile.TemporaryDirectory(prefix="bench-saga-") as folder:
        world = World(folder)
        rows = Role("saga_roles", "capture", path=world.rows).go().result()["rows"]
        say(f"one inline run leaves {sum(rows.values())} rows: {rows}")
        per_run = counts(world)
        say(f"a run's statements, round trips and commits: {per_run}")
        before = written(world)
        rounds = [one_round(world, number) for number in range(1, ROUNDS + 1)]
        check_work(world, rounds, before)
        paced = {side.__name__: side(world, runs=PACED, rate=PACED_RATE) for side in (workers, dbos_queued)}

    def ratio(ours: str, other: str) -> float:
        return median([rate(found[ours]) / rate(found[other]) for found in rounds])

    figures: dict[str, Any] = {"rows_of_a_run": sum(rows.values()), "rounds": ROUNDS}
    for name in rounds[0]:
        waits = [paced[name]] if name in paced else [found[name] for found in rounds]
        variant = name.removesuffix("_sequential").removesuffix("_threads8")
        figures[name] = {
            "runs_per_s": round(median([rate(found[name]) for found in rounds]), 1),
            "p50_ms": round(median([found["p50_ms"] for found in waits]), 2),
            "p99_ms": round(median([found["p99_ms"] for found in waits]), 2),
            "cpu_ms": round(median([found[name]["cpu_s"] / found[name]["runs"] * 1000 for found in rounds]), 2),
            **per_run[variant],
        }
    report(
        "saga",
        ratios={
            "vs_dbos_sequential": ratio("inline_sequential", "dbos_sequential"),
            "vs_dbos_threads8": ratio("inline_threads8", "dbos_threads8"),
            "vs_dbos_queued": ratio("workers", "dbos_queued"),
            "of_limit_sequential": ratio("inline_sequential", "limit_sequential"),
            "of_limit_threads8": ratio("inline_threads8", "limit_threads8"),
        },
        figures=figures,
        queues=f"celery -c {WORKER_PROCESSES} on Redis; DBOS {DBOS_EXECUTORS} executors x {DBOS_CONCURRENCY} at once, "
        f"polling every {DBOS_POLLING_S:g} s; p50 and p99 at {PACED_RATE:g}/s",
    )


if __name__ == "__main__":
    main()

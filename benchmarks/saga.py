"""One sale of five local steps, run by our engine, by DBOS Transact, and as bare writes of the same rows.

    make bench-saga

Every side is one process of its own, with one thread or with eight, on one PostgreSQL server, durable (fsync,
synchronous_commit). The sides stay loaded and work in turn, a second each, in another order every round: what disturbs
the machine disturbs neighbours alike. The medians of the rounds' ratios are reported. Variants, each with runs a second,
p50, p99, and statements, round trips and commits a run: ``inline`` (start() does it all in the caller's commit),
``workers`` (start() commits, real Celery worker processes on Redis do the steps), ``dbos`` (workflow called directly),
``dbos_queued`` (enqueued, executor processes take it), ``limit`` (psycopg pipelines the rows that one inline run leaves).
Rates of the queued ones: a flood that is started as fast as four threads can, from the first start to the last business
row. Their p50 and p99 are from start to last business row, at PACED_RATE a second: in a flood they would only tell how
long the queue is.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from benchmarks.processes import Role

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ.setdefault("EMBEDDED_POSTGRES_DIR", "postgres-bench")
os.environ["MESSAGING_TRANSPORT"] = "local"  # nothing is relayed here

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "20"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "1"))  # of each side in each round
FLOODS = int(os.environ.get("BENCH_FLOODS", "5"))
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
    from benchmarks.processes import Role

    return Role(module, role, threads=threads, seconds=seconds, **given).go().result()


def workers(world: World, *, runs: int = FLOOD, rate: float = 0, wire: str = "") -> Measured:
    """Our engine through a Celery worker and beat as production has them."""
    from benchmarks.processes import Background, Role

    celery = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "config"]
    # Without a pool, as settings.py advises a prefork worker: with one, Celery connects anew for every task.
    environment = {"DATABASE_POOL_MAX": "0", **({"BENCH_WIRE": wire} if wire else {})}
    words = ["worker", "-Q", "saga", "-c", str(WORKER_PROCESSES), "-I", "benchmarks.saga_world"]
    _empty_queues()
    worker = Background([*celery, *words], ready="ready", **environment)
    beat = Background([*celery, "beat"])
    try:
        given: dict[str, Any] = {"wire": wire} if wire else {}
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
    from benchmarks.processes import Role

    given: dict[str, Any] = {
        "python": DBOS_PYTHON,
        "url": world.url,
        "threads": THREADS,
        **({"wire": wire} if wire else {}),
    }
    queue: dict[str, Any] = {"polling_s": DBOS_POLLING_S, "concurrency": DBOS_CONCURRENCY or None}
    executors = [
        Role("saga_dbos", "executor", executor=f"executor-{number}", **queue, **given) for number in range(DBOS_EXECUTORS)
    ]
    role = Role("saga_dbos", "queued", runs=runs, rate_per_s=rate, seconds_max=QUEUE_S_MAX, **given)
    found = role.go().result()
    for executor in executors:
        found["cpu_s"] += executor.go().result()["cpu_s"]
    return found


# --- Rounds -------------------------------------------------------------------------------------------------------------
def sides(world: World) -> "dict[str, Role]":
    """Every direct variant, loaded and warm."""
    from benchmarks.processes import Role

    found = {}
    for name, threads in (("sequential", 1), ("threads8", THREADS)):
        given: dict[str, Any] = {"threads": threads, "seconds": SECONDS}
        found[f"inline_{name}"] = Role("saga_roles", "inline", **given)
        found[f"dbos_{name}"] = Role("saga_dbos", "inline", python=DBOS_PYTHON, url=world.url, **given)
        found[f"limit_{name}"] = Role("saga_limit", "limit", path=world.rows, dsn=world.dsn, **given)
    return found


def direct_rounds(world: World) -> list[dict[str, Measured]]:
    """The direct variants in turn. Those that are compared are neighbours."""
    from benchmarks.harness import say

    loaded = sides(world)
    names, rounds = list(loaded), []
    for number in range(ROUNDS):
        order = [*names[number % 3 : 3], *names[: number % 3], *names[3 + number % 3 :], *names[3 : 3 + number % 3]]
        found = {name: loaded[name].slice() for name in order}
        say(f"round {number + 1}: " + ", ".join(f"{name} {rate(found[name]):,.0f}/s" for name in names))
        rounds.append(found)
    for role in loaded.values():
        role.end()
    return rounds


def queued_rounds(world: World) -> list[dict[str, Measured]]:
    """Floods of the queued variants, each first every other time."""
    from benchmarks.harness import say

    rounds = []
    for number in range(FLOODS):
        order = (workers, dbos_queued) if number % 2 else (dbos_queued, workers)
        found = {side.__name__: side(world) for side in order}
        say(f"flood {number + 1}: " + ", ".join(f"{name} {rate(found[name]):,.0f}/s" for name in sorted(found)))
        rounds.append(found)
    return rounds


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

    from benchmarks import saga_world, server
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
    server.leave()  # an idle connection reports its commits late, into what is counted


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


def check_work(
    world: World, direct: list[dict[str, Measured]], queued: list[dict[str, Measured]], before: dict[str, int]
) -> None:
    """Every run that was counted has left all of its rows, once."""
    after = written(world)
    for database, is_dbos in ((world.database, False), (DBOS_DATABASE, True)):
        counted = sum(
            measured["all_runs"]
            for found in (direct[-1], *queued)  # a side that stays counts on
            for name, measured in found.items()
            if name.startswith("dbos") is is_dbos
        )
        if after[database] - before[database] != counted:
            raise SystemExit(f"{database}: {counted} runs were counted, {after[database] - before[database]} are whole")


def figures_of(name: str, rounds: list[dict[str, Measured]], waits: list[float]) -> dict[str, float]:
    """What is told of a variant."""
    from benchmarks.harness import median, percentile

    return {
        "runs_per_s": round(median([rate(found[name]) for found in rounds]), 1),
        "p50_ms": round(percentile(waits, 50), 2),
        "p99_ms": round(percentile(waits, 99), 2),
        "cpu_ms": round(median([found[name]["cpu_s"] / found[name]["runs"] * 1000 for found in rounds]), 2),
    }


def main() -> None:
    """Run everything and print the report."""
    import django

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the orderly way: workers are stopped
    django.setup()
    from benchmarks.harness import load, median, report, say
    from benchmarks.processes import Role

    prepare()
    with tempfile.TemporaryDirectory(prefix="bench-saga-") as folder:
        world = World(folder)
        rows = Role("saga_roles", "capture", path=world.rows).go().result()["rows"]
        say(f"one inline run leaves {sum(rows.values())} rows: {rows}")
        per_run = counts(world)
        say(f"a run's statements, round trips and commits: {per_run}")
        before = written(world)
        direct, queued = direct_rounds(world), queued_rounds(world)
        check_work(world, direct, queued, before)
        paced = {side.__name__: side(world, runs=PACED, rate=PACED_RATE) for side in (workers, dbos_queued)}

    def ratio(rounds: list[dict[str, Measured]], ours: str, other: str) -> float:
        return median([rate(found[ours]) / rate(found[other]) for found in rounds])

    figures: dict[str, Any] = {"rows_of_a_run": sum(rows.values()), "rounds": ROUNDS, "floods": FLOODS, "load": load()}
    for name in direct[0]:
        waits = [wait for found in direct for wait in found[name]["waits_ms"]]
        figures[name] = {**figures_of(name, direct, waits), **per_run[name.split("_")[0]]}
    for name in queued[0]:
        figures[name] = {**figures_of(name, queued, paced[name]["waits_ms"]), **per_run[name]}
    report(
        "saga",
        ratios={
            "vs_dbos_sequential": ratio(direct, "inline_sequential", "dbos_sequential"),
            "vs_dbos_threads8": ratio(direct, "inline_threads8", "dbos_threads8"),
            "vs_dbos_queued": ratio(queued, "workers", "dbos_queued"),
            "of_limit_sequential": ratio(direct, "inline_sequential", "limit_sequential"),
            "of_limit_threads8": ratio(direct, "inline_threads8", "limit_threads8"),
        },
        figures=figures,
        direct=f"one process each, one thread or {THREADS}",
        queues=f"celery -c {WORKER_PROCESSES} on Redis; DBOS {DBOS_EXECUTORS} executors x {DBOS_CONCURRENCY} at once, "
        f"polling every {DBOS_POLLING_S:g} s; p50 and p99 at {PACED_RATE:g}/s",
    )


if __name__ == "__main__":
    main()

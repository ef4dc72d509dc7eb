"""Where the time of one run goes: every statement with its time and the line that asks for it, and Python's share.

    python -m benchmarks.saga_profile inline|worker|order|tail

``inline``: the sale of benchmarks/saga.py in one commit. ``worker``: what a Celery worker does for a sale that was started
without inline steps (engine.advance). ``order``: POST /orders by balance, the whole request, as benchmarks/http_orders.py
sends it. ``tail``: what is left of such an order, by engine.advance until it is over. Times are medians over RUNS runs; a
statement's time is from its way out to its answer, on libpq's own trace.
"""

import atexit
import cProfile
import os
import pstats
import re
import statistics
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ.setdefault("EMBEDDED_POSTGRES_DIR", "postgres-bench")
os.environ.setdefault("CELERY_BROKER_URL", "memory://localhost")
os.environ.setdefault("INLINE_BUDGET_MS", "5000")  # no run stops half way because the machine is busy
os.environ["DATABASE_POOL_MAX"] = "0"  # one connection, traced

ROOT = Path(__file__).resolve().parent.parent
RUNS = int(os.environ.get("BENCH_RUNS", "200"))
SITES_MAX = 3  # frames of ours that are shown for a statement
SQL_CHARACTERS = 110

Work = Callable[[], object]


# --- What is looked at --------------------------------------------------------------------------------------------------
def inline() -> Work:
    """One sale, all in the caller's commit."""
    from django.utils import timezone

    from benchmarks import saga_world

    saga_world.prepare()
    return lambda: saga_world.sell(now=timezone.now())


def worker() -> Work:
    """engine.advance of sales that were started before."""
    from django.utils import timezone

    from apps.saga.models import Run
    from apps.saga.public import advance
    from benchmarks import saga_world

    saga_world.prepare()
    for _ in range(4 * RUNS + 100):
        saga_world.sell(inline_ms=0, now=timezone.now())
    waiting = iter(list(Run.objects.values_list("pk", flat=True)))
    return lambda: advance(next(waiting))


def order() -> Work:
    """POST /orders by balance through Django's own handler: middleware, parser, serializer, place, answer."""
    from benchmarks import http_world

    return http_world.InProcess(http_world.prepare(orders_max=10 * RUNS)).post_one


def tail() -> Work:
    """What the workers do for an order: sign, transmit to the sandbox authority (a process of its own), confirm."""
    import subprocess

    from apps.saga.models import LIVE, Run
    from apps.saga.public import Progress, advance
    from benchmarks import http_world

    shop = http_world.InProcess(http_world.prepare(orders_max=10 * RUNS))
    authority = subprocess.Popen([sys.executable, "manage.py", "fiscal_sandbox"], cwd=ROOT, stdout=subprocess.PIPE)
    atexit.register(authority.terminate)
    assert authority.stdout is not None
    authority.stdout.readline()
    for _ in range(4 * RUNS + 100):
        shop.post_one()
    waiting = iter(list(Run.objects.filter(status__in=LIVE).values_list("pk", flat=True)))

    def work() -> None:
        run_id = next(waiting)
        while advance(run_id, on=True) is Progress.MOVED:
            pass

    return work


# --- Statements ---------------------------------------------------------------------------------------------------------
class Statements:
    """Who asks: the wrapper sees each statement with its stack; the trace sees each one with its time."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def __call__(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        self.asked.append((str(sql), _site()))
        return execute(sql, params, many, context)


def _site() -> str:
    frames = [
        f"{Path(frame.filename).relative_to(ROOT)}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_stack()
        if frame.filename.startswith((str(ROOT / "apps"), str(ROOT / "benchmarks")))
        if not frame.filename.endswith(("common/transactions.py", "saga_profile.py"))
    ]
    return " < ".join(reversed(frames[-SITES_MAX:]))


_LINE = re.compile(r"^(\d+-\d+-\d+ \d+:\d+:\d+)\.(\d+)\t([FB])\t\d+\t(\w+)(.*)$")
_QUOTED = re.compile(r'"([^"]*)"')


class Trip(NamedTuple):
    """One round trip: what was asked, and the seconds until the server was ready again."""

    texts: tuple[str, ...]
    seconds: float


def _traced(path: Path) -> list[Trip]:
    """The round trips of a connection. In a pipeline several statements share one."""
    found: list[Trip] = []
    prepared: dict[str, str] = {}
    asked, texts = 0.0, []
    for line in _whole_lines(path):
        if (match := _LINE.match(line)) is None:
            continue
        side, kind, rest = match[3], match[4], match[5].strip()
        moment = time.mktime(time.strptime(match[1], "%Y-%m-%d %H:%M:%S")) + int(match[2]) / 1e6
        if side == "F" and kind in ("Query", "Parse", "Bind"):
            asked = asked or moment
        if side == "F" and kind == "Query":
            texts.append(rest.strip('" '))
        elif side == "F" and kind == "Parse":
            name, _, text = rest.partition('" "')
            prepared[name.strip('"')] = text.strip()
        elif side == "F" and kind == "Bind":
            texts.append(prepared.get(_QUOTED.findall(rest)[1], "?"))
        elif side == "B" and kind == "ReadyForQuery" and texts:
            found.append(Trip(tuple(texts), moment - asked))
            asked, texts = 0.0, []
    return found


def _whole_lines(path: Path) -> Iterator[str]:
    """The trace's lines; a statement of several lines as one."""
    whole = ""
    for line in path.open(errors="replace"):
        if _LINE.match(line) and whole:
            yield whole
            whole = ""
        whole = f"{whole} {line.strip()}" if whole else line.rstrip("\n")
    yield whole


def statements(work: Work) -> list[tuple[str, float]]:
    """Print the statements of a run in order; give them with their median milliseconds."""
    from django.db import connection
    from django.db.backends.signals import connection_created

    from benchmarks.saga_meter import Wire
    from benchmarks.saga_world import trace_connections

    seen = Statements()
    times: dict[int, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        # A connection that is made on the way is traced too.
        trace_connections(Wire(folder, timed=True))
        connection.close()
        connection.ensure_connection()
        with connection.execute_wrapper(seen):
            work()
        one = len(seen.asked)
        for _ in range(RUNS):
            work()
        connection.close()
        trips = [found for path in sorted(Path(folder).iterdir()) for found in _traced(path)]
        connection_created.disconnect(dispatch_uid="bench-wire")
    a_run = len(trips) // (RUNS + 1)
    if a_run * (RUNS + 1) != len(trips):
        print(f"(runs differ: {len(trips)} round trips in {RUNS + 1} runs)")
    for number, trip in enumerate(trips[a_run : a_run * (RUNS + 1)]):
        times[number % a_run].append(trip.seconds * 1000)
    sites = iter(seen.asked[:one])
    found: list[tuple[str, float]] = []
    for number, trip in enumerate(trips[:a_run]):
        milliseconds = statistics.median(times[number])
        for text in trip.texts:
            implied = text.startswith(("BEGIN", "COMMIT", "ROLLBACK")) and "SAVEPOINT" not in text
            site = "" if implied else next(sites, ("", ""))[1]
            print(f"{len(found) + 1:3} {milliseconds:7.3f} ms  {_short(text)}\n{'':15} {site}")
            found.append((text, milliseconds))
            milliseconds = 0.0  # of the others in the same round trip
    return found


def _short(text: str) -> str:
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"(SELECT|RETURNING) (\"\w+\"\.)?\"\w+\"(, (\"\w+\"\.)?\"\w+\")+", r"\1 …", text)
    return text if len(text) <= SQL_CHARACTERS else text[: SQL_CHARACTERS - 1] + "…"


class Server:
    """What our one connection costs the server from now on. Its helpers (the WAL's writer, autovacuum) are not counted."""

    def __init__(self) -> None:
        self._before = self._now()

    def _now(self) -> tuple[float, int, int]:
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_stat_force_next_flush()")
            cursor.execute(
                "SELECT pg_backend_pid(), pg_current_wal_insert_lsn() - '0/0', "
                "(SELECT xact_commit FROM pg_stat_database WHERE datname = current_database())"
            )
            pid, written, commits = cursor.fetchone()
        cpu_ns = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
        return cpu_ns / 1e6, int(written), int(commits)

    def spent(self, runs: int) -> str:
        """The same for each run, in words."""
        cpu, written, commits = ((now - then) / runs for now, then in zip(self._now(), self._before, strict=True))
        return f"{cpu:.2f} ms of CPU, {written / 1024:.1f} kB of WAL, {commits:.1f} commits (single questions count as one)"


# --- Python -------------------------------------------------------------------------------------------------------------
def python_share(work: Work, waited_ms: float) -> None:
    """The whole run against what it waits for the server, and cProfile's own time by package and by function."""
    took = []
    server = Server()
    cpu = time.process_time()
    for _ in range(RUNS):
        began = time.perf_counter()
        work()
        took.append((time.perf_counter() - began) * 1000)
    cpu = (time.process_time() - cpu) / RUNS * 1000
    whole = statistics.median(took)
    print(f"\na run: {whole:.2f} ms, of which {waited_ms:.2f} wait for the server; this process's CPU: {cpu:.2f} ms")
    print(f"the server for a run: {server.spent(RUNS)}")
    profile = cProfile.Profile(time.thread_time)  # the CPU's time: neither waits nor a busy machine count
    profile.enable()
    for _ in range(RUNS):
        work()
    profile.disable()
    stats: Any = pstats.Stats(profile)
    packages: dict[str, float] = defaultdict(float)
    functions = []
    for (file, line, name), (_, calls, own, cumulative, _callers) in stats.stats.items():
        packages[_package(file, name)] += own
        functions.append((own, cumulative, calls, f"{_package(file, name)} {Path(file).name}:{line} {name}"))
    total = sum(packages.values())
    print("cProfile on this thread's CPU time, own time by package:")
    for package, own in sorted(packages.items(), key=lambda pair: -pair[1])[:16]:
        print(f"  {own / total:6.1%}  {package}")
    print("by function, own time:")
    for own, _, calls, name in sorted(functions, key=lambda one: -one[0])[:12]:
        print(f"  {own / RUNS * 1000:7.3f} ms x{calls / RUNS:<6.1f} {name}")
    print("by function of ours (cumulative, ms a run under cProfile):")
    ours = [one for one in functions if one[3].startswith(("apps", "benchmarks"))]
    for own, cumulative, calls, name in sorted(ours, key=lambda one: -one[1])[:30]:
        print(f"  {cumulative / RUNS * 1000:7.3f}  own {own / RUNS * 1000:6.3f}  x{calls / RUNS:<5.1f} {name}")


def _package(file: str, name: str) -> str:
    if "site-packages/" in file:
        parts = file.split("site-packages/")[1].split("/")
        return ".".join(parts[:3] if parts[0] == "django" else parts[:1]).removesuffix(".py")
    if file.startswith(str(ROOT)):
        return ".".join(Path(file).relative_to(ROOT).parts[:2]).removesuffix(".py")
    if file == "~":
        return "builtins"
    return "python library"


def main() -> None:
    """Profile one of them."""
    import django

    django.setup()
    from apps.common.processes import settle_down

    chosen = sys.argv[1] if len(sys.argv) > 1 else "inline"
    work = {"inline": inline, "worker": worker, "order": order, "tail": tail}[chosen]()
    for _ in range(20):
        work()
    settle_down()
    found = statements(work)
    waited = sum(milliseconds for _, milliseconds in found)
    kinds: dict[str, int] = defaultdict(int)
    for text, _ in found:
        kinds[" ".join(text.split()[:1]) if not text.startswith("RELEASE") else "RELEASE SAVEPOINT"] += 1
    print(f"\n{len(found)} statements: {dict(kinds)}; server {waited:.2f} ms")
    python_share(work, waited)


if __name__ == "__main__":
    main()

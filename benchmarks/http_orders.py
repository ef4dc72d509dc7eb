"""POST /orders by balance under open-loop load: the highest rate that is held with a p99 below 100 ms, 99 % at once.

    make bench-http

The server has two cores: the web processes (uvicorn), PostgreSQL and Redis. What runs beside it has the other cores, where
there are any: a Celery worker and beat, the relay and the consumers at a lower priority, the sandbox tax authority (the
outside world) and the load. BENCH_ALL_ON_TWO=1 puts all of ours on the server's two cores. The settings are a server's, not
the embedded mode's: credentials, JSON logs, Redis. The transport is the local one, because a broker belongs to other
machines and orders by balance send nothing. After each rate the runs that were begun are let finish, and ``backlog_s``
tells how long that took: when it grows with the rate, the workers are behind.

Each round looks for the rate of a bare DRF view (benchmarks/http_bare.py, on the same two cores) and for ours; the best
rate that held for HOLD_S counts, and ``of_bare_view`` is the median of the rounds' ratios.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
DATA_DIR = Path(os.environ.get("DATA_DIR", ROOT / ".data")).resolve()
HOST = "127.0.0.1"
P99_MS_MAX = 100.0
SYNC_SHARE_LEAST = 0.99  # 201, not 202
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
# Requests a second. Steps of about a fifth: a finer search would find the noise.
RATES = [float(rate) for rate in os.environ.get("BENCH_RATES", "10 20 30 40 50 60 70 80 100 120 150 180 220 260").split()]
RATES_BARE = [float(rate) for rate in os.environ.get("BENCH_RATES_BARE", "50 100 150 200 250 300 350 400 500 600").split()]
STEP_S, HOLD_S, IDLE_S = 5.0, 15.0, 8.0
BACKLOG_S_MAX = 120
WEB, BARE = "config.asgi:application", "benchmarks.http_bare:application"
WEB_PROCESSES = int(os.environ.get("BENCH_WEB_PROCESSES", "2"))  # one a core
WORKER_PROCESSES = 2
ORDERS_MAX = 200_000
READY_S_MAX = 60
END_S_MAX = 15


def cores() -> tuple[list[int], list[int]]:
    """Two cores for us, and those of the load: others, when there are more."""
    ours = sorted(os.sched_getaffinity(0))
    return ours[:2], ours[2:] or ours


OURS, THEIRS = cores()
BESIDE = OURS if os.environ.get("BENCH_ALL_ON_TWO") == "1" else THEIRS
NICE = 10  # of what nobody waits for


class Processes:
    """Everything that runs beside this process."""

    def __init__(self, environment: dict[str, str], log: IO[bytes]) -> None:
        self._environment, self._log = environment, log
        self.servers: dict[str, int] = {}  # PostgreSQL and Redis, which are not ours to stop
        self._all: list[tuple[str, subprocess.Popen[Any]]] = []

    def start(
        self, name: str, *words: str, on: list[int], pipe: bool = False, nice: int = 0, **environment: str
    ) -> "subprocess.Popen[Any]":
        """Start one on these cores."""
        placed = ["taskset", "-c", ",".join(map(str, on)), "nice", "-n", str(nice)]
        process: subprocess.Popen[Any] = subprocess.Popen(
            [*placed, sys.executable, *words],
            cwd=ROOT,
            env={**self._environment, **environment},
            stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipe else self._log,
            stderr=self._log,
            text=pipe or None,
            start_new_session=True,
        )
        self._all.append((name, process))
        return process

    def cpu_s(self) -> dict[str, float]:
        """Seconds of CPU that each has used so far, with its children."""
        return {name: _cpu_s(process.pid) for name, process in self._all} | {
            name: _cpu_s(pid) for name, pid in self.servers.items()
        }

    def check(self) -> None:
        """All of them live. Ends the benchmark when one does not."""
        for name, process in self._all:
            if process.poll() is not None:
                raise SystemExit(f"{name} ended with {process.returncode}; see {self._log.name}")

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for those that do not end."""
        for _, process in reversed(self._all):
            process.send_signal(signal.SIGTERM)
        for _, process in reversed(self._all):
            try:
                process.wait(END_S_MAX)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(END_S_MAX)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def server_environment(database: dict[str, Any]) -> dict[str, str]:
    """What a process of a real deployment is given."""
    if "CELERY_BROKER_URL" not in os.environ:
        raise SystemExit("CELERY_BROKER_URL is missing: `make bench-http` starts Redis")
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DATA_DIR": str(DATA_DIR),
        "DATABASE_URL": f"postgresql://{database['USER']}@/lastro?host={database['HOST']}",
        "SECRET_KEY": secrets.token_urlsafe(48),
        "VAULT_KEYS": secrets.token_urlsafe(48),
        "ALLOWED_HOSTS": HOST,
        "TLS": "0",  # it ends before the application, at the proxy
        "FISCAL_AUTHORITY_URL": "sandbox",
        "FISCAL_ISSUER_CNPJ": "11222333000181",
        "MESSAGING_TRANSPORT": "local",
        "KAFKA_BOOTSTRAP_SERVERS": "",
        "PYTHONWARNINGS": "ignore",
    }


def _family(pid: int) -> list[Any]:
    import psutil

    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _cpu_s(pid: int) -> float:
    import psutil

    total = 0.0
    for one in _family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
            if one.pid == pid:  # of children that have ended: connections of PostgreSQL
                total += times.children_user + times.children_system
    return total


def pin_servers(folder: Path) -> dict[str, int]:
    """PostgreSQL and Redis share our cores. Their process ids."""
    from config.services.redis import Redis

    found = {"postgres": int((folder / "postmaster.pid").read_text().split()[0])}
    if (pid := Redis().pid()) is not None:
        found["redis"] = pid
    for pid in found.values():
        for one in _family(pid):
            one.cpu_affinity(OURS)
    return found


def web_words(application: str) -> list[str]:
    """The web server, as a command of Python: config/web.py, as production starts it."""
    return ["-c", f"from config.web import serve; serve({application!r})"]


def start_everything(processes: Processes, port: int, bare_port: int) -> "subprocess.Popen[Any]":
    """A deployment on our cores, the world on theirs; gives the load's process."""
    processes.start("the sandbox authority", "manage.py", "fiscal_sandbox", on=THEIRS)
    for name, application, at in (("web", WEB, port), ("bare view", BARE, bare_port)):
        processes.start(name, *web_words(application), on=OURS, PORT=str(at), WEB_PROCESSES=str(WEB_PROCESSES))
    celery = ["-m", "celery", "-A", "config"]
    # Without a pool, as settings.py advises a prefork worker: with one, Celery connects anew for every task.
    worker = [*celery, "worker", "-c", str(WORKER_PROCESSES)]
    processes.start("the worker", *worker, on=BESIDE, nice=NICE, DATABASE_POOL_MAX="0")
    processes.start("beat", *celery, "beat", on=BESIDE, nice=NICE)
    processes.start("the relay", "manage.py", "relay", on=BESIDE, nice=NICE)
    processes.start("the consumers", "manage.py", "consume", on=BESIDE, nice=NICE)
    load = processes.start("the load", "-m", "benchmarks.http_client", on=THEIRS, pipe=True)
    assert load.stdout is not None
    load.stdout.readline()
    _wait_for(port)
    _wait_for(bare_port)
    return load


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + READY_S_MAX
    while True:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


class Bench:
    """One server under one load after the other."""

    def __init__(self, load: "subprocess.Popen[Any]", port: int, bare_port: int, shop: Any, processes: Processes) -> None:
        self._load, self._processes, self._bare_port = load, processes, bare_port
        self.answered = 0
        self._job = {
            "host": HOST,
            "port": port,
            "path": "/orders",
            "authorization": shop.authorization,
            "bodies": [body.decode() for body in islice(shop.bodies(), 10_000)],
            "first": 0,
        }

    def at(self, rate: float, seconds: float, *, bare: bool = False) -> dict[str, Any]:
        """This rate for so long; then let the tails finish."""
        from benchmarks.harness import say

        assert self._load.stdin is not None
        assert self._load.stdout is not None
        before = self._processes.cpu_s()
        port = self._bare_port if bare else self._job["port"]
        self._load.stdin.write(json.dumps({**self._job, "port": port, "rate": rate, "seconds": seconds}) + "\n")
        self._load.stdin.flush()
        found: dict[str, Any] = json.loads(self._load.stdout.readline())
        if not bare:
            self._job["first"] += int(rate * seconds)
            self.answered += found["requests"] - found["errors"]
        found["backlog_s"] = drain()
        self._processes.check()
        spent = {name: used - before[name] for name, used in self._processes.cpu_s().items()}
        found["cpu_ms_per_order"] = {name: round(used / found["requests"] * 1000, 1) for name, used in spent.items()}
        say(
            f"{'bare' if bare else 'ours'} "
            f"{rate:5g}/s for {seconds:g} s: p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms, "
            f"{found['sync_share']:.1%} at once, {found['statuses']}, tails {found['backlog_s']:.1f} s, "
            f"client late by {found['client_lag_ms']:.1f} ms at most"
        )
        return found

    def idle(self, seconds: float) -> dict[str, float]:
        """Shares of a core that each process uses when there is nothing to do."""
        before = self._processes.cpu_s()
        time.sleep(seconds)
        return {name: round((used - before[name]) / seconds, 3) for name, used in self._processes.cpu_s().items()}


def drain() -> float:
    """Seconds until every run that was begun is over."""
    from apps.saga.models import LIVE, Run

    began = time.monotonic()
    while Run.objects.filter(status__in=LIVE).exists():
        if time.monotonic() - began > BACKLOG_S_MAX:
            break
        time.sleep(0.1)
    return time.monotonic() - began


def check_work(bench: Bench) -> None:
    """Every order that was answered is there, and its run went to its end."""
    from apps.orders.models import Order, OrderStatus

    completed = Order.objects.filter(status=OrderStatus.COMPLETED).count()
    if completed < bench.answered:
        raise SystemExit(f"{bench.answered} orders were answered, {completed} are complete")


def holds(found: dict[str, Any]) -> bool:
    """Is this rate carried?"""
    in_time = found["p99_ms"] < P99_MS_MAX and found["sync_share"] >= SYNC_SHARE_LEAST
    return bool(in_time and not found["errors"])


def search(bench: Bench, *, bare: bool) -> tuple[float, dict[str, Any]]:
    """The highest rate that holds for HOLD_S, and what it measured there; 0 and the lowest one when none does."""
    passed, failed = [], 0
    rates = RATES_BARE if bare else RATES
    for rate in rates:
        # Twice, and the next rate too: a disturbance from outside within seconds is enough to fail.
        if any(holds(bench.at(rate, STEP_S, bare=bare)) for _ in range(2)):
            passed.append(rate)
            failed = 0
        elif (failed := failed + 1) == 2:
            break
    for rate in reversed(passed or rates[:1]):
        found = bench.at(rate, HOLD_S, bare=bare)
        if holds(found):
            return rate, found
    return 0.0, found


def main() -> None:
    """Start a deployment, search its rate, print the report."""
    from config import embedded

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the orderly way: everything is stopped
    folder = DATA_DIR / os.environ.get("EMBEDDED_POSTGRES_DIR", "postgres-bench")
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, OURS)
    database = embedded.start_postgres(folder)
    os.sched_setaffinity(0, everywhere)
    embedded.ensure_database(database, "lastro")
    environment = server_environment(database)
    os.environ.update({**environment, "LOG_LEVEL": "WARNING"})
    import django

    django.setup()
    from benchmarks import http_world
    from benchmarks.harness import load, median, report, say

    servers = pin_servers(folder)
    shop = http_world.prepare(orders_max=ORDERS_MAX)
    say(f"web and PostgreSQL on cores {OURS}; worker, relay and consumers on {BESIDE}; load and authority on {THEIRS}")
    with (DATA_DIR / "bench-http.log").open("wb") as log:
        processes = Processes(environment, log)
        processes.servers = servers
        try:
            port, bare_port = free_port(), free_port()
            bench = Bench(start_everything(processes, port, bare_port), port, bare_port, shop, processes)
            for bare in (False, True, False, True, False):
                bench.at(5, 4, bare=bare)  # caches, connections, the first imports of each process
            idle = bench.idle(IDLE_S)
            say(f"cores used by doing nothing: {idle}")
            rounds = [(search(bench, bare=True)[0], *search(bench, bare=False)) for _ in range(ROUNDS)]
            check_work(bench)
        finally:
            processes.stop()
    _, rate, found = max(rounds, key=lambda one: (one[1], -one[2]["p99_ms"]))
    report(
        "http",
        ratios={"of_bare_view": median([ours / bare if bare else 0.0 for bare, ours, _ in rounds])},
        figures={
            "rate_per_s": rate,
            "rates_per_s": [ours for _, ours, _ in rounds],
            "bare_rates_per_s": [bare for bare, _, _ in rounds],
            "p50_ms": round(found["p50_ms"], 1),
            "p99_ms": round(found["p99_ms"], 1),
            "sync_share": round(found["sync_share"], 4),
            "backlog_s": round(found["backlog_s"], 1),
            "held_s": HOLD_S,
            "load": load(),
            "cpu_ms_per_order": found["cpu_ms_per_order"],
            "idle_cores": idle,
        },
        server=f"uvicorn x{WEB_PROCESSES} and PostgreSQL on cores {OURS}; celery -c {WORKER_PROCESSES}, relay and "
        f"consumers on {BESIDE}; load and authority on {THEIRS}",
    )


if __name__ == "__main__":
    main()

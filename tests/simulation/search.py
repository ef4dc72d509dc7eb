"""``python -m tests.simulation.search --seeds 20000``: search for a schedule that breaks the engine, in parallel processes.

``--seed 123`` replays one, and tells what happens in it. The exit status is 1 when something was found.
"""

import argparse
import multiprocessing
import os
import queue
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

CHUNK = 50  # seeds that a process takes at a time
POLL_S = 5.0  # between two looks whether all processes live
FAILURES_MAX = 20  # then it stops: they mostly have one cause


@contextmanager
def _database() -> Iterator[None]:
    """A database of this process's own, a copy of the one that the tests copy."""
    from django.db import connections
    from psycopg import sql

    from tests.conftest import TEMPLATE_LOCK, _admin_connection, _build_template

    values = connections["default"].settings_dict
    # Connections that a pool keeps would be in the way of copying and renaming databases.
    values["OPTIONS"] = {key: value for key, value in values["OPTIONS"].items() if key != "pool"}
    template = _build_template()
    name = f"simulation_{os.getpid()}"
    with _admin_connection() as admin:
        admin.execute("SELECT pg_advisory_lock(%s)", [TEMPLATE_LOCK])  # two cannot copy it at the same moment
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
    values["NAME"] = name
    try:
        yield
    finally:
        connections.close_all()
        with _admin_connection() as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _set_up() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    import django

    django.setup()


def _work(
    chunks: "multiprocessing.Queue[range | None]", found: "multiprocessing.Queue[tuple[int, list[str]] | None]"
) -> None:
    _set_up()
    from tests.simulation.seeds import search

    with _database():
        while (seeds := chunks.get()) is not None:
            found.put((len(seeds), [str(each) for each in search(seeds, failures_max=FAILURES_MAX)]))


def _search(first: int, seeds: int, processes: int) -> int:
    """How many failures."""
    context = multiprocessing.get_context("spawn")
    chunks, found = context.Queue(), context.Queue()
    ranges = [range(at, min(at + CHUNK, first + seeds)) for at in range(first, first + seeds, CHUNK)]
    for each in [*ranges, *[None] * processes]:
        chunks.put(each)
    workers = [context.Process(target=_work, args=(chunks, found)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    done = failures = 0
    began = time.monotonic()
    while done < seeds and failures < FAILURES_MAX:
        try:
            tried, told = found.get(timeout=POLL_S)
        except queue.Empty:
            if any(worker.exitcode for worker in workers):
                print("\na process has died")
                failures += 1
                break
            continue
        done, failures = done + tried, failures + len(told)
        for failure in told:
            print(f"\n{failure}\n", flush=True)
        rate = done / (time.monotonic() - began)
        print(f"\r{done} of {seeds} seeds, {failures} failing, {rate:.0f}/s", end="", flush=True)
    print()
    for worker in workers:
        if failures:
            worker.terminate()
        worker.join()
    return failures


def _replay(seed: int) -> int:
    _set_up()
    from django.utils import timezone

    from tests.simulation.scheduler import prepare
    from tests.simulation.seeds import simulate

    with _database():
        prepare(timezone.now())
        world, failure = simulate(seed)
    print("\n".join(world.trace))
    print(failure.what if failure else "every invariant holds")
    return 1 if failure else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.search", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay one seed, and tell what happens in it")
    parser.add_argument("--seeds", type=int, default=20_000, help="how many to try; default 20000")
    parser.add_argument("--first", type=int, default=0, help="the first of them; default 0")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one a core")
    given = parser.parse_args()
    if given.seed is not None:
        return _replay(given.seed)
    _set_up()  # starts PostgreSQL, before the others look for it
    return 1 if _search(given.first, given.seeds, given.processes) else 0


if __name__ == "__main__":
    sys.exit(main())

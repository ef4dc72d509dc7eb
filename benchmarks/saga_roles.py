"""Our processes of benchmarks/saga.py: a run inline, runs for workers, and what one run leaves in the tables."""

import json
import time
from pathlib import Path
from typing import Any

from benchmarks import saga_meter
from benchmarks.saga_meter import Wire, in_ms, measure, start_all, tell, wait_for_go, wait_until


def _load() -> None:
    import django

    django.setup()
    from apps.common.processes import settle_down
    from benchmarks import saga_world  # noqa: F401  # registers the sale

    settle_down()


def inline(given: dict[str, Any]) -> None:
    """Runs one after the other in each thread, all of it in the caller's process and commit."""
    _load()
    from django.db import connections
    from django.utils import timezone

    from benchmarks.saga_world import sell, trace_connections

    if "wire" in given:
        trace_connections(Wire(given["wire"]))
    measure(
        lambda: sell(now=timezone.now()),
        threads=given["threads"],
        seconds=given["seconds"],
        runs_max=given.get("runs_max", 1_000_000),
        leave=connections.close_all,
    )


def queued(given: dict[str, Any]) -> None:
    """Start runs and leave all of their steps to the workers; over when the last business row of each is there."""
    _load()
    from django.db import connections
    from django.utils import timezone

    from benchmarks.saga_world import SaleRow, sell, trace_connections

    if "wire" in given:
        trace_connections(Wire(given["wire"]))
    last = SaleRow.objects.filter(step=len(saga_meter.STEPS))
    before = last.count()
    asked: dict[Any, float] = {}

    def start_one() -> None:
        now = timezone.now()
        asked[sell(inline_ms=0, now=now)] = now.timestamp()

    wait_for_go()
    began, cpu = time.perf_counter(), time.process_time()
    start_all(start_one, runs=given["runs"], rate_per_s=given["rate_per_s"], leave=connections.close_all)
    polls = wait_until(lambda: last.count() >= before + given["runs"], seconds_max=given["seconds_max"])
    elapsed = time.perf_counter() - began
    written = dict(last.filter(sale_id__in=list(asked)).values_list("sale_id", "created_at"))
    waits = [written[sale_id].timestamp() - at for sale_id, at in asked.items()]
    connections.close_all()
    cpu = time.process_time() - cpu
    tell(runs=given["runs"], all_runs=given["runs"], seconds=elapsed, cpu_s=cpu, polls=polls, waits_ms=in_ms(waits))


def capture(given: dict[str, Any]) -> None:
    """Write down every row that one inline run leaves, whatever tables the engine uses."""
    _load()
    import psycopg
    from django.utils import timezone

    from benchmarks.saga_limit import rows_since
    from benchmarks.saga_world import dsn, sell

    sell(now=timezone.now())
    wait_for_go()
    with psycopg.connect(dsn(), autocommit=True) as database:
        found = database.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetchone()
        assert found is not None
        sell(now=timezone.now())
        captured_at = time.time()
        tables = rows_since(database, found[0])
    Path(given["path"]).write_text(json.dumps({"tables": tables, "captured_at": captured_at}))
    tell(rows={table["name"]: len(table["rows"]) for table in tables})


if __name__ == "__main__":
    role, given = saga_meter.arguments()
    {"inline": inline, "queued": queued, "capture": capture}[role](given)

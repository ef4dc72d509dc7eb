"""Does history slow the present? The same questions to a database with few finished runs, and to one with many more.

    make bench-saga-history        (BENCH_RUNS=5000000 BENCH_RUNS_FEW=50000 BENCH_ROUNDS=5)

Two databases of one server get the same runs that are live, stuck, failing or undoing, and so many finished ones of twelve
months, with all their steps and attempts. Then the sweeper, the look-ups by each key, the search of the API, the back
office's pages and lists, a start that runs inline and a wake-up are measured in turn in both. ``ratios``, one a question:
time with much history by time with little, the median of the rounds; 2 is the limit. The first one is the worst of them.
It needs 12 GB for five million runs, and about twenty minutes.
"""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from benchmarks.server import use

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ.setdefault("EMBEDDED_POSTGRES_DIR", "postgres-bench")
os.environ["CELERY_BROKER_URL"] = "memory://"

RUNS = int(os.environ.get("BENCH_RUNS", "5000000"))
RUNS_FEW = int(os.environ.get("BENCH_RUNS_FEW", "50000"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
TIMES = 30  # each question in each round; its median counts
MONTHS = 12
STEPS = 5
DATABASES = {"little": "bench_history_few", "much": "bench_history_many"}
SEEN = 50  # rows of a page

# An id of version 7 for a time: what the engine's would be.
_ID = """
CREATE FUNCTION bench_id(moment timestamptz) RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0')
            || '7' || substr(r, 1, 3) || '8' || substr(r, 4, 15))::uuid
    FROM (SELECT md5(random()::text) AS r) made
$$
"""
_ATTRIBUTES = """jsonb_build_object('customer_id', md5((n %% 100000)::text), 'account_id', 'acc_' || n %% 50,
    'amount', ((n %% 99999) / 100.0)::numeric(12, 2)::text)"""
# One in a hundred was undone; one use case in ten is everybody's, and fifty runs in all are of a rare one.
_FINISHED = """
INSERT INTO saga_run (id, global_id, use_case, version, subject_id, business_key, status, cursor, data, idempotency_key,
    attributes, renamed, failed_step, error_code, error_detail, late_answers, stale_outcomes, started_at, finished_at)
SELECT made.id, gen_random_uuid(), CASE WHEN n %% %(rare)s = 0 THEN 'bench.rare' ELSE 'bench.case.' || n %% 10 END, 1,
    bench_id(at), 'key-' || n,
    CASE WHEN n %% 100 = 7 THEN 'COMPENSATED' ELSE 'COMPLETED' END, 5, '{"amount": "10.50"}',
    CASE WHEN n %% 2 = 1 THEN 'req-' || n ELSE '' END, {ATTRIBUTES}, '{}',
    CASE WHEN n %% 100 = 7 THEN 's3' ELSE '' END, CASE WHEN n %% 100 = 7 THEN 'R302' ELSE '' END, '', 0, 0, at,
    at + interval '1 second'
FROM (SELECT n, %(since)s + (%(until)s - %(since)s) * ((n - %(first)s)::float8 / (%(last)s - %(first)s + 1)) AS at
      FROM generate_series(%(first)s, %(last)s) n) run,
    LATERAL (SELECT bench_id(run.at) AS id) made
"""
_OTHERS = """
INSERT INTO saga_run (id, global_id, use_case, version, subject_id, business_key, status, cursor, data, idempotency_key,
    attributes, renamed, failed_step, error_code, error_detail, late_answers, stale_outcomes, started_at, due_at)
SELECT bench_id(%(now)s), bench_id(%(now)s), 'bench.case.' || n %% 10, 1, bench_id(%(now)s), 'open-' || n, %(status)s, 2,
    '{}', '', {ATTRIBUTES}, '{}',
    CASE WHEN %(fails)s THEN 's2' ELSE '' END, CASE WHEN %(fails)s THEN 'R999' ELSE '' END, '', 0, 0,
    %(now)s - n * interval '1 second', CASE WHEN %(due)s THEN %(now)s + (n - 500) * interval '1 second' END
FROM generate_series(1, %(runs)s) n
"""
_STEPS = """
INSERT INTO saga_step (run_id, position, name, kind, shape, status, attempts, undo_attempts, attempts_forgiven,
    undo_attempts_forgiven, output, error_code, error_detail, started_at, finished_at)
SELECT r.id, place, 's' || place, 'COMPENSABLE', 'local', 'DONE', 1, 0, 0, 0, '{"number": 1}', '', '', started_at,
    started_at
FROM saga_run r, generate_series(0, 4) place WHERE r.started_at >= %(since)s AND r.started_at < %(until)s
"""
_ATTEMPTS = """
INSERT INTO saga_attempt (run_id, position, undo, number, outcome, error_code, error_detail, started_at, finished_at)
SELECT r.id, place, false, 1, 'DONE', '', '', started_at, started_at
FROM saga_run r, generate_series(0, 4) place WHERE r.started_at >= %(since)s AND r.started_at < %(until)s
"""
_FINISHED, _OTHERS = (text.replace("{ATTRIBUTES}", _ATTRIBUTES) for text in (_FINISHED, _OTHERS))
# Runs that are not over: status, how many, and do they fail? The same in both databases: a busy minute, and a bad one.
OPEN = [
    ("RUNNING", 400, False),
    ("RUNNING", 100, True),
    ("WAITING", 500, False),
    ("COMPENSATING", 60, True),
    ("STUCK", 30, True),
]


# --- The two databases ----------------------------------------------------------------------------------------------------
def build(name: str, runs: int, *, now: datetime) -> None:
    """A database with so many finished runs. One of an earlier call with as many is taken as it is."""
    import psycopg
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connection

    from benchmarks.harness import say

    database = settings.DATABASES["default"]
    with psycopg.connect(
        host=database["HOST"], port=database["PORT"], user=database["USER"], dbname="postgres", autocommit=True
    ) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {name}")
    use(name)
    began = time.perf_counter()
    call_command("migrate", verbosity=0, interactive=False)
    months = _months(now)
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        cursor.execute(_ID)
        for index, (since, until) in enumerate(months):
            span = {"since": since, "until": until}
            first, last = runs * index // MONTHS + 1, runs * (index + 1) // MONTHS
            cursor.execute(_FINISHED, {**span, "first": first, "last": last, "rare": max(runs // 50, 1)})
            cursor.execute(_STEPS, span)
            cursor.execute(_ATTEMPTS, span)
            say(f"{name}: {last:,} finished runs after {time.perf_counter() - began:.0f} s")
        for status, count, fails in OPEN:
            given: dict[str, Any] = {"status": status, "runs": count, "due": status != "STUCK", "fails": fails, "now": now}
            cursor.execute(_OTHERS, given)
        span = {"since": now - timedelta(hours=1), "until": now + timedelta(hours=1)}
        cursor.execute(_STEPS, span)
        cursor.execute("VACUUM ANALYZE")


def _months(now: datetime) -> list[tuple[datetime, datetime]]:
    """Twelve months that are open as partitions, up to two hours ago."""
    from apps.saga import months

    starts = [now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)]
    while len(starts) < MONTHS:
        starts.append((starts[-1] - timedelta(days=1)).replace(day=1))
    starts.reverse()
    for start in starts:
        for table in months.TABLES:
            table.open(start.date())
    return list(zip(starts, [*starts[1:], now - timedelta(hours=2)], strict=True))


# --- The questions --------------------------------------------------------------------------------------------------------
def questions(now: datetime) -> dict[str, Callable[[], object]]:
    """What is asked, by name. Nothing changes the number of runs much."""
    from django.db import connection, transaction

    from apps.saga import overview, queries, sweeper

    with connection.cursor() as cursor:
        cursor.execute("SELECT id, subject_id, business_key FROM saga_run WHERE business_key = 'key-777'")
        run_id, subject_id, business_key = cursor.fetchone()

    def sweep() -> None:
        with transaction.atomic():
            assert len(sweeper._take.__wrapped__(now)) > 0  # type: ignore[attr-defined]  # within this transaction
            transaction.set_rollback(True)

    lists = {
        "newest": {},
        "attention": {"needs": "any"},
        "live": {"needs": "live"},
        "stuck": {"status__exact": "STUCK"},
        "waiting": {"status__exact": "WAITING"},
        "undone": {"status__exact": "COMPENSATED"},
        "use_case": {"use_case": "bench.case.3"},
        "rare_use_case": {"use_case": "bench.rare"},
        "rare_use_case_stuck": {"use_case": "bench.rare", "status__exact": "STUCK"},
        "search_key": {"q": business_key},
        "search_order": {"q": str(subject_id)},
    }
    return {
        "sweeper": sweep,
        "home_counts": overview.runs_now,
        "home_needs": lambda: overview.runs_in_need(now=now),
        "home_badge": lambda: overview.runs_in_need_count(now=now),
        "state_by_key": lambda: queries.run_state_by_key(business_key),
        **searches(run_id, now=now),
        **{f"list_{name}": _list(given) for name, given in lists.items()},
        "start_inline": start_inline,
        "wake_up": wake_up,
    }


def searches(run_id: Any, *, now: datetime) -> dict[str, Callable[[], object]]:
    """The questions of the API and of ``manage.py saga_state``: one run by each of its keys, and filters."""
    from apps.saga import filters, queries, usecases
    from apps.saga.models import Run

    run, case = Run.objects.get(pk=run_id), "bench.case.7"
    customer = filters.condition(f"customer_id={run.attributes['customer_id']}")
    at_least = filters.amount_condition(">=", Decimal(3))
    keys = {
        "run_id": run.pk,
        "global_id": run.global_id,
        "order": run.subject_id,
        "business_key": run.business_key,
        "idempotency_key": run.idempotency_key,
        "unknown_key": "nobody",
    }
    wanted: dict[str, dict[str, Any]] = {
        "in_error": {"state": "in_error", "use_case": case},
        "in_error_at_step": {"state": "in_error", "use_case": case, "step": "s2", "error_code": "R999"},
        "in_error_older": {"state": "in_error", "use_case": case, "started_before": now - timedelta(seconds=30)},
        "in_error_by_amount": {"state": "in_error", "use_case": case, "conditions": (at_least,)},
        "in_error_of_customer": {"state": "in_error", "conditions": (customer,)},
        "stuck": {"state": "stuck"},
        "waiting": {"state": "waiting"},
        "slow": {"state": "slow"},
        "late": {"state": "late", "use_case": case},
        "held": {"state": "held"},
        "newest": {},
        "newest_of_use_case": {"use_case": case},
    }
    return {
        **{f"state_by_{name}": _keyed(key) for name, key in keys.items()},
        **{f"search_{name}": _found(given, now=now) for name, given in wanted.items()},
        "use_cases": usecases.use_cases,
        "runs_known_by_id": lambda: queries.runs_known_by(run.pk),
    }


def _keyed(key: object) -> Callable[[], object]:
    from apps.saga import queries

    return lambda: queries.find_run(str(key))


def _found(given: dict[str, Any], *, now: datetime) -> Callable[[], object]:
    from apps.saga import filters, search

    return lambda: search.find_runs(filters.Filter(**given), limit=SEEN, now=now)


def _list(given: dict[str, str]) -> Callable[[], object]:
    """The first page of the back office's list, as its view makes it."""
    from django.contrib import admin
    from django.contrib.auth.models import User
    from django.test import RequestFactory

    from apps.saga.models import Run

    view = admin.site.get_model_admin(Run)
    request = RequestFactory().get("/", given)
    request.user = User(is_superuser=True, is_staff=True)
    return lambda: list(view.get_changelist_instance(request).result_list)


def _definition() -> Any:
    from apps.saga import public as saga

    def step(number: int) -> saga.Step:
        kind = saga.PIVOT if number == STEPS - 1 else saga.COMPENSABLE
        nothing = {"handle": lambda _self, _run: {"number": 1}, "compensate": lambda _self, _run: None}
        made: saga.Step = type(f"S{number}", (saga.LocalStep,), {"name": f"s{number}", "kind": kind, **nothing})()
        return made

    return saga.register(saga.Definition("bench.history", version=1, steps=tuple(step(number) for number in range(STEPS))))


_definition_of_bench: Any = None


def _start(inline_ms: int) -> Any:
    global _definition_of_bench  # noqa: PLW0603  # registered once, when Django is ready
    from django.db import transaction
    from django.utils import timezone

    from apps.common.clock import uuid7
    from apps.saga import public as saga

    if _definition_of_bench is None:
        _definition_of_bench = _definition()
    key = uuid7()
    with transaction.atomic():
        return saga.start(
            _definition_of_bench,
            subject_id=key,
            business_key=str(key),
            data={"amount": "10.50"},
            now=timezone.now(),
            run_inline_for_ms=inline_ms,
        )


def start_inline() -> None:
    """A run of five steps, in the caller's commit."""
    _start(10_000)


_begun: list[Any] = []


def wake_up() -> None:
    """A worker's part of a run that was begun before."""
    from apps.saga import public as saga

    saga.advance(_begun.pop())


def prepare(name: str) -> None:
    """What a question needs, outside of its time."""
    if name == "wake_up":
        _begun[:] = [_start(0) for _ in range(TIMES + 1)]


# --- The whole ------------------------------------------------------------------------------------------------------
def measure(now: datetime) -> dict[str, float]:
    """The median time of each question in milliseconds."""
    from benchmarks.harness import median, timed

    found = {}
    for name, ask in questions(now).items():
        prepare(name)
        ask()
        found[name] = median([timed(ask) for _ in range(TIMES)]) * 1000
    return found


def main() -> None:
    """Run everything and print the report."""
    import django

    django.setup()
    from apps.saga import chains
    from benchmarks.harness import load, median, report, say

    chains.wake_soon = lambda run_id: None  # nobody would answer
    now = datetime.now(UTC)
    build(DATABASES["little"], RUNS_FEW, now=now)
    build(DATABASES["much"], RUNS, now=now)
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(1, ROUNDS + 1):
        rounds.append({})
        for which, name in DATABASES.items():
            use(name)
            rounds[-1][which] = measure(now)
        say(f"round {number} of {ROUNDS}")
    names = list(rounds[0]["much"])
    ratios = {name: median([found["much"][name] / found["little"][name] for found in rounds]) for name in names}
    label = f"history_{_short(RUNS)}_vs_{_short(RUNS_FEW)}"
    report(
        "saga_history",
        ratios={label: max(ratios.values()), **{f"{label}_{name}": ratio for name, ratio in ratios.items()}},
        figures={
            f"{name}_ms": {which: round(median([found[which][name] for found in rounds]), 3) for which in DATABASES}
            for name in names
        }
        | {"worst": max(ratios, key=lambda name: ratios[name]), "rounds": ROUNDS, "load": load()},
    )


def _short(number: int) -> str:
    """5m, 50k."""
    return f"{number // 1_000_000}m" if number >= 1_000_000 else f"{number // 1000}k"


if __name__ == "__main__":
    main()

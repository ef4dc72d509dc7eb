"""How much does history slow the questions about runs? 50 thousand finished runs against 5 million, generated.

``python -m benchmarks.saga_queries [--small 50000] [--large 5000000]``. Needs the embedded PostgreSQL (or DATABASE_URL) and
disk: about a gigabyte for each million. It works in a database of its own, which it drops. The last line is JSON:
the median of each question in milliseconds, with few and with many finished runs, and the ratio.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

LIVE, FAILED = 2_000, 500  # the same in both worlds: a busy minute, and a bad one
ROUNDS = 15
USE_CASE = "orders.purchase.card"

# Ids made of the moment, so that they lie in time as the engine's do.
_ROWS = """
INSERT INTO saga_run (id, global_id, use_case, version, subject_id, business_key, status, cursor, data, idempotency_key,
    attributes, renamed, failed_step, error_code, error_detail, late_answers, stale_outcomes, started_at, finished_at,
    due_at, token, lease_until, held_by, held_at)
SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text || 'a'), 1, 3) || '8'
            || substr(md5(n::text || %(status)s), 1, 15))::uuid,
    gen_random_uuid(), CASE WHEN n %% 3 = 0 THEN 'orders.purchase.balance' ELSE %(use_case)s END, 1, gen_random_uuid(),
    'order ' || n || %(status)s, %(status)s, %(cursor)s, '{}',
    CASE WHEN n %% 2 = 0 THEN 'req ' || n || %(status)s ELSE '' END,
    jsonb_build_object('customer_id', md5((n %% 100000)::text), 'account_id', 'acc_' || n %% 50,
                       'amount', ((n %% 99999) / 100.0)::numeric(12,2)::text),
    '{}', %(failed_step)s, %(error_code)s, '', 0, 0, at, CASE WHEN %(over)s THEN at + interval '2 seconds' END,
    CASE WHEN %(live)s THEN now() + interval '30 seconds' END, NULL, NULL, NULL, NULL
FROM (SELECT n, now() - (%(age)s * interval '1 second') * n / %(count)s AS at
      FROM generate_series(%(first)s, %(count)s) AS n) AS made
"""
YEAR_S, HOUR_S = 365 * 86_400, 3_600


def _insert(count: int, status: str, *, first: int = 1, age_s: int, error: str = "") -> None:
    from django.db import connection

    over = status in ("COMPLETED", "COMPENSATED")
    values = {
        "status": status,
        "use_case": USE_CASE,
        "cursor": 6 if status == "COMPLETED" else 1,
        "failed_step": "authorise_payment" if error else "",
        "error_code": error,
        "over": over,
        "live": not over and status != "STUCK",
        "age": age_s,
        "first": first,
        "count": count,
    }
    with connection.cursor() as cursor:
        cursor.execute(_ROWS, values)


def _finished(count: int, *, before: int) -> None:
    """So many finished runs in all: 3 of 100 were undone."""
    for status, share, error in (("COMPLETED", 97, ""), ("COMPENSATED", 3, "R215")):
        _insert(count * share // 100, status, first=before * share // 100 + 1, age_s=YEAR_S, error=error)


def _alive() -> None:
    _insert(LIVE, "WAITING", age_s=60)
    _insert(FAILED, "STUCK", age_s=HOUR_S, error="R999")
    _insert(FAILED, "COMPENSATING", age_s=HOUR_S, error="R412")
    _insert(FAILED, "RUNNING", age_s=HOUR_S, error="ConnectionError")


def _questions() -> dict[str, Callable[[], Any]]:
    from django.utils import timezone

    from apps.saga import filters, overview, queries, search, usecases
    from apps.saga.models import Run

    now = timezone.now()
    any_run = Run.objects.filter(status="COMPLETED", use_case=USE_CASE).exclude(idempotency_key="").order_by("id")[100]

    def found(**wanted: Any) -> Callable[[], Any]:
        return lambda: search.find_runs(filters.Filter(**wanted), limit=50, now=now)

    def keyed(key: object) -> Callable[[], Any]:
        return lambda: queries.find_run(str(key))

    customer = filters.condition(f"customer_id={any_run.attributes['customer_id']}")
    return {
        "state_by_run_id": keyed(any_run.pk),
        "state_by_global_id": keyed(any_run.global_id),
        "state_by_subject_id": keyed(any_run.subject_id),
        "state_by_business_key": keyed(any_run.business_key),
        "state_by_idempotency_key": keyed(any_run.idempotency_key),
        "state_of_nobody": keyed("nobody"),
        "in_error": found(state="in_error", use_case=USE_CASE),
        "in_error_at_step_by_code": found(state="in_error", use_case=USE_CASE, step="authorise_payment", error_code="R412"),
        "in_error_older_than": found(state="in_error", use_case=USE_CASE, started_before=now - timedelta(minutes=30)),
        "in_error_by_amount": found(
            state="in_error", use_case=USE_CASE, conditions=(filters.amount_condition(">=", Decimal(3)),)
        ),
        "in_error_of_customer": found(state="in_error", conditions=(customer,)),
        "stuck": found(state="stuck"),
        "waiting_for_partner": found(state="waiting", waiting_for="payment processor"),
        "slow": found(state="slow"),
        "late": found(state="late", use_case=USE_CASE),
        "held": found(state="held"),
        "newest": found(),
        "newest_of_use_case": found(use_case=USE_CASE),
        "use_cases": usecases.use_cases,
        "runs_in_need": lambda: overview.runs_in_need(now=now),
    }


def _measure() -> dict[str, float]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE saga_run")
    medians = {}
    for name, ask in _questions().items():
        ask()
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            ask()
            times.append((time.perf_counter() - began) * 1000)
        medians[name] = statistics.median(times)
    return medians


def _in_a_database_of_its_own(work: Callable[[], None]) -> None:
    from django.core.management import call_command
    from django.db import connections

    connection = connections["default"]
    original, ours = connection.settings_dict["NAME"], "lastro_bench_queries"
    with connection._nodb_cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {ours} WITH (FORCE)")
        cursor.execute(f"CREATE DATABASE {ours}")
    connection.close()
    connection.settings_dict["NAME"] = ours
    try:
        call_command("migrate", verbosity=0, interactive=False)
        work()
    finally:
        connections.close_all()
        connection.settings_dict["NAME"] = original
        with connection._nodb_cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {ours} WITH (FORCE)")


def main() -> int:
    """Fill, ask, fill more, ask again, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", type=int, default=50_000)
    parser.add_argument("--large", type=int, default=5_000_000)
    sizes = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django

    django.setup()
    from django.conf import settings

    settings.DATABASES["default"]["OPTIONS"].pop("pool", None)
    told: dict[str, dict[str, float]] = {}

    def work() -> None:
        _alive()
        _finished(sizes.small, before=0)
        small = _measure()
        began = time.perf_counter()
        _finished(sizes.large, before=sizes.small)
        sys.stderr.write(f"{sizes.large} runs made in {time.perf_counter() - began:.0f} s\n")
        large = _measure()
        for name, before in small.items():
            told[name] = {
                "small_ms": round(before, 2),
                "large_ms": round(large[name], 2),
                "ratio": round(large[name] / before, 2),
            }

    _in_a_database_of_its_own(work)
    worst = max(told, key=lambda name: told[name]["ratio"])
    for name, each in told.items():
        sys.stderr.write(f"{name:<26} {each['small_ms']:8.2f} ms {each['large_ms']:8.2f} ms  x{each['ratio']}\n")
    print(json.dumps({**vars(sizes), "questions": told, "worst": worst, "worst_ratio": told[worst]["ratio"]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

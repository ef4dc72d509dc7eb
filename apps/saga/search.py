"""Lists of runs: in pages, newest first, each with a total that is exact up to TOTAL_MAX.

Note [Two roads]
A filter finds few runs or many. Few are found through an index and sorted: in the order of the ids PostgreSQL might walk
through years of history for the last one. Many are met on the way, so for them the order of the ids is the quick road.
Which one it is, the count tells, which is needed anyway and stops early. A use case alone is counted in the order of its
pages, along its index: left to itself PostgreSQL reads everybody's runs, from the first one on, for those that are its.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.core.exceptions import EmptyResultSet
from django.db import OperationalError, connection
from django.db import transaction as django_transaction
from django.db.models import QuerySet
from django.db.models.fields.json import KeyTextTransform
from psycopg.errors import QueryCanceled

from apps.common.errors import DomainError
from apps.common.pagination import decode_id_cursor, encode_cursor
from apps.saga.attributes import AMOUNT, amount_of
from apps.saga.definition import versions_of
from apps.saga.filters import Filter, matching
from apps.saga.models import Approval, ApprovalStatus, Run
from apps.saga.pauses import UnknownUseCase
from apps.saga.waits import Promise, Wait, definition_of, promise_of, step_of, wait_of

TOTAL_MAX = 10_000  # a person who reads "10,000+" narrows the question; counting on would cost more than it tells
QUERY_TIME_MAX = timedelta(seconds=5)  # of each of the two statements: longer would be a report, not a question


class TooWide(DomainError):
    """The question would read too much history: narrow it, by use case, state, time or a key."""

    code, status = "R521", 422


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRun:
    """A run in a list. ``step``: where it is; ``amount``: what is at risk; ``wait`` None: it is over."""

    run_id: UUID
    global_id: UUID
    subject_id: UUID
    use_case: str
    version: int
    business_key: str
    idempotency_key: str
    status: str
    step: str
    failed_step: str
    error_code: str
    error_detail: str
    attributes: dict[str, Any]
    amount: Decimal | None
    started_at: datetime
    finished_at: datetime | None
    held_by: UUID | None
    wait: Wait | None
    promise: Promise | None
    deadline_at: datetime | None  # of the whole run: undone when it passes before the pivot, late after it
    parent_id: UUID | None  # the run of whose step it is a branch
    branch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRuns:
    """A page of runs. ``total`` of the whole question: exact, or TOTAL_MAX and more; ``amount``: the sum of that many."""

    rows: tuple[FoundRun, ...]
    next_cursor: str | None
    total: int
    total_is_exact: bool
    amount: Decimal

    @property
    def total_text(self) -> str:
        """1,284 or 10,000+."""
        return f"{self.total:,}" + ("" if self.total_is_exact else "+")


def find_runs(wanted: Filter, *, limit: int, now: datetime, cursor: str | None = None) -> FoundRuns:
    """The newest runs that a filter asks for, ``limit`` at most, those after the cursor.

    Raises UnknownUseCase, UnknownState, TooWide, and InvalidRequest for a cursor that is not ours.
    """
    before = decode_id_cursor(cursor) if cursor is not None else None
    check_use_case(wanted.use_case)
    try:
        with django_transaction.atomic():
            _limit_time()
            ids, total, amount = _few(wanted, limit=limit, before=before, now=now)
            if total > TOTAL_MAX and not (_is_of_use_case(wanted) and len(ids) > limit):
                ids = _first_of_many(wanted, limit=limit, before=before, now=now)
            rows = list(Run.objects.filter(pk__in=ids[:limit]).order_by("-pk").defer("data"))
            _limit_time(to_default=True)
    except OperationalError as error:
        if isinstance(error.__cause__, QueryCanceled):
            raise TooWide from None
        raise
    return FoundRuns(
        rows=_with_deciders([found(row, now=now) for row in rows]),
        next_cursor=encode_cursor(str(ids[limit - 1])) if len(ids) > limit else None,
        total=min(total, TOTAL_MAX),
        total_is_exact=total <= TOTAL_MAX,
        amount=amount,
    )


def check_use_case(use_case: str) -> None:
    """Is it one that we know, or that we knew? Raises UnknownUseCase: an empty list would be a lie about a typing error."""
    if use_case and not versions_of(use_case) and not Run.objects.filter(use_case=use_case).exists():
        raise UnknownUseCase(f"There is no use case {use_case}.")


def found(row: Run, *, now: datetime) -> FoundRun:
    """What is told of a run's row."""
    definition = definition_of(row)
    return FoundRun(
        run_id=row.id,
        global_id=row.global_id,
        subject_id=row.subject_id,
        use_case=row.use_case,
        version=row.version,
        business_key=row.business_key,
        idempotency_key=row.idempotency_key,
        status=row.status,
        step=step_of(row, definition),
        failed_step=row.failed_step,
        error_code=row.error_code,
        error_detail=row.error_detail,
        attributes=row.attributes,
        amount=amount_of(row.attributes),
        started_at=row.started_at,
        finished_at=row.finished_at,
        held_by=row.held_by,
        wait=wait_of(row, definition),
        promise=promise_of(row, definition, now=now),
        deadline_at=row.deadline_at,
        parent_id=row.parent_id,
        branch=row.branch,
    )


def _with_deciders(rows: list[FoundRun]) -> tuple[FoundRun, ...]:
    """Who decides a question that a run waits for may have changed since it was asked."""
    asking = [row.run_id for row in rows if row.wait is not None and row.wait.kind == "approval"]
    if not asking:
        return tuple(rows)
    asked = Approval.objects.filter(run_id__in=asking, status=ApprovalStatus.OPEN, delegated_at__isnull=False)
    deciders = {row.run_id: " or ".join(row.delegates) for row in asked}
    return tuple(
        replace(row, wait=replace(row.wait, whom=deciders[row.run_id])) if row.wait and row.run_id in deciders else row
        for row in rows
    )


def found_one(row: Run, *, now: datetime) -> FoundRun:
    """The same of one run."""
    return _with_deciders([found(row, now=now)])[0]


def _limit_time(*, to_default: bool = False) -> None:
    with connection.cursor() as cursor:
        value = "DEFAULT" if to_default else str(QUERY_TIME_MAX // timedelta(milliseconds=1))
        cursor.execute(f"SET LOCAL statement_timeout TO {value}")


_FEW = """
WITH found AS MATERIALIZED ({matching} LIMIT %s)
SELECT ARRAY(SELECT id FROM found WHERE %s::uuid IS NULL OR id < %s::uuid ORDER BY id DESC LIMIT %s), count(*),
       COALESCE(sum(CASE WHEN amount ~ '^-?[0-9]+[.][0-9]+$' THEN amount::numeric END), 0.00)
FROM found
"""


def _few(wanted: Filter, *, limit: int, before: UUID | None, now: datetime) -> tuple[list[UUID], int, Decimal]:
    """The ids of the page and one more, the count up to TOTAL_MAX + 1, and the sum of the amounts of that many.

    The ids are right if there are not more; those of a use case alone also if all of the page is among that many.
    """
    rows = _newest_of(wanted.use_case) if _is_of_use_case(wanted) else matching(wanted, now=now)
    found = rows.annotate(amount=KeyTextTransform(AMOUNT, "attributes")).values_list("id", "amount")
    try:
        sql, params = found.query.sql_with_params()
    except EmptyResultSet:
        return [], 0, Decimal(0)
    with connection.cursor() as cursor:
        cursor.execute(_FEW.format(matching=sql), (*params, TOTAL_MAX + 1, before, before, limit + 1))
        ids, total, amount = cursor.fetchone()
    return list(ids), total, Decimal(amount)


def _is_of_use_case(wanted: Filter) -> bool:
    return bool(wanted.use_case) and wanted == Filter(use_case=wanted.use_case)


def _newest_of(use_case: str) -> "QuerySet[Run]":
    # Not "= use_case": then its name would be no part of the order any more, and the index in this order not the only road.
    return Run.objects.filter(use_case__gte=use_case, use_case__lte=use_case).order_by("use_case", "-pk")


def _first_of_many(wanted: Filter, *, limit: int, before: UUID | None, now: datetime) -> list[UUID]:
    rows = matching(wanted, now=now).order_by("-pk")
    rows = rows.filter(pk__lt=before) if before is not None else rows
    return list(rows.values_list("pk", flat=True)[: limit + 1])

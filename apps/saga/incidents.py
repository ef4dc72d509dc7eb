"""Incidents: errors of one kind, with what they mean now. Kind: use case, step and code.

Note [Written without waiting]
A thousand runs may fail in the same way at once. So the engine only appends a row (saga_occurrence) in the commit of the
failure; nobody waits for anybody. Once a second one process folds these rows into the incidents and their trend. Whoever
reads adds what is not folded yet, so an incident is there with the commit that failed; an incident's id is made from its
kind, and known before its row is.

Note [Opened again]
There is one row a kind. When the error comes back after somebody handled it, the row is open again and counts its openings;
who handled it before is in the audit. What it affects now is never stored: it is counted from the runs themselves.

Note [Counted where it happened]
The run whose branch failed has the branch's error code, and an incident of its own when it is stuck: there a person finds
it. But the branch's incident has counted the error, so this one counts the runs, and not the error once more.
"""

import re
import uuid
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Count, Max, Min, Q

from apps.common.transactions import transaction, transaction_required
from apps.saga import audit
from apps.saga.models import IN_ERROR, Incident, IncidentTrend, Run, RunStatus
from apps.saga.telling import error_code, error_detail
from apps.saga.terms import ErrorClass

_NAMESPACE = UUID("5f0a0a54-6f7e-5d51-9d41-0c1f2f6f1c11")  # any fixed one
FOLD_MAX = 20_000  # occurrences in one statement; the next is a second away
BUCKET = timedelta(minutes=5)
_CODE = re.compile(r"R[0-9]{3}")  # of a refusal
_BUCKET = "5 minutes"  # the same for PostgreSQL
TREND_KEPT = timedelta(hours=25)  # a day, and the bucket that it begins in
QUIET = timedelta(minutes=30)  # an open incident that affects no run for so long is over by itself
TIDY_MAX = 500  # incidents looked at in one tidying
ITSELF = "the state manager"


def incident_id(use_case: str, step: str, error_code: str) -> UUID:
    """The id of this kind of error, in every database and at all times."""
    return uuid.uuid5(_NAMESPACE, "\n".join((use_case, step, error_code)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurred:
    """An error that an attempt ended with. Not ``counts``: that of a branch, which has counted it itself."""

    use_case: str
    step: str
    error_code: str
    error_class: str
    detail: str
    at: datetime
    counts: bool = True

    @property
    def incident_id(self) -> UUID:
        """The incident that it belongs to."""
        return incident_id(self.use_case, self.step, self.error_code)


def occurred_of(error: Exception, found: ErrorClass, *, use_case: str, step: str, at: datetime) -> Occurred:
    """An error of a step, as it is counted; see Note [Counted where it happened]."""
    return Occurred(
        use_case=use_case,
        step=step,
        error_code=error_code(error)[:50],
        error_class=found,
        detail=error_detail(error),
        at=at,
        counts=not getattr(error, "was_counted", False),
    )


_APPEND = """
INSERT INTO saga_occurrence (incident_id, use_case, step, error_code, error_class, detail, at, counts)
VALUES (%(incident_id)s, %(use_case)s, %(step)s, %(error_code)s, %(error_class)s, %(detail)s, %(at)s, %(counts)s)
"""


@transaction_required
def append(occurred: Iterable[Occurred]) -> None:
    """Write down errors in the commit that they belong to. Waits for nobody; see Note [Written without waiting]."""
    with connection.cursor() as cursor:
        for each in occurred:  # one or two: the errors of one run in one commit
            cursor.execute(_APPEND, {**asdict(each), "error_class": str(each.error_class), "incident_id": each.incident_id})


# --- Folding ------------------------------------------------------------------------------------------------------------
FOLD_LOCK = 7_241_201  # any fixed number: one process folds, the others leave it to it
_FOLD = """
WITH few AS MATERIALIZED (
    SELECT id FROM saga_occurrence ORDER BY id LIMIT %(most)s
), taken AS (
    DELETE FROM saga_occurrence o USING few WHERE o.id = few.id RETURNING o.*
), trend AS (
    INSERT INTO saga_incident_trend (incident_id, bucket, count)
    SELECT incident_id, date_bin(%(bucket)s::interval, at, 'epoch'), count(*) FILTER (WHERE counts) FROM taken GROUP BY 1, 2
    ON CONFLICT (incident_id, bucket) DO UPDATE SET count = saga_incident_trend.count + excluded.count
), counted AS (
    INSERT INTO saga_incident AS i (id, use_case, step, error_code, error_class, detail, first_seen, last_seen, count,
                                    status, openings, handled_by, handled_reason)
    SELECT incident_id, min(use_case), min(step), min(error_code), (array_agg(error_class ORDER BY at DESC))[1],
           (array_agg(detail ORDER BY at DESC))[1], min(at), max(at), count(*) FILTER (WHERE counts), 'OPEN', 1, '', ''
    FROM taken GROUP BY incident_id
    ON CONFLICT (id) DO UPDATE SET
        count = i.count + excluded.count, detail = excluded.detail, error_class = excluded.error_class,
        first_seen = least(i.first_seen, excluded.first_seen), last_seen = greatest(i.last_seen, excluded.last_seen),
        status = CASE WHEN excluded.last_seen > i.handled_at THEN 'OPEN' ELSE i.status END,
        openings = i.openings + (i.status = 'HANDLED' AND excluded.last_seen > i.handled_at)::int
)
SELECT count(*) FROM taken
"""


@transaction
def fold() -> int:
    """Count what was appended since the last time. How many; 0 when another process is at it. Safe to repeat."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [FOLD_LOCK])
        if not cursor.fetchone()[0]:
            return 0
    return _fold()


@transaction_required
def fold_now() -> None:
    """Count what was appended, in the caller's commit; waits for whoever is at it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [FOLD_LOCK])
    _fold()


def _fold() -> int:
    with connection.cursor() as cursor:
        cursor.execute(_FOLD, {"most": FOLD_MAX, "bucket": _BUCKET})
        folded: int = cursor.fetchone()[0]
    return folded


@transaction
def tidy(*, now: datetime) -> int:
    """Handle what is over by itself, and forget old trends. How many were handled. Safe to repeat."""
    IncidentTrend.objects.filter(bucket__lt=now - TREND_KEPT).delete()
    quiet = Incident.objects.select_for_update(skip_locked=True, no_key=True).filter(
        status=Incident.Status.OPEN, last_seen__lt=now - QUIET
    )
    closed = 0
    for row in quiet.order_by("last_seen")[:TIDY_MAX]:
        if not Run.objects.filter(affected_by(row.use_case, row.step, row.error_code)).exists():
            closed += 1
            _close(row, by=ITSELF, reason="No run is affected any more.", now=now)
    return closed


def adopt() -> int:
    """Make the incidents of runs that are in trouble without one: from before there were incidents, or moved to another
    version. How many. Safe to repeat."""
    found = Run.objects.filter(IN_ERROR).exclude(error_code="").exclude(status=RunStatus.COMPENSATING).order_by()
    kinds = found.values("use_case", "failed_step", "error_code").annotate(
        runs=Count("pk"), first=Min("started_at"), last=Max("started_at"), detail=Max("error_detail")
    )
    rows = [
        Incident(
            id=incident_id(kind["use_case"], kind["failed_step"], kind["error_code"]),
            use_case=kind["use_case"],
            step=kind["failed_step"],
            error_code=kind["error_code"],
            error_class=ErrorClass.BUSINESS if _CODE.fullmatch(kind["error_code"]) else ErrorClass.TECHNICAL,
            detail=kind["detail"],
            first_seen=kind["first"],
            last_seen=kind["last"],
            count=kind["runs"],
        )
        for kind in kinds[:TIDY_MAX]
    ]
    known = set(Incident.objects.filter(pk__in=[row.pk for row in rows]).values_list("pk", flat=True))
    Incident.objects.bulk_create([row for row in rows if row.pk not in known], ignore_conflicts=True)
    return len(rows) - len(known)


def _close(row: Incident, *, by: str, reason: str, now: datetime) -> None:
    row.status, row.handled_by, row.handled_at, row.handled_reason = Incident.Status.HANDLED, by, now, reason
    row.owner, row.owner_note, row.owned_at = "", "", None
    row.silenced_until, row.silenced_by, row.silenced_reason = None, "", ""
    row.save()


@transaction_required
def handle(incident: UUID, *, by: str, reason: str, now: datetime) -> bool:
    """Mark an incident as handled, with an audit row. False when there is none, or it is handled already."""
    row = Incident.objects.select_for_update(no_key=True).filter(pk=incident, status=Incident.Status.OPEN).first()
    if row is None:
        return False
    _close(row, by=by, reason=reason, now=now)
    detail = {"incident": str(row.id), "error_code": row.error_code, "count": row.count, "openings": row.openings}
    audit.note(at=now, actor=by, action="handle", use_case=row.use_case, step=row.step, reason=reason, detail=detail)
    return True


# --- What it means now --------------------------------------------------------------------------------------------------
def affected_by(use_case: str, step: str, error_code: str) -> Q:
    """The runs that are in error now, of this kind."""
    return IN_ERROR & ~Q(error_code="") & Q(use_case=use_case, failed_step=step, error_code=error_code)


AFFECTED_MAX = 10_000  # runs counted of one incident; more are told as "10,000+"
LIMIT_MAX = 200  # incidents in one answer
_KNOWN = """
WITH fresh AS (
    SELECT incident_id, min(use_case) AS use_case, min(step) AS step, min(error_code) AS error_code,
           (array_agg(error_class ORDER BY at DESC))[1] AS error_class, (array_agg(detail ORDER BY at DESC))[1] AS detail,
           count(*) FILTER (WHERE counts) AS count, min(at) AS first_seen, max(at) AS last_seen
    FROM saga_occurrence GROUP BY incident_id
), known AS (
    SELECT coalesce(i.id, f.incident_id) AS id, coalesce(i.use_case, f.use_case) AS use_case,
           coalesce(i.step, f.step) AS step, coalesce(i.error_code, f.error_code) AS error_code,
           coalesce(f.error_class, i.error_class) AS error_class, coalesce(f.detail, i.detail) AS detail,
           least(i.first_seen, f.first_seen) AS first_seen, greatest(i.last_seen, f.last_seen) AS last_seen,
           coalesce(i.count, 0) + coalesce(f.count, 0) AS count,
           CASE WHEN i.status = 'HANDLED' AND f.last_seen > i.handled_at THEN 'OPEN' ELSE coalesce(i.status, 'OPEN') END
               AS status,
           coalesce(i.openings, 1)
               + coalesce((i.status = 'HANDLED' AND f.last_seen > i.handled_at)::int, 0) AS openings,
           coalesce(i.handled_by, '') AS handled_by, i.handled_at, coalesce(i.handled_reason, '') AS handled_reason,
           coalesce(i.owner, '') AS owner, coalesce(i.owner_note, '') AS owner_note, i.owned_at,
           i.silenced_until, coalesce(i.silenced_by, '') AS silenced_by, coalesce(i.silenced_reason, '') AS silenced_reason
    FROM saga_incident i FULL JOIN fresh f ON f.incident_id = i.id
), wanted AS (
    SELECT * FROM known WHERE (%(id)s::uuid IS NULL OR id = %(id)s) AND (%(use_case)s = '' OR use_case = %(use_case)s)
      AND (%(step)s = '' OR step = %(step)s) AND (%(error_code)s = '' OR error_code = %(error_code)s)
      AND (%(status)s = '' OR status = %(status)s)
      AND (%(owner)s::text IS NULL OR owner = %(owner)s)
      AND (%(silenced)s::boolean IS NULL OR (coalesce(silenced_until > %(now)s, false)) = %(silenced)s)
), page AS (
    SELECT * FROM wanted WHERE %(seen)s::timestamptz IS NULL OR (last_seen, id) < (%(seen)s, %(after)s)
    ORDER BY last_seen DESC, id DESC LIMIT %(limit)s
)
SELECT page.*, now.runs, now.stuck, now.amount, (SELECT count(*) FROM wanted) AS total
FROM page, LATERAL (
    SELECT count(*) AS runs, count(*) FILTER (WHERE status = 'STUCK') AS stuck,
           COALESCE(sum(CASE WHEN attributes->>'amount' ~ '^-?[0-9]+[.][0-9]+$'
                             THEN (attributes->>'amount')::numeric END), 0.00) AS amount
    FROM (
        SELECT status, attributes FROM saga_run r
        WHERE r.finished_at IS NULL AND r.error_code <> '' AND (r.error_code <> '' OR r.status IN ('COMPENSATING', 'STUCK'))
          AND r.use_case = page.use_case AND r.failed_step = page.step AND r.error_code = page.error_code
        LIMIT %(affected)s
    ) AS few
) AS now
ORDER BY page.last_seen DESC, page.id DESC
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentState:
    """An incident, with what it means in this moment. ``count``: failed attempts ever; ``runs``: affected now."""

    id: UUID
    use_case: str
    step: str
    error_code: str
    error_class: str
    detail: str
    first_seen: datetime
    last_seen: datetime
    count: int
    status: str
    openings: int
    handled_by: str
    handled_at: datetime | None
    handled_reason: str
    owner: str
    owner_note: str
    owned_at: datetime | None
    silenced_until: datetime | None
    silenced_by: str
    silenced_reason: str
    runs: int
    stuck: int
    amount: Any  # Decimal: what is at risk
    total: int  # incidents of the whole question

    @property
    def runs_is_exact(self) -> bool:
        """False: so many and more."""
        return self.runs <= AFFECTED_MAX

    @property
    def open(self) -> bool:
        """Does it need somebody?"""
        return self.status == Incident.Status.OPEN

    def silent(self, *, now: datetime) -> bool:
        """Does nobody want to hear of it at the moment?"""
        return self.open and self.silenced_until is not None and self.silenced_until > now


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentQuestion:
    """Which incidents: those that meet everything that is given. ``status``: OPEN, HANDLED, or empty for both.

    ``owner``: empty for those that nobody has taken. ``silenced``: at the moment ``now``, which has to be given with it.
    """

    use_case: str = ""
    step: str = ""
    error_code: str = ""
    status: str = ""
    id: UUID | None = None
    owner: str | None = None
    silenced: bool | None = None
    now: datetime | None = None


def incidents(
    wanted: IncidentQuestion, *, limit: int, after: tuple[datetime, UUID] | None = None
) -> tuple[IncidentState, ...]:
    """The incidents that were seen last, those after ``after`` (last seen, id). True at the moment of the question."""
    seen, last = after or (None, None)
    values = {"limit": min(limit, LIMIT_MAX), "seen": seen, "after": last, "affected": AFFECTED_MAX + 1, **asdict(wanted)}
    with connection.cursor() as cursor:
        cursor.execute(_KNOWN, values)
        names = [column.name for column in cursor.description]
        return tuple(IncidentState(**dict(zip(names, row, strict=True))) for row in cursor.fetchall())


def incident(one: UUID) -> IncidentState | None:
    """One incident as it is now; None when no such error ever occurred."""
    return next(iter(incidents(IncidentQuestion(id=one), limit=1)), None)


def subjects_of(found: IncidentState, *, most: int) -> tuple[UUID, ...]:
    """What the runs that an incident affects now are about, at most so many."""
    rows = Run.objects.filter(affected_by(found.use_case, found.step, found.error_code)).order_by()
    return tuple(rows.values_list("subject_id", flat=True)[:most])


_TREND = """
SELECT incident_id, bucket, sum(count)::bigint FROM (
    SELECT incident_id, bucket, count FROM saga_incident_trend WHERE incident_id = ANY(%(ids)s) AND bucket >= %(since)s
    UNION ALL
    SELECT incident_id, date_bin(%(bucket)s::interval, at, 'epoch'), counts::int FROM saga_occurrence
    WHERE incident_id = ANY(%(ids)s) AND at >= %(since)s
) AS both_of_them GROUP BY 1, 2
"""


def trends(ids: Collection[UUID], *, buckets: int, now: datetime) -> dict[UUID, tuple[int, ...]]:
    """How often each incident occurred in the last so many times five minutes, the oldest first."""
    step = int(BUCKET.total_seconds())
    first = int(now.timestamp()) // step - (buckets - 1)
    since = datetime.fromtimestamp(first * step, tz=now.tzinfo)
    found = {each: [0] * buckets for each in ids}
    with connection.cursor() as cursor:
        cursor.execute(_TREND, {"ids": list(ids), "since": since, "bucket": _BUCKET})
        for one, bucket, count in cursor.fetchall():
            place = int(bucket.timestamp()) // step - first
            if 0 <= place < buckets:
                found[one][place] = count
    return {one: tuple(counts) for one, counts in found.items()}

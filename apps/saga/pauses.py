"""Pauses: a use case that begins no new run, a step that no run begins. Nothing fails; when it is lifted all go on.

Note [A held run]
It is live and has no ``due_at``, so no sweeper wakes it and nobody counts it as overdue; ``held_by`` names the pause.

Note [Holding and lifting]
A worker holds a run under a share lock on the pause, which it takes by reading it again in the same statement. Lifting
takes the row for itself. So either the worker finds the pause lifted and goes on, or the lifting waits for the worker's
commit and finds the run that it held. A run held by a pause that is lifted cannot remain.

Note [Known pauses]
Nobody reads the table for every step: a process remembers which keys are paused for KNOWN_FOR_S. That a key is paused is
only believed after the read above; that none is, is believed, so a pause is in force everywhere after that time at the
latest, and at once in the process that made it.
"""

import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import IntegrityError, connection
from django.db import transaction as django_transaction

from apps.common.errors import DomainError
from apps.common.transactions import durable, transaction, transaction_required
from apps.saga import audit, chains
from apps.saga.definition import UnknownDefinition, lookup, versions_of
from apps.saga.models import Circuit, Pause, Run, RunStatus

KNOWN_FOR_S = 0.25  # one small read a quarter second and process, however many steps run
RELEASE_RUNS_MAX = 500  # in one commit, woken one by one; the sweeper goes on with the next a second later
GOES_ON_WITHIN = timedelta(seconds=0.5)  # of a lost wake-up, the sweeper wakes it: who has waited waits no longer
HELD_COUNT_MAX = 10_000  # counted at most


class UnknownUseCase(DomainError):
    """There is no such use case."""

    code, status = "R511", 404


class UnknownStep(DomainError):
    """The use case has no such step."""

    code, status = "R512", 404


class UseCasePaused(DomainError):
    """The use case is paused: no new run begins."""

    code, retryable = "R513", True


class AlreadyPaused(DomainError):
    """It is paused already."""

    code = "R514"


class NotPaused(DomainError):
    """It is not paused, or by another pause than the one that you saw."""

    code = "R515"


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseState:
    """A pause. ``step`` empty: of the whole use case; ``breaker``: by the breaker; ``probe_at``: when it tries next."""

    id: UUID
    use_case: str
    step: str
    breaker: bool
    refuses: bool
    holds_undo: bool
    reason: str
    paused_by: str
    paused_at: datetime
    held: int
    probe_at: datetime | None

    @property
    def mode(self) -> str:
        """What becomes of new runs: ``wait`` or ``refuse``."""
        return "refuse" if self.refuses else "wait"


# --- Which keys are paused? -----------------------------------------------------------------------------------------
class _Known:
    """What this process remembers; see Note [Known pauses]."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: frozenset[tuple[str, str]] = frozenset()
        self._until = 0.0
        self._forgotten = 0

    def paused(self) -> frozenset[tuple[str, str]]:
        if time.monotonic() < self._until:
            return self._keys
        before = self._forgotten
        found = frozenset(Pause.objects.filter(lifted_at__isnull=True).values_list("use_case", "step"))
        with self._lock:
            if self._forgotten == before:  # else a pause was made while we read: our answer may be without it
                self._keys, self._until = found, time.monotonic() + KNOWN_FOR_S
        return found

    def forget(self) -> None:
        with self._lock:
            self._forgotten += 1
            self._until = 0.0


_known = _Known()
forget = _known.forget


def is_known(use_case: str, step: str = "") -> bool:
    """May it be paused? A hint, without a lock and mostly without a query."""
    return (use_case, step) in _known.paused()


@transaction_required
def standing_in_the_way(use_case: str, step: str = "", *, undo: bool = False) -> Pause | None:
    """The pause that holds whoever comes now, locked against being lifted until this transaction ends."""
    if not is_known(use_case, step):
        return None
    sql = """SELECT * FROM saga_pause WHERE use_case = %s AND step = %s AND lifted_at IS NULL AND (holds_undo OR NOT %s)
             ORDER BY kind DESC LIMIT 1 FOR SHARE"""  # by a person before by the breaker: that one lasts
    return next(iter(Pause.objects.raw(sql, [use_case, step, undo])), None)


@transaction_required
def check_start(use_case: str) -> Pause | None:
    """May a new run begin? None: yes; a pause: it waits. Raises UseCasePaused where new runs are refused."""
    found = standing_in_the_way(use_case)
    if found is not None and found.refuses:
        raise UseCasePaused(f"{use_case} is paused: {found.reason}")
    return found


# --- What a person does ---------------------------------------------------------------------------------------------
def _check_key(use_case: str, step: str) -> None:
    versions = versions_of(use_case)
    if not versions:
        raise UnknownUseCase(f"There is no use case {use_case}.")
    if step and not any(step == each.name for version in versions for each in version.all_steps):
        raise UnknownStep(f"{use_case} has no step {step}.")


@transaction
def pause(
    use_case: str,
    step: str = "",
    *,
    reason: str,
    by: str,
    now: datetime,
    refuses: bool = False,
    holds_undo: bool = True,
) -> UUID:
    """Begin no new run of a use case or, with ``step``, do not begin this step in any run. The id of the pause.

    ``refuses`` (of a use case): new runs are refused instead of waiting. ``holds_undo`` (of a step): its undo waits too.
    What is under way is not stopped. Raises UnknownUseCase, UnknownStep, AlreadyPaused, InvalidRequest.
    """
    why = audit.check_reason(reason)
    _check_key(use_case, step)
    kind = Pause.Kind.MANUAL
    row = insert(use_case, step, kind, reason=why, by=by, now=now, refuses=refuses and not step, holds_undo=holds_undo)
    if row is None:
        raise AlreadyPaused(f"{_words(use_case, step)} is paused already.")
    return row.id


@transaction_required
def insert(
    use_case: str,
    step: str,
    kind: Pause.Kind,
    *,
    reason: str,
    by: str,
    now: datetime,
    refuses: bool = False,
    holds_undo: bool = True,
) -> Pause | None:
    """Write a pause and its audit row. None when there is one of this kind."""
    what = {"use_case": use_case, "step": step, "refuses": refuses, "holds_undo": holds_undo}
    try:
        with django_transaction.atomic():
            row = Pause.objects.create(kind=kind, reason=reason, paused_by=by, paused_at=now, **what)
    except IntegrityError:
        return None
    detail = {"pause": str(row.id), "refuses": refuses, "holds_undo": holds_undo}
    audit.note(at=now, actor=by, action="pause", use_case=use_case, step=step, reason=reason, detail=detail)
    _changed()
    return row


def _changed() -> None:
    """Our own process knows it at once: now for the rest of this transaction, and again after whoever reads meanwhile."""
    forget()
    django_transaction.on_commit(forget)


@transaction
def lift(
    use_case: str, step: str = "", *, reason: str, by: str, now: datetime, pause_id: UUID | None = None
) -> tuple[UUID, ...]:
    """Let go on what is paused, also when the breaker did it. The ids of the pauses that ended.

    The runs that are held go on at once, at most RELEASE_RUNS_MAX of them; the sweeper lets as many others go each second.
    ``pause_id``: only if it is this one (what a page showed may be over). Raises UnknownUseCase, UnknownStep, NotPaused.
    """
    why = audit.check_reason(reason)
    _check_key(use_case, step)
    # The breaker before its pause, as everywhere: two that lock both never wait for each other in a circle.
    circuits = list(Circuit.objects.select_for_update(no_key=True).filter(use_case=use_case, step=step))
    rows = _locked(use_case, step)
    if not rows or (pause_id is not None and pause_id not in {row.id for row in rows}):
        raise NotPaused(f"{_words(use_case, step)} is not paused, or not by the pause that you saw.")
    for circuit in circuits:
        close(circuit)
    for row in rows:
        end(row, reason=why, by=by, now=now)
    return tuple(row.id for row in rows)


def _locked(use_case: str, step: str) -> list[Pause]:
    active = Pause.objects.select_for_update().filter(use_case=use_case, step=step, lifted_at__isnull=True)
    return list(active.order_by("id"))


def _words(use_case: str, step: str) -> str:
    return f"Step {step} of {use_case}" if step else use_case


def close(circuit: Circuit) -> None:
    """The breaker begins anew. Its row is locked."""
    circuit.failed_at, circuit.pause_id, circuit.probe_at, circuit.probe_run = [], None, None, None
    circuit.save()


@transaction_required
def end(row: Pause, *, reason: str, by: str, now: datetime) -> None:
    """Lift a pause whose row is locked, and let its first runs go on."""
    row.lifted_at, row.lifted_by, row.lift_reason = now, by, reason
    row.save(update_fields=["lifted_at", "lifted_by", "lift_reason"])
    released = _release(row, now=now, runs_max=RELEASE_RUNS_MAX)
    detail = {"pause": str(row.id), "released": released, "all": row.released_at is not None}
    audit.note(at=now, actor=by, action="resume", use_case=row.use_case, step=row.step, reason=reason, detail=detail)
    _changed()


# --- Letting go -----------------------------------------------------------------------------------------------------
# A locked run is one that somebody looks at in this moment, to find it held: it is let go in the next round.
_LOCK_HELD = "SELECT id FROM saga_run WHERE held_by = %s ORDER BY id LIMIT %s FOR NO KEY UPDATE SKIP LOCKED"
_RELEASE = """
UPDATE saga_run SET held_by = NULL, held_at = NULL, due_at = %s WHERE id = ANY(%s::uuid[])
RETURNING id, use_case, version, status, cursor
"""


def _let_go(pause_id: UUID, *, now: datetime, runs_max: int) -> list[tuple[UUID, str, int, str, int]]:
    """Free the oldest held runs; see Note [Locked first] in sweeper.py."""
    with connection.cursor() as cursor:
        cursor.execute(_LOCK_HELD, [pause_id, runs_max])
        ids = [run_id for (run_id,) in cursor.fetchall()]
        if not ids:
            return []
        cursor.execute(_RELEASE, [now + GOES_ON_WITHIN, ids])
        return sorted(cursor.fetchall())  # by id: who has waited longest is woken first


@transaction_required
def _release(row: Pause, *, now: datetime, runs_max: int) -> int:
    """Let the oldest held runs go on after the commit. How many; ``released_at`` is set when none is left."""
    found = _let_go(row.id, now=now, runs_max=runs_max)
    for run_id, use_case, version, status, position in found:
        _wake(run_id, use_case, version, status, position)
    if row.lifted_at is not None and not Run.objects.filter(held_by=row.id).exists():
        row.released_at = now
        row.save(update_fields=["released_at"])
    return len(found)


def _wake(run_id: UUID, use_case: str, version: int, status: str, position: int) -> None:
    if status == RunStatus.COMPENSATING:
        chains.undo_after_commit(run_id)
        return
    try:
        steps = len(lookup(use_case, version).steps)
    except UnknownDefinition:  # another process, which knows it, finds it due
        return
    chains.wake_after_commit(run_id, position, steps)


@transaction_required
def release_one(pause_id: UUID, *, now: datetime) -> UUID | None:
    """Let the oldest run that a pause holds go on, alone. Its id."""
    found = _let_go(pause_id, now=now, runs_max=1)
    if not found:
        return None
    _wake(*found[0])
    return found[0][0]


@durable
def release_rest(*, now: datetime) -> int:
    """Let more runs go on of pauses that are lifted and still hold some. How many."""
    waiting = Pause.objects.filter(lifted_at__isnull=False, released_at__isnull=True).order_by("lifted_at")
    released = 0
    for pause_id in list(waiting.values_list("pk", flat=True)[:RELEASE_RUNS_MAX]):
        with django_transaction.atomic():
            row = Pause.objects.select_for_update(skip_locked=True).filter(pk=pause_id, released_at__isnull=True).first()
            if row is not None:
                released += _release(row, now=now, runs_max=max(RELEASE_RUNS_MAX - released, 1))
    return released


# --- Questions ------------------------------------------------------------------------------------------------------
def pauses(use_case: str = "") -> tuple[PauseState, ...]:
    """The pauses in force, of one use case or of all, the oldest first, with how many runs each holds."""
    rows = Pause.objects.filter(lifted_at__isnull=True).order_by("paused_at")
    rows = rows.filter(use_case=use_case) if use_case else rows
    probes = dict(Circuit.objects.filter(pause_id__isnull=False).values_list("pause_id", "probe_at"))
    return tuple(
        PauseState(
            id=row.id,
            use_case=row.use_case,
            step=row.step,
            breaker=row.kind == Pause.Kind.BREAKER,
            refuses=row.refuses,
            holds_undo=row.holds_undo,
            reason=row.reason,
            paused_by=row.paused_by,
            paused_at=row.paused_at,
            held=Run.objects.filter(held_by=row.id).order_by()[:HELD_COUNT_MAX].count(),
            probe_at=probes.get(row.id),
        )
        for row in rows
    )

"""Breakers: a partner who is away is not asked for every run; the runs wait, and one tries from time to time.

Note [Failures in a row]
A technical failure adds its moment to the step's row, any answer of the partner (a refusal too) empties it. So the count is
exact over all processes, for one small statement per answer of a step that has a breaker, and none for the others. The row
is locked after the run's, and before the pause's, by everybody.
"""

from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection

from apps.common.transactions import durable, transaction, transaction_required
from apps.saga import pauses
from apps.saga.definition import AskStep, CallStep, Step
from apps.saga.models import AttemptOutcome, Circuit, Pause, StepStatus
from apps.saga.session import Session
from apps.saga.telling import error_code

ACTOR = "the breaker"
PROBES_MAX = 100  # in one round; the next is a second away
PATIENCE = timedelta(seconds=10)  # a probe's queue and commits, beside the time that its partner has


@transaction_required
def failed(session: Session, error: Exception) -> None:
    """The current step failed for a technical reason: count it, and pause the step when that was enough."""
    breaker = session.step.breaker
    if breaker is None:
        return
    use_case, step = session.run.use_case, session.step.name
    circuit = _locked(use_case, step)
    circuit.failed_at = [*circuit.failed_at, session.now][-breaker.failures :]
    if circuit.pause_id is not None:
        if circuit.probe_run == session.run.id:
            circuit.probe_run, circuit.probe_at = None, session.now + breaker.probe_after
    elif breaker.opens(circuit.failed_at):
        said = f"{error_code(error)}: {error}"[:200]
        reason = f"{breaker.failures} failures in a row. The last one: {said}"
        row = pauses.insert(use_case, step, Pause.Kind.BREAKER, reason=reason, by=ACTOR, now=session.now)
        if row is not None:
            circuit.pause_id, circuit.probe_at = row.id, session.now + breaker.probe_after
    circuit.save()


def _locked(use_case: str, step: str) -> Circuit:
    rows = Circuit.objects.select_for_update(no_key=True)
    found = rows.filter(use_case=use_case, step=step).first()
    if found is None:
        Circuit.objects.bulk_create([Circuit(use_case=use_case, step=step)], ignore_conflicts=True)
        found = rows.get(use_case=use_case, step=step)
    return found


# A refused run's answer, or one that was asked before the breaker opened, shows as well that the partner is back.
_SUCCEEDED = """
UPDATE saga_circuit SET failed_at = '{}' WHERE use_case = %s AND step = %s AND failed_at <> '{}'
RETURNING id, pause_id
"""


@transaction_required
def succeeded(session: Session) -> None:
    """The partner of the current step has answered: the count begins anew, and an open breaker closes."""
    if session.step.breaker is None:
        return
    with connection.cursor() as cursor:
        cursor.execute(_SUCCEEDED, [session.run.use_case, session.step.name])
        found = cursor.fetchone()
    if found is None or found[1] is None:
        return
    pause = Pause.objects.select_for_update().filter(pk=found[1], lifted_at__isnull=True).first()
    pauses.close(Circuit.objects.get(pk=found[0]))
    if pause is not None:
        pauses.end(pause, reason=f"{session.run.business_key} was answered", by=ACTOR, now=session.now)


_CLAIM = """
UPDATE saga_circuit SET probe_run = %(run)s, probe_at = %(again)s
WHERE use_case = %(use_case)s AND step = %(step)s AND pause_id IS NOT NULL
  AND (probe_run = %(run)s OR probe_at <= %(now)s)
"""


@transaction_required
def may_try(session: Session) -> bool:
    """Is this the run that tries whether the partner is back, or may it be? One that never ends is replaced by another."""
    again = session.now + _longest(session.step) + PATIENCE
    key = {"use_case": session.run.use_case, "step": session.step.name}
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, {**key, "run": session.run.id, "again": again, "now": session.now})
        claimed: bool = cursor.rowcount == 1
    return claimed


def _longest(step: Step) -> timedelta:
    if isinstance(step, CallStep):
        return step.lease
    return step.answer_within if isinstance(step, AskStep) else timedelta(0)


@transaction_required
def hold(session: Session, *, undo: bool) -> bool:
    """Hold the run if its current step is paused, unless it may try whether the partner is back."""
    run, step = session.run, session.step.name
    if not pauses.is_known(run.use_case, step):
        return False
    by_hand = Pause.objects.filter(use_case=run.use_case, step=step, kind=Pause.Kind.MANUAL, lifted_at__isnull=True)
    # Before the pause is locked; see Note [Failures in a row].
    if not by_hand.exists() and session.step.breaker is not None and may_try(session):
        return False
    found = pauses.standing_in_the_way(run.use_case, step, undo=undo)
    if found is None:
        return False
    if run.token is not None:  # its owner did not come back
        session.end_attempt(AttemptOutcome.UNKNOWN, undo=undo)
        if not undo:
            session.touch().status = StepStatus.UNKNOWN
    session.hold(found.id)
    return True


@transaction_required
def hold_instead(session: Session, *, undo: bool) -> bool:
    """The current step failed and is paused: hold the run. What is given up now might work when the pause is over."""
    found = pauses.standing_in_the_way(session.run.use_case, session.step.name, undo=undo)
    if found is None:
        return False
    if session.exhausted(undo=undo):
        session.forgive()
    session.touch().retry_at = None
    session.hold(found.id)
    return True


@durable
def probe(*, now: datetime) -> int:
    """For every open breaker whose time has come, let the oldest run that it holds try. How many."""
    due = Circuit.objects.filter(probe_at__lte=now, pause_id__isnull=False).order_by("probe_at")
    return sum(_probe(pk, now=now) for pk in list(due.values_list("pk", flat=True)[:PROBES_MAX]))


@transaction
def _probe(circuit_id: int, *, now: datetime) -> bool:
    circuit = Circuit.objects.select_for_update(skip_locked=True, no_key=True).filter(pk=circuit_id).first()
    if circuit is None or circuit.pause_id is None or circuit.probe_at is None or circuit.probe_at > now:
        return False
    run_id: UUID | None = pauses.release_one(circuit.pause_id, now=now)
    if run_id is None:
        return False  # nobody waits: the next run that comes is the one that tries
    # Until its own worker says how long it may take; if nobody works, another one is chosen.
    circuit.probe_run, circuit.probe_at = run_id, now + PATIENCE
    circuit.save(update_fields=["probe_run", "probe_at"])
    return True

"""What the engine holds while it works: a locked run with its steps, changed in memory and written once."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from uuid import UUID

from apps.common import clock
from apps.messaging.public import Collected, collecting
from apps.observability import ids
from apps.saga import attributes, budgets, chains, endings, hooks, incidents, lives, reading, storage
from apps.saga.definition import (
    COMPENSABLE,
    PIVOT,
    AskStep,
    CallStep,
    Definition,
    LocalStep,
    Output,
    Revise,
    Run,
    Step,
    lookup,
)
from apps.saga.models import LIVE, Attempt, AttemptOutcome, RunStatus, StepStatus
from apps.saga.rows import AttemptRow, RunRow, StepRow
from apps.saga.telling import error_code, error_detail
from apps.saga.terms import ErrorClass

# How long after a hand-over the sweeper thinks a wake-up lost. Short, because a second wake-up does no harm.
GRACE = timedelta(seconds=5)
# An attempt without an outcome is one whose owner did not come back.
DOUBTFUL = (AttemptOutcome.UNKNOWN, AttemptOutcome.NO_ANSWER, AttemptOutcome.ASKED, "")


class InvalidRevision(RuntimeError):
    """A step has revised what follows it into a list that its definition does not allow: a bug."""


class Session:
    """One run under its row lock. Every change goes through here and is written by ``flush``."""

    def __init__(self, run: RunRow, steps: list[StepRow], definition: Definition, *, now: datetime, new: bool) -> None:
        self.run, self.steps, self.definition, self.now = run, steps, definition, now
        self._new = new
        self._run_before = None if new else storage.changes(run)
        self._was_over = run.finished_at is not None
        self._collected: Collected | None = None
        self.answered: int | None = None  # the number of the attempt whose answer has come, if it is not the newest
        self._touched: set[int] = set()
        self._before_revision: list[StepRow] | None = None  # the steps in the database, once a step revised them
        self._attempts: dict[tuple[int, bool, int], AttemptRow] = {}  # begun here, or ended here
        self._occurred: dict[UUID, incidents.Occurred] = {}
        self.known: dict[str, object] = {}

    @classmethod
    def create(cls, definition: Definition, run: RunRow, *, now: datetime) -> "Session":
        """A run that is not in the database yet: ``flush`` inserts it with all its steps."""
        rows = lives.rows_of(run.id, definition.steps, first=0, is_new=True)
        return cls(run, rows, definition, now=now, new=True)

    @classmethod
    def lock(cls, run_id: UUID, *, now: datetime, wait: bool = False) -> "Session | None":
        """Lock the run and read its steps. None when there is no such run, or (without ``wait``) another owner is at it."""
        found = storage.lock(run_id, wait=wait)
        if found is None:
            return None
        run, steps = found
        return cls(run, steps, lookup(run.use_case, run.version), now=now, new=False)

    # --- Reading ----------------------------------------------------------------------------------------------------
    @property
    def position(self) -> int:
        """The step to do, or to undo."""
        return self.run.cursor

    @property
    def at_end(self) -> bool:
        """Is every step done?"""
        return self.run.cursor >= len(self.steps)

    @property
    def step(self) -> Step:
        """The definition of the current step."""
        return self.definition.by_name[self.row.name]

    @property
    def row(self) -> StepRow:
        """The row of the current step."""
        return self.steps[self.position]

    def view(self, *, undo: bool = False, whole: bool = False) -> Run:
        """What the current step is handed; ``whole``: with the outputs of all steps, as the run's owner is."""
        run, row = self.run, self.row
        outputs = {step.name: step.output for step in self.steps if step.output}
        key = f"{run.id}:{row.position}" + (f"~{row.redone}" if row.redone else "")
        return Run(
            id=run.id,
            global_id=run.global_id,
            use_case=run.use_case,
            subject_id=run.subject_id,
            business_key=run.business_key,
            step=row.name,
            step_key=key,
            reply_key=f"{key}:undo" if undo else key,
            data=run.data,
            outputs=outputs if whole else reading.handed(self.step, outputs),
            attempt=row.undo_attempts if undo else row.attempts,
            now=self.now,
            renamed=run.renamed,
            redone={step.name: step.redone for step in self.steps if step.redone},
            known=self.known,
        )

    @contextmanager
    def ids(self) -> Iterator[None]:
        """Log and publish under this run's ids."""
        names = ",".join(step.name for step in self.steps)
        with ids.bound(global_id=str(self.run.global_id), run_id=str(self.run.id), steps=names):
            yield

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Work under this run's ids. At the end everything that changed is written, with what was published."""
        with self.ids(), collecting() as self._collected:
            yield
            self.flush()
        self._collected = None

    def exhausted(self, *, undo: bool = False) -> bool:
        """Is a budget of the current step used up, of attempts or of time? What was forgiven does not count."""
        return budgets.exhausted(self, undo=undo)

    def attempt_began(self, number: int, *, undo: bool) -> datetime | None:
        """When a try of the current step began."""
        known = self._attempts.get((self.position, undo, number))
        if known is not None and known.started_at is not None:
            return known.started_at
        found = Attempt.objects.filter(run_id=self.run.id, position=self.position, undo=undo, number=number)
        return found.values_list("started_at", flat=True).first()

    def was_in_doubt(self) -> bool:
        """May an earlier attempt of the current step have happened, although nobody said so?"""
        if self.row.attempts <= 1 or not isinstance(self.step, AskStep | CallStep):
            return False
        earlier = Attempt.objects.filter(
            run_id=self.run.id, position=self.position, undo=False, number__lt=self.row.attempts
        )
        return earlier.filter(outcome__in=DOUBTFUL).exists()

    @property
    def can_turn(self) -> bool:
        """Can everything be undone that the run has done, and may have done? For a run that goes forward."""
        row = self.row
        if row.kind == COMPENSABLE:
            return True
        untouched = row.attempts == 0 or (row.kind == PIVOT and isinstance(self.step, LocalStep))
        return untouched and all(earlier.kind == COMPENSABLE for earlier in self.steps[: self.position])

    # --- Changing ---------------------------------------------------------------------------------------------------
    def touch(self, position: int | None = None) -> StepRow:
        """The row of the current step, or of another one, to be written."""
        self._touched.add(self.position if position is None else position)
        return self.row if position is None else self.steps[position]

    def begin_attempt(self, *, undo: bool = False) -> None:
        """Count one more try of the current step."""
        row = self.touch()
        moment = clock.now()
        if undo:
            row.undo_attempts += 1
            row.undo_started_at = row.undo_started_at or moment
        else:
            row.attempts += 1
            row.started_at = row.started_at or moment
        number = row.undo_attempts if undo else row.attempts
        attempt = AttemptRow(position=row.position, undo=undo, number=number, started_at=moment)
        self._attempts[row.position, undo, number] = attempt

    def end_attempt(self, outcome: AttemptOutcome, *, undo: bool = False, error: Exception | None = None) -> None:
        """Close the newest try of the current step, or the one that was answered, in whatever session it was begun."""
        row = self.row
        key = (row.position, undo, self.answered or (row.undo_attempts if undo else row.attempts))
        attempt = self._attempts.get(key)
        if attempt is None:  # begun in an earlier one, so it is only ended here
            attempt = self._attempts[key] = AttemptRow(position=key[0], undo=undo, number=key[2])
        attempt.outcome = outcome
        attempt.finished_at = None if outcome is AttemptOutcome.ASKED else clock.now()
        if error is not None:
            attempt.error_code, attempt.error_detail = error_code(error)[:50], error_detail(error)

    def done(self, output: Output) -> None:
        """The current step is done: the run goes to the next one, or is complete. Raises InvalidRevision."""
        if isinstance(output, Revise):
            self._revise(output.then)
            output = dict(output.output or {})
        row = self.touch()
        row.status, row.output = StepStatus.DONE, output or {}
        row.finished_at, row.waiting_until, row.retry_at = clock.now(), None, None
        row.error_code = row.error_detail = ""
        self.run.failed_step = self.run.error_code = self.run.error_detail = ""
        self.run.status, self.run.cursor, self.run.token = RunStatus.RUNNING, self.run.cursor + 1, None
        self.run.hook_failures = None
        self.run.due_at = self.now + GRACE
        if self.at_end:
            self.finish(RunStatus.COMPLETED)

    def _revise(self, then: tuple[str, ...]) -> None:
        """From here on these steps follow."""
        kept = self.steps[: self.position + 1]
        problem = self.definition.revision_problem([*(row.name for row in kept), *then])
        if problem:
            raise InvalidRevision(f"{self.row.name} revises what follows it, and {problem}")
        if self._before_revision is None:
            self._before_revision = self.steps
        # Done again, a step may leave out one that had begun the first time.
        self._touched = {position for position in self._touched if position < len(kept)}
        named = [self.definition.by_name[name] for name in then]
        self.steps = kept + lives.rows_of(self.run.id, named, first=len(kept), is_new=self._new)
        if not self._new:
            chains.wake_soon_after_commit(self.run.id)  # its chain has as many links as it had steps

    def wait(self, until: datetime) -> None:
        """The current step has asked: park the run."""
        row = self.touch()
        row.status, row.waiting_until, row.retry_at = StepStatus.WAITING, until, None
        self.run.status, self.run.due_at, self.run.token = RunStatus.WAITING, until, None

    def wait_undo(self, until: datetime) -> None:
        """The undo of the current step has asked: park the run."""
        row = self.touch()
        row.status, row.waiting_until = StepStatus.UNDOING, until
        self.run.due_at = until

    def fail(self, error: Exception, *, status: StepStatus) -> None:
        """Write down why the current step did not succeed."""
        row = self.touch()
        row.status, row.waiting_until = status, None
        row.error_code, row.error_detail = error_code(error)[:50], error_detail(error)
        row.finished_at = clock.now()
        self.run.token = self.run.hook_failures = None
        self.blame(error)

    def retry_after(self, delay: timedelta, *, undo: bool = False) -> None:
        """Try the current step (or its undo) again after that, or at the end of its budget of time, which comes first."""
        ends = budgets.ends_at(self, undo=undo)
        self._later(min(self.now + delay, ends) if ends is not None and ends > self.now else self.now + delay)

    def _later(self, moment: datetime) -> None:
        self.touch().retry_at = self.run.due_at = moment
        self.run.token = None

    def retry_hook(self, failures: int) -> None:
        """End the run again later."""
        self._later(self.now + budgets.backoff(self.step, failures))

    def forgive(self) -> None:
        """The budgets of the current step begin anew."""
        row = self.touch()
        row.attempts_forgiven, row.undo_attempts_forgiven = row.attempts, row.undo_attempts

    def own(self, token: UUID, until: datetime) -> None:
        """Hand the current step to one owner, who talks to the network outside any transaction."""
        self.touch().retry_at = None
        self.run.token, self.run.lease_until, self.run.due_at = token, until, until

    def hold(self, pause_id: UUID) -> None:
        """A pause is in the way of the current step: nobody wakes the run until it is lifted."""
        if self.step.retry_within is not None or self.step.undo_retry_within is not None:
            self.forgive()  # the pause's time is nobody's fault
        self.run.held_by, self.run.held_at = pause_id, self.now
        self.run.due_at, self.run.token = None, None

    def reopen(self, error: Exception) -> None:
        """A run that was complete turns around: the whole of which it is a branch does."""
        self.run.finished_at = None
        self.run.error_code, self.run.error_detail = error_code(error)[:50], error_detail(error)
        self.begin_undo(include_current=False)

    def blame(self, error: Exception) -> None:
        """The run is in trouble, because of its current step, until this one is done after all."""
        self.run.failed_step = self.row.name
        self.tell(error)

    def tell(self, error: Exception) -> None:
        """The run is in trouble, because of this."""
        self.run.error_code, self.run.error_detail = error_code(error)[:50], error_detail(error)

    def begin_undo(self, *, include_current: bool) -> None:
        """Turn around: from here on what was done is undone, in reverse order."""
        self.run.hook_failures = None
        self.run.status, self.run.due_at, self.run.token = RunStatus.COMPENSATING, self.now + GRACE, None
        if include_current:
            self.touch().status = StepStatus.UNDOING
        self._undo_from(self.position if include_current else self.position - 1)

    def undone(self) -> None:
        """The current step is undone: go to the one before it that was done, or finish."""
        row = self.touch()
        row.status, row.undone_at = StepStatus.UNDONE, clock.now()
        row.waiting_until, row.retry_at = None, None
        self.run.token = self.run.hook_failures = None
        self.run.due_at = self.now + GRACE
        self._undo_from(self.position - 1)

    def _undo_from(self, position: int) -> None:
        while position >= 0 and self.steps[position].status not in hooks.UNDOABLE:
            position -= 1
        if position >= 0:
            self.run.cursor = position
            self.steps[position].retry_at = None
            self._touched.add(position)
            return
        self.run.cursor = 0
        hooks.end_undone(self)

    def stick(self, error: Exception, found: ErrorClass = ErrorClass.TECHNICAL) -> None:
        """The run can go neither forward nor back: a person must look at it. Never silent."""
        self.blame(error)
        self.occurred(error, found)
        hooks.end_stuck(self)

    def occurred(self, error: Exception, found: ErrorClass, *, step: str = "") -> None:
        """Count an error of the current step, or of another one; once in a commit."""
        where = {"use_case": self.run.use_case, "step": step or self.row.name}
        each = incidents.occurred_of(error, found, at=self.now, **where)
        self._occurred.setdefault(each.incident_id, each)

    def finish(self, status: RunStatus) -> None:
        """The run is over."""
        self.run.status, self.run.finished_at = status, clock.now()
        self.run.due_at, self.run.token = None, None

    def roll_back(self, first: int, end: int) -> None:
        """Steps first…end-1 worked, and their effects were rolled back with their savepoint: nothing to undo."""
        for position in range(first, end):
            row = self.steps[position]
            row.status, row.output, row.finished_at = StepStatus.ROLLED_BACK, {}, clock.now()
            self._touched.add(position)
            if attempt := self._attempts.get((position, False, row.attempts)):
                attempt.outcome = AttemptOutcome.ROLLED_BACK

    def forget(self, first: int, end: int) -> None:
        """Steps first…end were rolled back and will be done again in this very transaction: as if never begun."""
        for position in range(first, min(end + 1, len(self.steps))):
            row = self.steps[position]
            attempt = self._attempts.get((position, False, row.attempts))
            if attempt is not None and attempt.started_at is not None:
                del self._attempts[position, False, row.attempts]
                row.attempts -= 1
            row.status, row.output, row.finished_at, row.waiting_until = StepStatus.PENDING, {}, None, None
        if self._before_revision is not None:
            self.steps, self._before_revision = self._before_revision, None
            self._touched = {position for position in self._touched if position < len(self.steps)}
        self.run.cursor, self.run.status = first, RunStatus.RUNNING
        self.run.due_at, self.run.finished_at = self.now + GRACE, None

    # --- Writing ----------------------------------------------------------------------------------------------------
    def flush(self) -> None:
        """Write everything that changed, and what was published while it did."""
        run, attempts = self.run, self._attempts.values()
        if run.due_at is not None or run.status not in LIVE:  # it goes on, or is over: no pause holds it any more
            run.held_by = run.held_at = None
        run.at_step = "" if run.finished_at is not None or self.at_end else self.row.name
        self._keep_deadline()
        if self.definition.attributes:
            outputs = {step.name: step.output for step in self.steps if step.output}
            run.attributes = attributes.collect(self.definition.attributes, run.data, outputs)
        if self._new:
            storage.insert(self.run, self.steps, attempts, self._collected)
        elif (
            self._before_revision is not None or self._touched or attempts or storage.changes(self.run) != self._run_before
        ):
            if self._before_revision is not None:
                storage.replace_steps(self.run.id, self.steps)
            steps = [self.steps[position] for position in sorted(self._touched)]
            storage.update(self.run, steps, attempts, self._collected)
        if self._occurred:
            incidents.append(self._occurred.values())
        self._new, self._touched, self._attempts, self._before_revision = False, set(), {}, None
        self._occurred = {}
        self._run_before = storage.changes(self.run)
        is_over = run.finished_at is not None
        if is_over and not self._was_over and (run.parent_id is not None or run.awaits_key is not None):
            endings.ended(run, now=self.now, due=self.now + GRACE)
        self._was_over = is_over

    def _keep_deadline(self) -> None:
        """A run that will be undone at its deadline wakes by itself at that moment."""
        run = self.run
        if run.deadline_at is None or run.due_at is None or not self.now < run.deadline_at < run.due_at:
            return
        if run.token is None and run.status in (RunStatus.RUNNING, RunStatus.WAITING) and self.can_turn:
            run.due_at = run.deadline_at

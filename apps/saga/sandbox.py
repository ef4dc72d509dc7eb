"""The sandbox: the steps of a run, done for real in a transaction that is rolled back.

Note [What is real]
Local steps run as they are and see each other's effects, under keys of the fork's own: what the run itself has done is
there, as it is now. Nothing is sent: an ask or a call takes the answer that an operator gave, else the output that the run
had, else it is marked as not asked, and the steps after it go on without its output. Messages are collected and told, not
written. The locks that the steps take are held until the rollback, so the time is short and nobody is waited for long.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import DatabaseError, OperationalError, connection
from django.db import transaction as django_transaction
from psycopg.errors import LockNotAvailable, QueryCanceled

from apps.common.errors import DomainError
from apps.common.transactions import durable, kept_savepoint
from apps.messaging.public import Collected, collecting
from apps.observability import ids
from apps.saga import reading
from apps.saga.definition import AskStep, CallStep, Definition, LocalStep, Revise, Run, Step
from apps.saga.telling import error_code, error_detail

TIME_MAX = timedelta(seconds=5)  # of the whole fork: its locks are in everybody's way meanwhile
LOCK_WAIT_MAX = timedelta(seconds=1)  # for one lock: the real runs come first
PUBLISHED_MAX = 1_000  # messages that are told of; a step that sends more is no step

RUN, TAKEN, GIVEN, NOT_ASKED, KEPT = "run", "taken", "given", "not_asked", "kept"


class ForkTooSlow(DomainError):
    """The fork took too long, or waited too long for a lock of a real run: nothing is kept of it."""

    code, retryable = "R558", True


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be played: a run's steps by name, those before ``at`` as they were done."""

    fork_id: UUID
    definition: Definition
    subject_id: UUID
    business_key: str
    data: Mapping[str, Any]
    renamed: Mapping[str, str]
    names: tuple[str, ...]
    at: int
    outputs: Mapping[str, dict[str, Any]]  # of the run's steps that were done, wherever they stand
    answers: Mapping[str, dict[str, Any]]  # by step: what the other side shall have said


@dataclass(slots=True, kw_only=True)
class PlayedStep:
    """``how``: run, taken (from the run), given (by the operator), not_asked, or kept (before the fork's first step)."""

    name: str
    how: str
    status: str
    output: dict[str, Any] = field(default_factory=dict)
    error_code: str = ""
    error_detail: str = ""
    took_ms: float = 0.0


@dataclass(slots=True, kw_only=True)
class Played:
    """What came of it."""

    steps: list[PlayedStep]
    published: list[dict[str, str]]
    posted: dict[str, Any]
    error: Exception | None = None


# --- Witnesses ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Keys:
    """Under which keys the fork's steps have written: step keys, and the trace keys made from them."""

    steps: tuple[str, ...]
    tracekeys: tuple[UUID, ...]


Witness = Callable[[Keys], Sequence[Mapping[str, Any]]]
_witnesses: dict[str, Witness] = {}


def witness(name: str, tell: Witness) -> None:
    """Have an app tell what a fork has written in its tables: called before the rollback, when Django's values are JSON."""
    _witnesses[name] = tell


# --- Playing --------------------------------------------------------------------------------------------------------------
@durable
def play(plan: Plan, *, now: datetime) -> Played:
    """Do the steps, tell what they did, and roll it back. Raises ForkTooSlow."""
    try:
        with django_transaction.atomic(durable=True):
            try:
                return _play(plan, now=now)
            finally:
                django_transaction.set_rollback(True)
    except OperationalError as error:
        if isinstance(error.__cause__, QueryCanceled | LockNotAvailable):
            raise ForkTooSlow from error
        raise


def _play(plan: Plan, *, now: datetime) -> Played:
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL statement_timeout TO {_milliseconds(TIME_MAX)}")
        cursor.execute(f"SET LOCAL lock_timeout TO {_milliseconds(LOCK_WAIT_MAX)}")
    names = ",".join(plan.names)
    with ids.bound(global_id=str(plan.fork_id), run_id=str(plan.fork_id), steps=names), collecting() as collected:
        player = _Player(plan, now)
        error = player.play()
        keys = Keys(
            tuple(f"{plan.fork_id}:{at}" for at in range(len(player.names))),
            tuple(player.view(at).tracekey for at in range(len(player.names))),
        )
        posted = {name: [dict(row) for row in tell(keys)] for name, tell in _witnesses.items()}
        return Played(steps=player.steps, published=_published(collected), posted=posted, error=error)


def _milliseconds(length: timedelta) -> int:
    return length // timedelta(milliseconds=1)


def _published(collected: Collected) -> list[dict[str, str]]:
    rows = json.loads(collected.take().get("messages", "[]"))
    return [{name: row[name] for name in ("topic", "schema", "key")} for row in rows[:PUBLISHED_MAX]]


class _Player:
    """Goes through the steps once, forward."""

    def __init__(self, plan: Plan, now: datetime) -> None:
        self.plan, self.now = plan, now
        self.names = list(plan.names)
        self.steps: list[PlayedStep] = []
        self._outputs: dict[str, dict[str, Any]] = {}
        self._until = time.monotonic() + TIME_MAX.total_seconds()

    def play(self) -> Exception | None:
        """The error that ended it, or None."""
        for name in self.names[: self.plan.at]:
            output = dict(self.plan.outputs.get(name, {}))
            self._outputs[name] = output
            self.steps.append(PlayedStep(name=name, how=KEPT, status="DONE", output=output))
        while len(self.steps) < len(self.names):
            if time.monotonic() > self._until:
                raise ForkTooSlow
            error = self._step(len(self.steps))
            if error is not None:
                return error
        return None

    def view(self, position: int) -> Run:
        """What the step at this position is handed."""
        plan = self.plan
        key = f"{plan.fork_id}:{position}"
        return Run(
            id=plan.fork_id,
            global_id=plan.fork_id,
            use_case=plan.definition.use_case,
            subject_id=plan.subject_id,
            business_key=plan.business_key,
            step=self.names[position],
            step_key=key,
            reply_key=key,
            data=plan.data,
            outputs=reading.handed(plan.definition.by_name[self.names[position]], self._outputs),
            attempt=1,
            now=self.now,
            renamed=plan.renamed,
        )

    def _step(self, position: int) -> Exception | None:
        name = self.names[position]
        step = self.plan.definition.by_name[name]
        played = PlayedStep(name=name, how=self._how(step), status="DONE")
        self.steps.append(played)
        began = time.perf_counter()
        error: Exception | None = None
        try:
            with kept_savepoint():
                played.output = self._outputs[name] = self._do(step, played.how, self.view(position))
        except DatabaseError as broken:
            if isinstance(broken.__cause__, QueryCanceled | LockNotAvailable) or not connection.is_usable():
                raise
            error = broken
        except Exception as failure:
            error = failure
        played.took_ms = round((time.perf_counter() - began) * 1000, 3)
        if error is not None:
            played.status = "REFUSED" if isinstance(error, DomainError) else "FAILED"
            played.error_code, played.error_detail = error_code(error)[:50], error_detail(error)
        elif played.how == NOT_ASKED:
            played.status = "NOT_ASKED"
        return error

    def _how(self, step: Step) -> str:
        if isinstance(step, LocalStep):
            return RUN
        if step.name in self.plan.answers:
            return GIVEN
        return TAKEN if step.name in self.plan.outputs else NOT_ASKED

    def _do(self, step: Step, how: str, view: Run) -> dict[str, Any]:
        if how == NOT_ASKED:
            return {}
        if how == TAKEN:
            return dict(self.plan.outputs[step.name])
        if isinstance(step, LocalStep):
            found = step.handle(view)
        elif isinstance(step, AskStep):
            found = step.on_answer(view, dict(self.plan.answers[step.name]))
        elif isinstance(step, CallStep):
            found = step.record(view, dict(self.plan.answers[step.name]))
        else:
            found = dict(self.plan.answers[step.name])  # a person's, a timer's, other runs': what it would have come to
        if isinstance(found, Revise):
            self.names[len(self.steps) :] = found.then
            if problem := self.plan.definition.revision_problem(self.names):
                raise RuntimeError(f"{step.name} revises what follows it, and {problem}")
            found = dict(found.output or {})
        return found or {}

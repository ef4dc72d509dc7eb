"""The door of the saga: what a journey is made of, how it is run, governed, found and paused."""

from apps.saga.attributes import Attribute, InvalidAttribute
from apps.saga.audit import Intervention, interventions
from apps.saga.definition import (
    COMPENSABLE,
    PIVOT,
    RETRIABLE,
    AskStep,
    CallStep,
    Definition,
    Hooks,
    Kind,
    LocalStep,
    Run,
    Step,
    register,
    registered,
)
from apps.saga.engine import Progress, Resumed, advance, resume, start
from apps.saga.overview import RunsInNeed, RunsNow, run_input, runs_in_need, runs_in_need_count, runs_now
from apps.saga.pauses import (
    AlreadyPaused,
    NotPaused,
    PauseState,
    UnknownStep,
    UnknownUseCase,
    UseCasePaused,
    pause,
    pauses,
)
from apps.saga.pauses import lift as lift_pause
from apps.saga.queries import AttemptState, RunState, StepState, as_json, run_state, run_state_by_key
from apps.saga.terms import Breaker, Sla
from apps.saga.triage import NotStuck, retry

__all__ = [
    "COMPENSABLE",
    "PIVOT",
    "RETRIABLE",
    "AlreadyPaused",
    "AskStep",
    "AttemptState",
    "Attribute",
    "Breaker",
    "CallStep",
    "Definition",
    "Hooks",
    "Intervention",
    "InvalidAttribute",
    "Kind",
    "LocalStep",
    "NotPaused",
    "NotStuck",
    "PauseState",
    "Progress",
    "Resumed",
    "Run",
    "RunState",
    "RunsInNeed",
    "RunsNow",
    "Sla",
    "Step",
    "StepState",
    "UnknownStep",
    "UnknownUseCase",
    "UseCasePaused",
    "advance",
    "as_json",
    "interventions",
    "lift_pause",
    "pause",
    "pauses",
    "register",
    "registered",
    "resume",
    "retry",
    "run_input",
    "run_state",
    "run_state_by_key",
    "runs_in_need",
    "runs_in_need_count",
    "runs_now",
    "start",
]

"""The door of the saga: what a journey is made of, and how it is run."""

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
from apps.saga.queries import AttemptState, RunState, StepState, as_json, run_state, run_state_by_key
from apps.saga.triage import NotStuck, retry

__all__ = [
    "COMPENSABLE",
    "PIVOT",
    "RETRIABLE",
    "AskStep",
    "AttemptState",
    "CallStep",
    "Definition",
    "Hooks",
    "Kind",
    "LocalStep",
    "NotStuck",
    "Progress",
    "Resumed",
    "Run",
    "RunState",
    "RunsInNeed",
    "RunsNow",
    "Step",
    "StepState",
    "advance",
    "as_json",
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

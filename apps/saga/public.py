"""The door of the saga: what a journey is made of, how it is run, governed, found and paused."""

from apps.saga.adoption import Adopted, AdoptOutcome, KeyTaken, Legacy, adopt, adopt_many
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
from apps.saga.filters import Condition, Filter, condition
from apps.saga.forks import ForkState, ForkStep, NeverReached, NotOver, fork, fork_state, forks_of
from apps.saga.overview import RunsInNeed, RunsNow, run_input, runs_in_need, runs_in_need_count, runs_now
from apps.saga.pace import WINDOWS, Ending, Failures, Pace, Spread, StepPace, Trouble, pace
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
from apps.saga.places import Longest, Place, places
from apps.saga.queries import AttemptState, RunState, StepState, as_json, find_run, run_state, run_state_by_key
from apps.saga.resets import NotFailed, NotReopened, UnsafeReset, reset
from apps.saga.sandbox import ForkTooSlow, Keys, witness
from apps.saga.search import FoundRun, FoundRuns, TooWide, find_runs
from apps.saga.terms import Breaker, Sla
from apps.saga.triage import NotStuck, retry
from apps.saga.usecases import StepTerms, UseCaseState, drawing, use_case, use_cases
from apps.saga.values import InvalidValues
from apps.saga.waits import Wait

__all__ = [
    "COMPENSABLE",
    "PIVOT",
    "RETRIABLE",
    "WINDOWS",
    "AdoptOutcome",
    "Adopted",
    "AlreadyPaused",
    "AskStep",
    "AttemptState",
    "Attribute",
    "Breaker",
    "CallStep",
    "Condition",
    "Definition",
    "Ending",
    "Failures",
    "Filter",
    "ForkState",
    "ForkStep",
    "ForkTooSlow",
    "FoundRun",
    "FoundRuns",
    "Hooks",
    "Intervention",
    "InvalidAttribute",
    "InvalidValues",
    "KeyTaken",
    "Keys",
    "Kind",
    "Legacy",
    "LocalStep",
    "Longest",
    "NeverReached",
    "NotFailed",
    "NotOver",
    "NotPaused",
    "NotReopened",
    "NotStuck",
    "Pace",
    "PauseState",
    "Place",
    "Progress",
    "Resumed",
    "Run",
    "RunState",
    "RunsInNeed",
    "RunsNow",
    "Sla",
    "Spread",
    "Step",
    "StepPace",
    "StepState",
    "StepTerms",
    "TooWide",
    "Trouble",
    "UnknownStep",
    "UnknownUseCase",
    "UnsafeReset",
    "UseCasePaused",
    "UseCaseState",
    "Wait",
    "adopt",
    "adopt_many",
    "advance",
    "as_json",
    "condition",
    "drawing",
    "find_run",
    "find_runs",
    "fork",
    "fork_state",
    "forks_of",
    "interventions",
    "lift_pause",
    "pace",
    "pause",
    "pauses",
    "places",
    "register",
    "registered",
    "reset",
    "resume",
    "retry",
    "run_input",
    "run_state",
    "run_state_by_key",
    "runs_in_need",
    "runs_in_need_count",
    "runs_now",
    "start",
    "use_case",
    "use_cases",
    "witness",
]

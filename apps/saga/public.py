"""The door of the saga: what a journey is made of, how it is run, governed, found and paused."""

from apps.saga.attributes import Attribute, InvalidAttribute
from apps.saga.audit import Intervention, interventions
from apps.saga.bulk import INLINE_RUNS, ApprovalExpired, NotWaiting, SamePerson, UnknownAction
from apps.saga.bulk import approve as approve_action
from apps.saga.bulk import cancel as cancel_action
from apps.saga.bulk import request as request_action
from apps.saga.bulk import work as work_on_action
from apps.saga.bulk_state import ActionState, ItemState, action_items, action_state, latest_actions
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
from apps.saga.edits import InvalidInput
from apps.saga.engine import Progress, Resumed, advance, resume, start
from apps.saga.filters import Condition, Filter, condition
from apps.saga.incidents import IncidentQuestion, IncidentState, incident, incidents, subjects_of, trends
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
from apps.saga.search import FoundRun, FoundRuns, TooWide, find_runs
from apps.saga.selection import NoRuns, Preview, Selection, TooManyRuns, UnknownIncident, preview
from apps.saga.terms import Breaker, ErrorClass, Sla
from apps.saga.triage import Action, NotStuck, Stale, Wanted, token_of_state, wanted
from apps.saga.usecases import StepTerms, UseCaseState, drawing, use_case, use_cases
from apps.saga.waits import Wait

__all__ = [
    "COMPENSABLE",
    "INLINE_RUNS",
    "PIVOT",
    "RETRIABLE",
    "WINDOWS",
    "Action",
    "ActionState",
    "AlreadyPaused",
    "ApprovalExpired",
    "AskStep",
    "AttemptState",
    "Attribute",
    "Breaker",
    "CallStep",
    "Condition",
    "Definition",
    "Ending",
    "ErrorClass",
    "Failures",
    "Filter",
    "FoundRun",
    "FoundRuns",
    "Hooks",
    "IncidentQuestion",
    "IncidentState",
    "Intervention",
    "InvalidAttribute",
    "InvalidInput",
    "ItemState",
    "Kind",
    "LocalStep",
    "Longest",
    "NoRuns",
    "NotPaused",
    "NotStuck",
    "NotWaiting",
    "Pace",
    "PauseState",
    "Place",
    "Preview",
    "Progress",
    "Resumed",
    "Run",
    "RunState",
    "RunsInNeed",
    "RunsNow",
    "SamePerson",
    "Selection",
    "Sla",
    "Spread",
    "Stale",
    "Step",
    "StepPace",
    "StepState",
    "StepTerms",
    "TooManyRuns",
    "TooWide",
    "Trouble",
    "UnknownAction",
    "UnknownIncident",
    "UnknownStep",
    "UnknownUseCase",
    "UseCasePaused",
    "UseCaseState",
    "Wait",
    "Wanted",
    "action_items",
    "action_state",
    "advance",
    "approve_action",
    "as_json",
    "cancel_action",
    "condition",
    "drawing",
    "find_run",
    "find_runs",
    "incident",
    "incidents",
    "interventions",
    "latest_actions",
    "lift_pause",
    "pace",
    "pause",
    "pauses",
    "places",
    "preview",
    "register",
    "registered",
    "request_action",
    "resume",
    "run_input",
    "run_state",
    "run_state_by_key",
    "runs_in_need",
    "runs_in_need_count",
    "runs_now",
    "start",
    "subjects_of",
    "token_of_state",
    "trends",
    "use_case",
    "use_cases",
    "wanted",
    "work_on_action",
]

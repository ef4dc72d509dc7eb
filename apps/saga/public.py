"""The door of the saga: what a journey is made of, how it is run, governed, found and paused."""

from apps.saga.adoption import Adopted, AdoptOutcome, KeyTaken, Legacy, adopt, adopt_many
from apps.saga.attributes import Attribute, InvalidAttribute
from apps.saga.audit import Intervention, interventions
from apps.saga.bulk import INLINE_RUNS, ApprovalExpired, NotWaiting, SamePerson, UnknownAction
from apps.saga.bulk import approve as approve_action
from apps.saga.bulk import cancel as cancel_action
from apps.saga.bulk import request as request_action
from apps.saga.bulk import work as work_on_action
from apps.saga.bulk_state import ActionState, ItemState, action_items, action_state, latest_actions, latest_of_incidents
from apps.saga.care import IncidentOver, IncidentTaken, NotYourIncident
from apps.saga.care import release as release_incident
from apps.saga.care import silence as silence_incident
from apps.saga.care import take as take_incident
from apps.saga.care import unsilence as unsilence_incident
from apps.saga.choreography.errors import AlreadyUndone, GlobalIdTaken, NotChoreographed, PastThePivot, UnknownSaga
from apps.saga.choreography.verbs import compensate as compensate_elsewhere
from apps.saga.choreography.verbs import run_of as choreographed_run
from apps.saga.closing import ClosedByHand, standing
from apps.saga.deciding import (
    AlreadyDecided,
    ApprovalOver,
    Approvals,
    ApprovalState,
    Decider,
    NotYours,
    YourOwn,
    approval,
    approvals_of,
    decide,
    find_approvals,
)
from apps.saga.definition import (
    COMPENSABLE,
    PIVOT,
    REFUSE,
    RETRIABLE,
    WAIT,
    AskStep,
    CallStep,
    Definition,
    Hooks,
    Kind,
    LocalStep,
    Revise,
    Run,
    Step,
    register,
    registered,
)
from apps.saga.edits import InvalidInput, OutputField, output_fields
from apps.saga.elsewhere import Known
from apps.saga.elsewhere import register as register_elsewhere
from apps.saga.engine import Progress, Resumed, advance, resume, start
from apps.saga.filters import Condition, Filter, condition
from apps.saga.forks import ForkState, ForkStep, NeverReached, NotOver, fork, fork_state, forks_of
from apps.saga.incidents import IncidentQuestion, IncidentState, incident, incidents, subjects_of, trends
from apps.saga.locks import KeyHeld, LockView
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
from apps.saga.pipes import PipeHooks, PipeStep
from apps.saga.places import Longest, Place, places
from apps.saga.progress import RunProgress, StepProgress, run_progress
from apps.saga.queries import AttemptState, ChildState, RunState, StepState, as_json, find_run, run_state, run_state_by_key
from apps.saga.reading import OutputNeeded
from apps.saga.resets import NotFailed, NotReopened, ResetChoice, UnsafeReset, reset, reset_choices
from apps.saga.sandbox import ForkTooSlow, Keys, witness
from apps.saga.search import FoundRun, FoundRuns, TooWide, find_runs
from apps.saga.selection import NoRuns, Preview, Selection, TooManyRuns, UnknownIncident, preview
from apps.saga.shapes import ApprovalStep, Child, Decision, ParallelStep, Question, SubSagaStep, TimerStep
from apps.saga.terms import Breaker, ErrorClass, Sla
from apps.saga.triage import Action, NotStuck, Stale, Wanted, token_of_state, wanted
from apps.saga.usecases import StepTerms, UseCaseState, drawing, use_case, use_cases
from apps.saga.values import InvalidValues
from apps.saga.waits import Wait

__all__ = [
    "COMPENSABLE",
    "INLINE_RUNS",
    "PIVOT",
    "REFUSE",
    "RETRIABLE",
    "WAIT",
    "WINDOWS",
    "Action",
    "ActionState",
    "AdoptOutcome",
    "Adopted",
    "AlreadyDecided",
    "AlreadyPaused",
    "AlreadyUndone",
    "ApprovalExpired",
    "ApprovalOver",
    "ApprovalState",
    "ApprovalStep",
    "Approvals",
    "AskStep",
    "AttemptState",
    "Attribute",
    "Breaker",
    "CallStep",
    "Child",
    "ChildState",
    "ClosedByHand",
    "Condition",
    "Decider",
    "Decision",
    "Definition",
    "Ending",
    "ErrorClass",
    "Failures",
    "Filter",
    "ForkState",
    "ForkStep",
    "ForkTooSlow",
    "FoundRun",
    "FoundRuns",
    "GlobalIdTaken",
    "Hooks",
    "IncidentOver",
    "IncidentQuestion",
    "IncidentState",
    "IncidentTaken",
    "Intervention",
    "InvalidAttribute",
    "InvalidInput",
    "InvalidValues",
    "ItemState",
    "KeyHeld",
    "KeyTaken",
    "Keys",
    "Kind",
    "Known",
    "Legacy",
    "LocalStep",
    "LockView",
    "Longest",
    "NeverReached",
    "NoRuns",
    "NotChoreographed",
    "NotFailed",
    "NotOver",
    "NotPaused",
    "NotReopened",
    "NotStuck",
    "NotWaiting",
    "NotYourIncident",
    "NotYours",
    "OutputField",
    "OutputNeeded",
    "Pace",
    "ParallelStep",
    "PastThePivot",
    "PauseState",
    "PipeHooks",
    "PipeStep",
    "Place",
    "Preview",
    "Progress",
    "Question",
    "ResetChoice",
    "Resumed",
    "Revise",
    "Run",
    "RunProgress",
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
    "StepProgress",
    "StepState",
    "StepTerms",
    "SubSagaStep",
    "TimerStep",
    "TooManyRuns",
    "TooWide",
    "Trouble",
    "UnknownAction",
    "UnknownIncident",
    "UnknownSaga",
    "UnknownStep",
    "UnknownUseCase",
    "UnsafeReset",
    "UseCasePaused",
    "UseCaseState",
    "Wait",
    "Wanted",
    "YourOwn",
    "action_items",
    "action_state",
    "adopt",
    "adopt_many",
    "advance",
    "approval",
    "approvals_of",
    "approve_action",
    "as_json",
    "cancel_action",
    "choreographed_run",
    "compensate_elsewhere",
    "condition",
    "decide",
    "drawing",
    "find_approvals",
    "find_run",
    "find_runs",
    "fork",
    "fork_state",
    "forks_of",
    "incident",
    "incidents",
    "interventions",
    "latest_actions",
    "latest_of_incidents",
    "lift_pause",
    "output_fields",
    "pace",
    "pause",
    "pauses",
    "places",
    "preview",
    "register",
    "register_elsewhere",
    "registered",
    "release_incident",
    "request_action",
    "reset",
    "reset_choices",
    "resume",
    "run_input",
    "run_progress",
    "run_state",
    "run_state_by_key",
    "runs_in_need",
    "runs_in_need_count",
    "runs_now",
    "silence_incident",
    "standing",
    "start",
    "subjects_of",
    "take_incident",
    "token_of_state",
    "trends",
    "unsilence_incident",
    "use_case",
    "use_cases",
    "wanted",
    "witness",
    "work_on_action",
]

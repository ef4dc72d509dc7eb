"""What a person can do about a run. Each is a page of its own: what would happen, a reason, and only then the click.

A new action is one more ``Offer`` here, and a page under its name in urls.py. An offer whose page is not there is not made;
one that is not possible now stays to be seen, and says why. The page asks the state manager again, which has the last word.
"""

from collections.abc import Callable
from dataclasses import dataclass

from django.urls import NoReverseMatch, reverse

from apps.saga.public import RunState, StepState

OPEN = frozenset({"RUNNING", "WAITING", "COMPENSATING", "STUCK"})
PERMISSION = "saga.change_run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Something that can be done, on the ``page`` that takes the run's id.

    ``closed`` tells why it cannot be done to this run now; empty: it can.
    """

    page: str
    icon: str
    title: str
    says: str
    verb: str
    closed: Callable[[RunState], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAction:
    """The same, for one run and one person. ``href`` is empty when it is closed, and ``closed`` says why."""

    icon: str
    title: str
    says: str
    verb: str
    href: str
    closed: str


# --- When a door is closed --------------------------------------------------------------------------------------------
def _here(run: RunState) -> StepState | None:
    """The step that waits to be tried again, if one does."""
    return next((step for step in run.steps if step.retry_at is not None), None)


def _not_alone(run: RunState) -> str:
    """Only what is stuck, or waits for its next attempt, needs a push."""
    if run.status not in OPEN:
        return "it is over"
    if run.status == "STUCK":
        return ""
    if run.held_by is not None:
        return "not while a pause holds it"
    return "" if _here(run) is not None else "not while it goes on by itself"


def _not_back(run: RunState) -> str:
    if run.status not in OPEN:
        return "it is over"
    if run.status == "COMPENSATING" or any(step.status == "UNDOING" for step in run.steps):
        return "it is undoing already"
    passed = any(step.kind != "COMPENSABLE" and step.status == "DONE" for step in run.steps)
    return "it has passed its pivot" if passed else ""


def _not_skipped(run: RunState) -> str:
    waiting = any(step.waiting_until is not None for step in run.steps)
    return "" if run.status in {"WAITING", "COMPENSATING"} and waiting else _not_alone(run)


def _not_handled(run: RunState) -> str:
    if run.status == "STUCK":
        return ""  # of a branch the state manager says whether its parent waits for it
    return "it is over" if run.status not in OPEN else "only a stuck run is closed by a person"


def _not_failed(run: RunState) -> str:
    if run.parent_id is not None:
        return "it is a branch of another run"
    return "" if run.status in {"STUCK", "COMPENSATED"} else "only what is stuck or undone begins again"


def _not_ended(run: RunState) -> str:
    return "not while it goes on by itself" if run.status in OPEN - {"STUCK"} else ""


OFFERS = (
    Offer(
        page="backoffice_run_retry",
        icon="again",
        title="Retry now",
        says="with a fresh budget of attempts",
        verb="Retry now…",
        closed=_not_alone,
    ),
    Offer(
        page="backoffice_run_edit",
        icon="edit",
        title="Edit and retry",
        says="change what the run is given",
        verb="Edit…",
        closed=_not_alone,
    ),
    Offer(
        page="backoffice_run_compensate",
        icon="undo",
        title="Undo it",
        says="what was done, in reverse order",
        verb="Undo…",
        closed=_not_back,
    ),
    Offer(
        page="backoffice_run_skip",
        icon="skip",
        title="Skip the step",
        says="with the output that it should have had",
        verb="Skip…",
        closed=_not_skipped,
    ),
    Offer(
        page="backoffice_run_handled",
        icon="lock",
        title="Close by hand",
        says="it was settled in another way",
        verb="Close…",
        closed=_not_handled,
    ),
    Offer(
        page="backoffice_run_reset",
        icon="run",
        title="Begin again at a step",
        says="the same run, from there on",
        verb="Reset…",
        closed=_not_failed,
    ),
    Offer(
        page="backoffice_run_fork",
        icon="fork",
        title="New run from a step",
        says="a copy that sends and posts nothing",
        verb="Fork…",
        closed=_not_ended,
    ),
)


def actions_of(run: RunState, *, may: Callable[[str], bool]) -> tuple[RunAction, ...]:
    """What this person can do about this run, the likeliest first."""
    found = []
    for offer in OFFERS:
        try:
            href = reverse(f"admin:{offer.page}", args=[run.run_id])
        except NoReverseMatch:
            continue
        closed = offer.closed(run) or ("" if may(PERMISSION) else "you lack the permission")
        found.append(
            RunAction(
                icon=offer.icon,
                title=offer.title,
                says=offer.says,
                verb=offer.verb,
                href="" if closed else href,
                closed=closed,
            )
        )
    return tuple(found)

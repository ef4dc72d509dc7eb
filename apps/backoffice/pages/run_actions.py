"""What a person can do about a run. Each is a page of its own: what would happen, a reason, and only then the click.

A new action is one more ``Offer`` here, and a page under its name in urls.py. An offer whose page is not there is not made;
one that is not possible now stays to be seen, and says why.
"""

from collections.abc import Callable
from dataclasses import dataclass

from django.urls import NoReverseMatch, reverse

from apps.saga.public import RunState

OPEN = frozenset({"RUNNING", "WAITING", "COMPENSATING", "STUCK"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Something that can be done. ``closed`` tells why it cannot be done to this run now; empty: it can."""

    page: str
    permission: str
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


def _only_stuck(run: RunState) -> str:
    if run.status == "STUCK":
        return ""
    if run.held_by is not None:
        return "not while a pause holds it"
    return "not while it goes on by itself" if run.status in OPEN else "it is over"


def _only_open(run: RunState) -> str:
    if run.status not in OPEN:
        return "it is over"
    return "not while it is undoing" if run.status == "COMPENSATING" else ""


def _only_ended(run: RunState) -> str:
    return "not while it goes on by itself" if run.status in OPEN - {"STUCK"} else ""


OFFERS = (
    Offer(
        page="backoffice_run_retry",
        permission="saga.change_run",
        icon="again",
        title="Retry now",
        says="with a fresh budget of attempts",
        verb="Retry now…",
        closed=_only_stuck,
    ),
    Offer(
        page="backoffice_run_edit",
        permission="saga.change_run",
        icon="edit",
        title="Edit and retry",
        says="change what the step is given",
        verb="Edit…",
        closed=_only_stuck,
    ),
    Offer(
        page="backoffice_run_compensate",
        permission="saga.change_run",
        icon="undo",
        title="Undo it",
        says="what was done, in reverse order",
        verb="Undo…",
        closed=_only_open,
    ),
    Offer(
        page="backoffice_run_skip",
        permission="saga.change_run",
        icon="skip",
        title="Skip the step",
        says="with the output that it should have had",
        verb="Skip…",
        closed=_only_stuck,
    ),
    Offer(
        page="backoffice_run_handled",
        permission="saga.change_run",
        icon="ok",
        title="Mark as handled",
        says="it was settled by another way",
        verb="Record…",
        closed=_only_stuck,
    ),
    Offer(
        page="backoffice_run_reset",
        permission="saga.change_run",
        icon="run",
        title="Begin again at a step",
        says="the same run, from there on",
        verb="Reset…",
        closed=_only_ended,
    ),
    Offer(
        page="backoffice_run_fork",
        permission="saga.change_run",
        icon="fork",
        title="New run from a step",
        says="a copy that sends and posts nothing",
        verb="Fork…",
        closed=_only_ended,
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
        closed = offer.closed(run) or ("" if may(offer.permission) else "you lack the permission")
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

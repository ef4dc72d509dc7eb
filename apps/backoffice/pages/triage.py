"""Triage: what broke, is it growing, what is it worth? Groups of runs with the same trouble, the dearest first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone

from apps.backoffice.components import trend as trends
from apps.backoffice.components.formats import count, money, plural, sentence, words
from apps.backoffice.components.links import list_link
from apps.backoffice.components.trend import Trend
from apps.backoffice.components.verdicts import Verdict
from apps.backoffice.live import fragment
from apps.orders import public as orders
from apps.saga import public as saga

VIEW, ACT = "saga.view_run", "saga.change_run"
LIVE_MS = 1000
GROUPS_MAX = 50  # on the page; more kinds of trouble at once are one trouble
CUSTOMERS_GROUPS_MAX = 20  # the dearest ones are told with their customers, a query or two each
CUSTOMERS_RUNS_MAX = 500  # a group of more runs is told without its customers
RUNS_SHOWN = 50
ACTIONS_SHOWN = 5
TABS = ("open", "mine", "unowned", "silenced", "approvals", "handled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """An incident as the list shows it."""

    incident: saga.IncidentState
    trend: Trend
    customers: int | None
    latest: "Batch | None"

    silent: bool = False

    @property
    def cause(self) -> str:
        """What happened, in words: what the newest error said, else its name."""
        said = self.incident.detail.strip().splitlines()
        return sentence_of(said[0]) if said else sentence(self.incident.error_code)

    @property
    def runs_text(self) -> str:
        """How many runs it affects: 1,284 or 10,000+."""
        runs = self.incident.runs
        return count(runs) if self.incident.runs_is_exact else f"{count(runs - 1)}+"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a progress bar."""

    count: int
    word: str
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """An action and how far it is."""

    state: saga.ActionState
    parts: tuple[Part, ...]

    @property
    def title(self) -> str:
        """Retry 61 runs."""
        return f"{self.verb} {plural(self.state.runs, 'run', 'runs')}"

    @property
    def verb(self) -> str:
        """Retry, Undo, Skip a step of, Close."""
        return VERBS[self.state.action]

    @property
    def settled(self) -> str:
        """58 done, 2 left alone, 1 failed."""
        said = [f"{count(part.count)} {part.word}" for part in self.parts if part.count]
        return ", ".join(said) or "no run was affected any more"

    @property
    def who(self) -> str:
        """Who asked, and who agreed."""
        agreed = f", approved by {name_of(self.state.approved_by)}" if self.state.approved_by else ""
        return f"{name_of(self.state.asked_by)}{agreed}"


VERBS = {"retry": "Retry", "compensate": "Undo", "skip": "Skip a step of", "handle": "Close"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TriagePage:
    """All that the list says."""

    tab: str
    asked: str
    title: str
    text: str
    groups: tuple[Group, ...]
    total: int
    counts: Mapping[str, int]
    batches: tuple[Batch, ...]
    approvals: tuple[Batch, ...]
    needs: tuple["Need", ...]
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Runs that need somebody without an error: they undo for long, or nobody woke them."""

    text: str
    href: str
    since: datetime


def sentence_of(text: str) -> str:
    """With a capital, as a title."""
    return text[:1].upper() + text[1:]


def name_of(actor: str) -> str:
    """Whom people know: chief, of user:chief."""
    return actor.partition(":")[2] or actor


def require(request: HttpRequest, permission: str) -> User:
    """The user, if they may. Raises PermissionDenied."""
    user = request.user
    if not isinstance(user, User) or not user.has_perm(permission):
        raise PermissionDenied
    return user


def actor_of(user: AbstractBaseUser | AnonymousUser) -> str:
    """Who is asking, as the audit and the ledger call them."""
    return f"user:{user.get_username()}"


# --- The list -----------------------------------------------------------------------------------------------------------
def list_view(request: HttpRequest) -> HttpResponse:
    """The whole page."""
    require(request, VIEW)
    page = _page(request)
    query = urlencode({"tab": page.tab, "q": page.asked})
    context = {
        **admin.site.each_context(request),
        "title": "Triage",
        "page": page,
        "may_act": request.user.has_perm(ACT),
        "live_url": f"{reverse('admin:backoffice_triage_live')}?{query}",
        "live_ms": LIVE_MS,
    }
    return render(request, "backoffice/triage.html", context)


def live_view(request: HttpRequest) -> HttpResponse:
    """The parts of the page that change, alone."""
    require(request, VIEW)
    context = {"page": _page(request), "may_act": request.user.has_perm(ACT)}
    return fragment(request, "backoffice/triage_parts.html", context)


def _page(request: HttpRequest) -> TriagePage:
    tab = request.GET.get("tab", "open")
    tab = tab if tab in TABS else "open"
    asked = request.GET.get("q", "").replace("\x00", "").strip()[:100]
    return page_of(tab=tab, asked=asked, me=actor_of(request.user), now=timezone.now())


def page_of(*, tab: str, asked: str, me: str, now: datetime) -> TriagePage:
    """The page of a tab, for what somebody looks for (a use case, a step or a code)."""
    found = saga.incidents(saga.IncidentQuestion(status="OPEN"), limit=GROUPS_MAX)
    opened, tabs = [each for each in found if not each.silent(now=now)], _tabs(found, me=me, now=now)
    shown = tabs[tab] if tab in tabs else saga.incidents(saga.IncidentQuestion(status="HANDLED"), limit=GROUPS_MAX)
    wanted = [each for each in shown if _is_asked_for(each, asked)] if tab != "approvals" else []
    latest = saga.latest_actions(limit=ACTIONS_SHOWN)
    counts = saga.trends([each.id for each in {*opened, *wanted}], buckets=trends.BUCKETS, now=now)
    drawn = {each.id: trends.trend(counts[each.id], last_seen=each.last_seen, now=now) for each in {*opened, *wanted}}
    groups = _groups(wanted, drawn, now=now)
    title, text = _verdict(opened, total=_open_count(found, opened), grow=sum(drawn[each.id].grows for each in opened))
    return TriagePage(
        tab=tab,
        asked=asked,
        title=title,
        text=text,
        groups=groups,
        total=shown[0].total if shown else 0,
        counts={name: len(each) for name, each in tabs.items()} | {"open": _open_count(found, opened)},
        batches=tuple(batch_of(each) for each in latest),
        approvals=tuple(batch_of(each) for each in saga.latest_actions(limit=50, waiting=True)),
        needs=_needs(now=now),
        now=now,
    )


def _tabs(found: Sequence[saga.IncidentState], *, me: str, now: datetime) -> dict[str, list[saga.IncidentState]]:
    """The open groups by whose they are. A silenced one stands among the silenced alone."""
    opened = [each for each in found if not each.silent(now=now)]
    return {
        "open": opened,
        "mine": [each for each in opened if each.owner == me],
        "unowned": [each for each in opened if not each.owner],
        "silenced": [each for each in found if each.silent(now=now)],
    }


def _open_count(found: Sequence[saga.IncidentState], opened: Sequence[saga.IncidentState]) -> int:
    """Of all that are open; the page shows GROUPS_MAX of them at most."""
    return found[0].total - (len(found) - len(opened)) if found else 0


def _is_asked_for(each: saga.IncidentState, asked: str) -> bool:
    text = asked.lower()
    return not text or any(text in place.lower() for place in (each.use_case, each.step, each.error_code, each.detail))


def _groups(found: Sequence[saga.IncidentState], drawn: Mapping[UUID, Trend], *, now: datetime) -> tuple[Group, ...]:
    """The dearest first."""
    latest = saga.latest_of_incidents([each.id for each in found])
    dearest = sorted(found, key=lambda each: (each.amount, each.runs, each.last_seen), reverse=True)
    return tuple(
        Group(
            incident=each,
            trend=drawn[each.id],
            customers=_customers(each) if place < CUSTOMERS_GROUPS_MAX else None,
            latest=batch_of(latest[each.id]) if each.id in latest else None,
            silent=each.silent(now=now),
        )
        for place, each in enumerate(dearest)
    )


def _customers(each: saga.IncidentState) -> int | None:
    if not 0 < each.runs <= CUSTOMERS_RUNS_MAX:
        return None
    return orders.at_stake(saga.subjects_of(each, most=CUSTOMERS_RUNS_MAX)).customers or None


def _verdict(opened: Sequence[saga.IncidentState], *, total: int, grow: int) -> tuple[str, str]:
    if not opened:
        return "No group is open.", "Nothing is broken that a person would have to look at."
    runs, amount = sum(each.runs for each in opened), sum((each.amount for each in opened), Decimal(0))
    title = f"{plural(total, 'group', 'groups')}, {plural(runs, 'run', 'runs')}, {money(amount)} at risk"
    grows = {0: "No group grows.", 1: "One group grows."}.get(grow, f"{count(grow)} groups grow.")
    dearest = max(opened, key=lambda each: each.amount)
    if amount and dearest.amount * 2 >= amount and len(opened) > 1:
        share = round(dearest.amount * 100 / amount)
        return title, f"{grows} {share}\u00a0% of the money waits at {words(dearest.step)}."
    return title, grows


def _needs(*, now: datetime) -> tuple[Need, ...]:
    says = {"undoing": "undoing for long", "overdue": "overdue: nobody woke them"}
    return tuple(
        Need(
            text=f"{plural(each.runs, 'run', 'runs')} {says[each.kind]}",
            href=list_link("saga_run", needs=each.kind),
            since=each.since,
        )
        for each in saga.runs_in_need(now=now)
        if each.kind in says
    )


def batch_of(state: saga.ActionState) -> Batch:
    """An action with the parts of its progress bar."""
    parts = (
        Part(count=state.done, word="done", tone="ok"),
        Part(count=state.refused, word="left alone", tone="idle"),
        Part(count=state.failed, word="failed", tone="bad"),
        Part(count=state.cancelled, word="stopped", tone="idle"),
        Part(count=state.pending, word="to go", tone="todo"),
    )
    return Batch(state=state, parts=parts)


# --- One group ----------------------------------------------------------------------------------------------------------
def group_view(request: HttpRequest, incident_id: UUID) -> HttpResponse:
    """One group with its runs, and what was done about it."""
    require(request, VIEW)
    context = {
        **admin.site.each_context(request),
        "title": "Triage group",
        "may_act": request.user.has_perm(ACT),
        "live_url": reverse("admin:backoffice_triage_group_live", args=[incident_id]),
        "live_ms": LIVE_MS,
        "me": actor_of(request.user),
        **_group_context(incident_id),
    }
    return render(request, "backoffice/incident.html", context)


def group_live_view(request: HttpRequest, incident_id: UUID) -> HttpResponse:
    """The parts of the page that change, alone."""
    require(request, VIEW)
    context = {"may_act": request.user.has_perm(ACT), "me": actor_of(request.user), **_group_context(incident_id)}
    return fragment(request, "backoffice/incident_parts.html", context)


def _group_context(incident_id: UUID) -> dict[str, Any]:
    found = saga.incident(incident_id)
    if found is None:
        raise Http404("There is no such group.")
    now = timezone.now()
    counts = saga.trends([incident_id], buckets=trends.BUCKETS, now=now)[incident_id]
    (group,) = _groups([found], {incident_id: trends.trend(counts, last_seen=found.last_seen, now=now)}, now=now)
    filters = saga.Filter(use_case=found.use_case, state="in_error", step=found.step, error_code=found.error_code)
    runs = saga.find_runs(filters, limit=RUNS_SHOWN, now=now) if found.runs else None
    more = list_link("saga_run", failed_step__exact=found.step, error_code__exact=found.error_code)
    batches = [batch_of(each) for each in saga.latest_actions(limit=ACTIONS_SHOWN, incident_id=incident_id)]
    return {"group": group, "verdict": _group_verdict(group), "runs": runs, "runs_href": more, "batches": batches}


def _group_verdict(group: Group) -> Verdict:
    found = group.incident
    if not found.open:
        text = f"{name_of(found.handled_by)}: {found.handled_reason}"
        return Verdict("idle", "ok", f"Handled. {group.cause}", text)
    where = f"{sentence(found.step)} of {found.use_case}, {found.error_code}."
    if not found.runs:
        return Verdict("ok", "ok", group.cause, f"{where} It affects no run any more.")
    stuck = (
        f"{count(found.stuck)} of them stuck: they wait for a person." if found.stuck else "They try again by themselves."
    )
    tone = "bad" if found.stuck else "warn"
    return Verdict(tone, tone, group.cause, f"{where} {stuck}")

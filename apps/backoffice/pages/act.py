"""Do something about a run or a group: see what would happen, give a reason, confirm. Never a change on GET."""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone

from apps.backoffice.components.formats import plural, short_id, words
from apps.backoffice.pages.triage import ACT, actor_of, require
from apps.common.errors import DomainError
from apps.common.reasons import reason_field
from apps.fiscal_docs import public as fiscal
from apps.orders import public as orders
from apps.saga import public as saga

JSON_CHARACTERS_MAX = 20_000
OUTCOMES_SHOWN = 100
ID_BYTES = 16
PERSISTS_WITHIN = timedelta(minutes=5)
TITLES = {
    saga.Action.RETRY: ("Retry", "again"),
    saga.Action.COMPENSATE: ("Undo", "undo"),
    saga.Action.SKIP: ("Skip the step of", "skip"),
    saga.Action.HANDLE: ("Close by hand", "lock"),
}


class ActForm(forms.Form):
    """How many, why, and with what."""

    how = forms.ChoiceField(choices=[("first", "1 first, then ask me"), ("all", "all")], required=False)
    reason = reason_field()
    given = forms.CharField(required=False, max_length=JSON_CHARACTERS_MAX)
    typed = forms.CharField(required=False, max_length=20)

    def __init__(self, data: Any, *, runs: int) -> None:
        super().__init__(data)
        self.runs = runs

    def clean_given(self) -> Any:
        """The JSON that was typed; None when none was."""
        text = self.cleaned_data["given"].strip()
        if not text:
            return None
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise forms.ValidationError("This is no JSON.") from None

    def clean(self) -> dict[str, Any]:
        """Is the number that was typed the number of runs?"""
        found: dict[str, Any] = super().clean() or {}
        typed = found.get("typed", "").replace(".", "").replace(",", "").strip()
        if self.runs > 1 and found.get("how") != "first" and typed != str(self.runs):
            self.add_error("typed", f"Type {self.runs} to confirm that you mean all of them.")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Instead:
    """Another action that is possible on the same run. ``does``: what it would do, in words."""

    title: str
    icon: str
    does: str
    href: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the page is about: a run, or the group of an incident."""

    action: saga.Action
    run: saga.RunState | None
    incident: saga.IncidentState | None

    @property
    def output_fields(self) -> tuple[saga.OutputField, ...]:
        """What the output of the step must hold that is to be skipped, because later steps read it."""
        if self.run is None or self.action is not saga.Action.SKIP or self.run.status == "COMPENSATING":
            return ()
        names = [step.name for step in self.run.steps]
        if any(step.status == "UNDOING" for step in self.run.steps):
            return ()
        return saga.output_fields(self.run.use_case, self.run.version, names, self.run.cursor)

    def selection(self, within: Sequence[UUID] | None = None) -> saga.Selection:
        """Which runs; of a group only those within."""
        if self.run is not None:
            return saga.Selection(run_ids=(self.run.run_id,))
        seen = tuple(within) if within is not None else None
        return saga.Selection(incident_id=self.incident.id if self.incident else None, within=seen)

    @property
    def where(self) -> str:
        """In words."""
        if self.run is not None:
            return f"{self.run.use_case} · {self.run.business_key}"
        assert self.incident is not None  # noqa: S101  # one of the two is there
        return f"{words(self.incident.step)} · {self.incident.error_code} · {self.incident.use_case}"

    @property
    def back(self) -> str:
        """Where the page was opened."""
        if self.run is not None:
            return reverse("admin:backoffice_run", args=[self.run.run_id])
        assert self.incident is not None  # noqa: S101
        return reverse("admin:backoffice_triage_group", args=[self.incident.id])


def address(action: saga.Action, **target: Any) -> str:
    """The page that asks about an action: ``run=`` or ``incident=``."""
    return f"{reverse('admin:backoffice_triage_act')}?{urlencode({'action': action, **target})}"


def run_view(request: HttpRequest, run_id: UUID, action: str) -> HttpResponse:
    """The same page, reached from a run's."""
    require(request, ACT)
    return redirect(address(saga.Action(action), run=run_id, edit=int(request.path.endswith("/edit/"))))


def act_view(request: HttpRequest) -> HttpResponse:
    """GET shows what would happen, POST asks for it."""
    user = require(request, ACT)
    target = _target(request)
    if request.method == "POST":
        return _ask(request, target, by=actor_of(user))
    return _page(request, target, form=None, status=200)


def _target(request: HttpRequest) -> Target:
    try:
        action = saga.Action(request.GET.get("action", ""))
        given = {name: UUID(request.GET[name]) for name in ("run", "incident") if name in request.GET}
    except ValueError:
        raise Http404("There is no such action.") from None
    run = saga.run_state(given["run"]) if "run" in given else None
    if run is not None and run.run_id != given["run"]:
        run = None
    incident = saga.incident(given["incident"]) if "incident" in given else None
    if (run is None) == (incident is None):
        raise Http404("There is no such run or group.")
    return Target(action=action, run=run, incident=incident)


# --- Asking -------------------------------------------------------------------------------------------------------------
def _ask(request: HttpRequest, target: Target, *, by: str) -> HttpResponse:
    seen = _seen(request.POST.get("seen", ""))
    form = ActForm(request.POST, runs=len(seen))
    if not form.is_valid():
        return _page(request, target, form=form, status=422)
    values, now = form.cleaned_data, timezone.now()
    if missing := _missing(target, values["given"], now=now):
        form.add_error("given", missing)
        return _page(request, target, form=form, status=422)
    first = len(seen) > 1 and values["how"] == "first"
    try:
        action_id = saga.request_action(
            target.selection(within=seen),
            _wanted(target.action, values["given"]),
            reason=values["reason"],
            by=by,
            now=now,
            expected=request.POST.get("expected", "")[:100] if target.run is not None else "",
            runs_max=1 if first else None,
        )
    except saga.InvalidInput as refusal:
        form.add_error("given", refusal.detail)
        return _page(request, target, form=form, status=422)
    except DomainError as refusal:
        messages.warning(request, f"Nothing done: {refusal.detail}")
        return redirect(target.back)
    if saga.action_state(action_id).runs <= saga.INLINE_RUNS:
        saga.work_on_action(action_id, now=now)
    return redirect("admin:backoffice_triage_action", action_id)


def _missing(target: Target, given: Any, *, now: datetime) -> str:
    """What is missing in the output of the step that is to be skipped. Asked here, because the field is here."""
    if not target.output_fields:
        return ""
    try:
        (outcome,) = saga.preview(target.selection(), _wanted(target.action, given), now=now).outcomes
    except DomainError:
        return ""  # told where the action is asked for
    return outcome.detail if outcome.code == saga.OutputNeeded.code else ""


def _wanted(action: saga.Action, given: Any) -> saga.Wanted:
    if action is saga.Action.RETRY:
        return saga.wanted(action, patch=given)
    return saga.wanted(action, output=given)


def _seen(text: str) -> tuple[UUID, ...]:
    """The runs that the dry run has shown; of a text that is not ours, none."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return ()
    whole = len(raw) - len(raw) % ID_BYTES
    return tuple(UUID(bytes=raw[at : at + ID_BYTES]) for at in range(0, whole, ID_BYTES))


def _text(ids: Sequence[UUID]) -> str:
    return base64.b64encode(b"".join(each.bytes for each in ids)).decode()


# --- The page -----------------------------------------------------------------------------------------------------------
def _page(request: HttpRequest, target: Target, *, form: ActForm | None, status: int) -> HttpResponse:
    now = timezone.now()
    try:
        dry = saga.preview(target.selection(), saga.wanted(target.action), now=now)
    except DomainError as refusal:
        messages.warning(request, refusal.detail)
        return redirect(target.back)
    verb, icon = TITLES[target.action]
    fields, closes = target.output_fields, target.action is saga.Action.HANDLE
    doable = [each for each in dry.outcomes if not each.code]
    what = f"run {short_id(target.run.run_id)}" if target.run else plural(len(dry.outcomes), "run", "runs")
    context = {
        **admin.site.each_context(request),
        "title": f"{verb} {what}",
        "target": target,
        "icon": icon,
        "verb": "Skip" if target.action is saga.Action.SKIP else verb,
        "dry": dry,
        "shown": dry.outcomes[:OUTCOMES_SHOWN],
        "hidden": max(len(dry.outcomes) - OUTCOMES_SHOWN, 0),
        "fields": fields,
        "placeholder": json.dumps({field.name: "…" for field in fields}, ensure_ascii=False),
        "stays": dry.outcomes[0].left if target.run is not None and dry.outcomes else (),
        "instead": _instead(target, now=now),
        "may": bool(doable) or _only_output_is_missing(target, dry) or (closes and target.incident is not None),
        "many": len(dry.outcomes) > 1,
        "seen": _text([each.run_id for each in dry.outcomes]),
        "expected": saga.token_of_state(target.run) if target.run else "",
        "persists": _persists(target),
        "form": form or ActForm(None, runs=len(dry.outcomes)),
        "data": json.dumps(saga.run_input(target.run.run_id), indent=2, ensure_ascii=False) if target.run else "",
        "now": now,
        "edits": request.GET.get("edit") == "1",
        "correction": _correction(target, now),
        "signs_anew": _signs_anew(target),
    }
    return render(request, "backoffice/act.html", context, status=status)


def _only_output_is_missing(target: Target, dry: saga.Preview) -> bool:
    return bool(target.output_fields) and all(each.code == saga.OutputNeeded.code for each in dry.outcomes)


def _instead(target: Target, *, now: datetime) -> list[Instead]:
    """What else could be done to a run that somebody is about to leave as it is."""
    if target.run is None or target.action is not saga.Action.HANDLE:
        return []
    found = []
    for action in (saga.Action.COMPENSATE, saga.Action.SKIP, saga.Action.RETRY):
        (outcome,) = saga.preview(target.selection(), saga.wanted(action), now=now).outcomes
        if not outcome.code or outcome.code == saga.OutputNeeded.code:
            title, icon = TITLES[action]
            href = address(action, run=target.run.run_id)
            found.append(Instead(title=title.removesuffix(" of"), icon=icon, does=outcome.detail, href=href))
    return found


def _persists(target: Target) -> int:
    """How often the error occurred in the last minutes, when the action would meet it again."""
    if target.incident is None or target.action is not saga.Action.RETRY:
        return 0
    counts = saga.trends([target.incident.id], buckets=2, now=timezone.now())[target.incident.id]
    return sum(counts) if timezone.now() - target.incident.last_seen < PERSISTS_WITHIN else 0


def _correction(target: Target, now: datetime) -> fiscal.CorrectionPreview | None:
    """What else the retry of a run would do: sign its document anew that the authority refused."""
    if target.run is None or target.action is not saga.Action.RETRY:
        return None
    return orders.preview_retry(order_id=target.run.subject_id, run_id=target.run.run_id, now=now)


def _signs_anew(target: Target) -> bool:
    """Is it about a group of documents that the authority refused?"""
    refused = target.incident is not None and target.incident.error_code == fiscal.DocumentRejected.code
    return refused and target.action is saga.Action.RETRY

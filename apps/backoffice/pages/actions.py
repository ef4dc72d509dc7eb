"""An action on runs: how far it is, what became of each run, and the second person's yes or no."""

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone

from apps.backoffice.components.formats import plural
from apps.backoffice.components.verdicts import Verdict
from apps.backoffice.live import fragment
from apps.backoffice.pages.triage import ACT, VIEW, Batch, actor_of, batch_of, name_of, require
from apps.common.errors import DomainError
from apps.saga import public as saga

LIVE_MS = 500  # somebody watches it
ITEMS_SHOWN = 100
MOVING = ("RUNNING", "WAITING", "COMPENSATING")  # a run that was acted on alone, and is watched until it is somewhere
FILTERS = ("", "DONE", "REFUSED", "FAILED", "CANCELLED", "PENDING")


class CancelForm(forms.Form):
    """Why somebody stops it."""

    reason = forms.CharField(min_length=5, max_length=500)


def action_view(request: HttpRequest, action_id: UUID) -> HttpResponse:
    """The whole page."""
    require(request, VIEW)
    context = _context(request, action_id)
    live = f"{reverse('admin:backoffice_triage_action_live', args=[action_id])}?{request.GET.urlencode()}"
    return render(
        request,
        "backoffice/action.html",
        {
            **admin.site.each_context(request),
            "title": context["batch"].title,
            "live_url": live if context["live"] else "",
            "live_ms": LIVE_MS,
            **context,
        },
    )


def action_live_view(request: HttpRequest, action_id: UUID) -> HttpResponse:
    """The parts of the page that change, alone."""
    require(request, VIEW)
    return fragment(request, "backoffice/action_parts.html", _context(request, action_id))


def _context(request: HttpRequest, action_id: UUID) -> dict[str, Any]:
    try:
        batch = batch_of(saga.action_state(action_id))
    except saga.UnknownAction:
        raise Http404("There is no such action.") from None
    status = request.GET.get("status", "")
    status = status if status in FILTERS else ""
    items, after = saga.action_items(action_id, limit=ITEMS_SHOWN, after=_after(request), status=status)
    mine = actor_of(request.user) == batch.state.asked_by
    one = _the_one(batch)
    return {
        "batch": batch,
        "one": one,
        "rest": _rest(batch),
        "live": batch.state.live or (one is not None and one.status in MOVING),
        "verdict": verdict_of(batch),
        "items": items,
        "after": after,
        "status": status,
        "filters": [part for part in batch.parts if part.count],
        "mine": mine,
        "may_act": request.user.has_perm(ACT),
    }


def _the_one(batch: Batch) -> saga.RunState | None:
    """The only run of an action that is over: what became of it is what the next step depends on."""
    if batch.state.live or batch.state.runs != 1:
        return None
    items, _ = saga.action_items(batch.state.id, limit=1)
    return saga.run_state(items[0].run_id) if items else None


def _rest(batch: Batch) -> saga.IncidentState | None:
    """The action's group, when it still affects other runs and somebody may act on them."""
    if batch.state.live or batch.state.incident_id is None:
        return None
    group = saga.incident(batch.state.incident_id)
    return group if group is not None and group.open and group.runs else None


def _after(request: HttpRequest) -> UUID | None:
    try:
        return UUID(request.GET["after"]) if "after" in request.GET else None
    except ValueError:
        return None


def verdict_of(batch: Batch) -> Verdict:
    """How far is it?"""
    state = batch.state
    if state.waits:
        return Verdict("warn", "eye", "It waits for a second person.", "Nothing begins before somebody else approves it.")
    if state.status == "CANCELLED":
        return Verdict("idle", "close", f"Stopped by {name_of(state.cancelled_by)}.", f"{batch.settled}.")
    if state.live:
        return Verdict("run", "run", f"{plural(state.pending, 'run', 'runs')} to go.", f"{batch.settled}.")
    if state.failed:
        return Verdict("bad", "bad", f"Done, but {plural(state.failed, 'run', 'runs')} failed.", f"{batch.settled}.")
    if state.refused and not state.done:
        return Verdict("warn", "close", "Nothing was done.", f"{batch.settled}: each line says why.")
    if state.refused:
        return Verdict("ok", "ok", "Done.", f"{batch.settled}: each line says why.")
    return Verdict("ok", "ok", "Done.", f"{batch.settled}.")


def approve_view(request: HttpRequest, action_id: UUID) -> HttpResponse:
    """POST: somebody else's action may begin."""
    user = require(request, ACT)
    if request.method == "POST":
        now = timezone.now()
        try:
            saga.approve_action(action_id, by=actor_of(user), now=now)
        except DomainError as refusal:
            messages.warning(request, f"Nothing done: {refusal.detail}")
        else:
            if saga.action_state(action_id).runs <= saga.INLINE_RUNS:
                saga.work_on_action(action_id, now=now)
    return redirect("admin:backoffice_triage_action", action_id)


def cancel_view(request: HttpRequest, action_id: UUID) -> HttpResponse:
    """POST: what is not done yet is left as it is."""
    user = require(request, ACT)
    form = CancelForm(request.POST)
    if request.method == "POST" and form.is_valid():
        try:
            reason = form.cleaned_data["reason"]
            saga.cancel_action(action_id, reason=reason, by=actor_of(user), now=timezone.now())
        except DomainError as refusal:
            messages.warning(request, f"Nothing done: {refusal.detail}")
    elif request.method == "POST":
        messages.warning(request, "Nothing done: say why, the audit keeps it.")
    return redirect("admin:backoffice_triage_action", action_id)

"""Retry a stuck run: what would happen, a reason, and only then the click. Who did it and why stays in the audit."""

from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone

from apps.backoffice.components.formats import short_id
from apps.backoffice.components.verdicts import run_verdict
from apps.common.errors import DomainError
from apps.saga import public as saga

REASON_CHARACTERS_MAX = 500
PERMISSION = "saga.change_run"
_RETRY = saga.wanted(saga.Action.RETRY)


class RetryForm(forms.Form):
    """Why somebody lets a run go on."""

    reason = forms.CharField(
        min_length=5,
        max_length=REASON_CHARACTERS_MAX,
        widget=forms.Textarea(attrs={"rows": 3}),
        error_messages={"required": "Say why: the audit log keeps it.", "min_length": "Say it in a few words."},
    )


def retry_view(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """GET shows what a retry would do, POST does it. Never a change on GET."""
    user = request.user
    if not isinstance(user, User) or not user.has_perm(PERMISSION):
        raise PermissionDenied
    run = saga.run_state(run_id)
    if run is None or run.run_id != run_id:
        raise Http404("There is no such run.")
    form = RetryForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        return _retry(request, user, run, reason=form.cleaned_data["reason"])
    now = timezone.now()
    context = {
        **admin.site.each_context(request),
        "title": f"Retry run {short_id(run_id)}",
        "run": run,
        "form": form,
        "verdict": run_verdict(run, now=now),
        "undoing": any(step.status == "UNDOING" for step in run.steps),
    }
    return render(request, "backoffice/retry.html", context, status=200 if request.method == "GET" else 422)


def _retry(request: HttpRequest, user: User, run: saga.RunState, *, reason: str) -> HttpResponse:
    page = redirect("admin:backoffice_run", run.run_id)
    if run.status != "STUCK":
        messages.warning(request, "Nothing done: the run is not stuck any more.")
        return page
    refusal, waits = _do(run, reason=reason, by=f"user:{user.get_username()}")
    if refusal:
        messages.warning(request, f"Nothing done: {refusal}")
    elif waits:
        messages.success(request, "A second person must approve it: see Triage, Approvals.")
    else:
        messages.success(request, "The run goes on.")
    return page


def _do(run: saga.RunState, *, reason: str, by: str) -> tuple[str, bool]:
    """Why it was not done, empty if it was; and whether it waits for a second person."""
    which, now, seen = saga.Selection(run_ids=(run.run_id,)), timezone.now(), saga.token_of_state(run)
    try:
        action_id = saga.request_action(which, _RETRY, reason=reason, by=by, now=now, expected=seen)
    except DomainError as refusal:
        return refusal.detail, False
    saga.work_on_action(action_id, now=now)
    (item,), _ = saga.action_items(action_id, limit=1)
    return item.detail if item.code else "", saga.action_state(action_id).waits

"""Take a group of triage, give it back, or silence it for a while. Each says first what it does; never a change on GET."""

from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone

from apps.backoffice.pages.triage import ACT, actor_of, require
from apps.common.errors import DomainError
from apps.common.reasons import reason_field
from apps.saga import public as saga

# Title, icon, button, and what it comes to.
WORDS = {
    "take": ("Take this group", "person", "Take it", "Your name stands on it: the others see who sees to it."),
    "release": ("Give this group back", "person", "Give it back", "Nobody sees to it any more."),
    "silence": (
        "Silence this group",
        "bar",
        "Silence",
        "Its runs stand neither in the badge nor on the home page until then. They are retried and counted as before, and "
        "stay in the lists and the metrics.",
    ),
    "unsilence": ("End the silence of this group", "bar", "End the silence", "Its runs call for somebody again at once."),
}


class NoteForm(forms.Form):
    """What somebody does about it."""

    note = forms.CharField(required=False, max_length=200)


class SilenceForm(forms.Form):
    """Until when, and why."""

    spans: ClassVar = [("1", "1 hour"), ("4", "4 hours"), ("24", "1 day"), ("72", "3 days"), ("168", "7 days")]
    hours = forms.ChoiceField(choices=spans, error_messages={"required": "Say for how long."})
    reason = reason_field()


FORMS: dict[str, type[forms.Form]] = {"take": NoteForm, "silence": SilenceForm}


def care_view(request: HttpRequest) -> HttpResponse:
    """GET says what would happen, POST does it."""
    require(request, ACT)
    do, found = _target(request)
    form = FORMS.get(do, forms.Form)(request.POST if request.method == "POST" else None)
    if request.method != "POST" or not form.is_valid():
        return _page(request, do, found, form, status=422 if request.method == "POST" else 200)
    try:
        said = _do(do, found, form.cleaned_data, by=actor_of(request.user), instead_of=request.POST.get("instead_of", ""))
    except DomainError as refusal:
        detail = refusal.detail.replace("user:", "")
        messages.warning(request, f"Nothing done. {refusal.code}: {detail}")
    else:
        messages.success(request, said)
    return redirect("admin:backoffice_triage_group", found.id)


def _target(request: HttpRequest) -> tuple[str, saga.IncidentState]:
    do = request.GET.get("do", "")
    try:
        found = saga.incident(UUID(request.GET.get("incident", ""))) if do in WORDS else None
    except ValueError:
        found = None
    if found is None:
        raise Http404("There is no such group.")
    return do, found


def _do(do: str, found: saga.IncidentState, values: dict[str, Any], *, by: str, instead_of: str) -> str:
    now = timezone.now()
    if do == "take":
        saga.take_incident(found.id, by=by, note=values["note"], instead_of=instead_of, now=now)
        return "It is yours."
    if do == "release":
        saga.release_incident(found.id, by=by, now=now)
        return "Nobody sees to it any more."
    if do == "silence":
        saga.silence_incident(found.id, until=_until(values, now=now), reason=values["reason"], by=by, now=now)
        return "Silenced."
    saga.unsilence_incident(found.id, by=by, now=now)
    return "The silence is over."


def _until(values: dict[str, Any], *, now: datetime) -> datetime:
    return now + timedelta(hours=int(values["hours"]))


def _page(request: HttpRequest, do: str, found: saga.IncidentState, form: forms.Form, *, status: int) -> HttpResponse:
    title, icon, verb, says = WORDS[do]
    context = {
        **admin.site.each_context(request),
        "title": title,
        "icon": icon,
        "verb": verb,
        "says": says,
        "do": do,
        "incident": found,
        "me": actor_of(request.user),
        "form": form,
        "back": reverse("admin:backoffice_triage_group", args=[found.id]),
    }
    return render(request, "backoffice/care.html", context, status=status)

"""Begin a failed run again at a step: what would happen at each, a reason, and only then the click."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone

from apps.backoffice.components.formats import sentence, short_id, words
from apps.backoffice.components.states import Look, look
from apps.backoffice.pages.triage import ACT, actor_of, require
from apps.common.errors import DomainError
from apps.common.reasons import reason_field
from apps.saga import public as saga


class StepForm(forms.Form):
    """From which step, and why."""

    step = forms.ChoiceField(error_messages={"required": "Choose the step.", "invalid_choice": "There is no such step."})
    reason = reason_field()

    def __init__(self, data: Any, *, steps: list[str]) -> None:
        super().__init__(data)
        self.fields["step"].choices = [(name, name) for name in steps]  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A step of the run, with what a reset to it would do. ``does``: in words; ``code``: why it is refused."""

    step: saga.StepState
    look: Look
    code: str
    does: str


def run_of(run_id: UUID) -> saga.RunState:
    """The run of this id, and of no other. Raises Http404."""
    run = saga.run_state(run_id)
    if run is None or run.run_id != run_id:
        raise Http404("There is no such run.")
    return run


def reset_view(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """GET shows what would happen, POST does it. Never a change on GET."""
    user = require(request, ACT)
    run = run_of(run_id)
    form = StepForm(request.POST or None, steps=[step.name for step in run.steps])
    if request.method != "POST":
        return _page(request, run, form, status=200)
    if not form.is_valid():
        return _page(request, run, form, status=422)
    if request.POST.get("expected", "") != saga.token_of_state(run):
        messages.warning(request, "Nothing done: the run has changed since you looked. Look again.")
        return redirect("admin:backoffice_run", run_id)
    values = form.cleaned_data
    try:
        saga.reset(
            run_id,
            to_step=values["step"],
            reason=values["reason"],
            by=actor_of(user),
            now=timezone.now(),
        )
    except DomainError as refusal:
        messages.warning(request, f"Nothing done. {refusal.code}: {refusal.detail}")
    else:
        messages.success(request, f"It goes forward again from {words(values['step'])}.")
    return redirect("admin:backoffice_run", run_id)


def _page(request: HttpRequest, run: saga.RunState, form: StepForm, *, status: int) -> HttpResponse:
    now = timezone.now()
    try:
        found = {each.step: each for each in saga.reset_choices(run.run_id, now=now)}
    except DomainError as refusal:
        messages.warning(request, f"{refusal.code}: {refusal.detail}")
        return redirect("admin:backoffice_run", run.run_id)
    names = [step.name for step in run.steps]
    choices = [_choice(step, found[step.name], names) for step in run.steps if step.name in found]
    context = {
        **admin.site.each_context(request),
        "title": f"Begin run {short_id(run.run_id)} again at a step",
        "run": run,
        "choices": choices,
        "may": any(not choice.code for choice in choices),
        "chosen": form["step"].value() or next((each.step.name for each in choices if not each.code), ""),
        "expected": saga.token_of_state(run),
        "back": reverse("admin:backoffice_run", args=[run.run_id]),
        "form": form,
        "now": now,
    }
    return render(request, "backoffice/reset.html", context, status=status)


def _choice(step: saga.StepState, found: saga.ResetChoice, names: list[str]) -> Choice:
    at = names.index(step.name)
    if found.code:
        return Choice(step=step, look=look("step", step.status), code=found.code, does=found.detail)
    kept = f"{_listed(names[:at])} {_are(names[:at])} left as {'they are' if at > 1 else 'it is'}. " if at else ""
    again = f"{_listed(names[at:])} {_are(names[at:])} done"
    anew = f", {_listed(list(found.redone))} under new keys" if found.redone else ""
    return Choice(step=step, look=look("step", step.status), code="", does=f"{sentence(kept)}{sentence(again)}{anew}.")


def _are(names: list[str]) -> str:
    return "are" if len(names) > 1 else "is"


def _listed(names: list[str]) -> str:
    said = [words(name) for name in names]
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"

"""Fork a run: try in a sandbox what it would do from a step on, and see what became of such a try."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone

from apps.backoffice.components.formats import plural, sentence, short_id, words
from apps.backoffice.components.states import Look, look
from apps.backoffice.components.verdicts import Verdict
from apps.backoffice.pages.act import JSON_CHARACTERS_MAX
from apps.backoffice.pages.resets import StepForm, run_of
from apps.backoffice.pages.triage import ACT, VIEW, actor_of, require
from apps.common.doors import address
from apps.common.errors import DomainError
from apps.saga import public as saga

LOCAL = "local"
HOW = {
    "run": "done in the sandbox",
    "taken": "with the run's own answer",
    "given": "with the answer that was given",
    "not_asked": "not asked: the steps after it went on without its output",
    "kept": "as the run has done it",
}


class ForkForm(StepForm):
    """From which step, with what, and why."""

    given = forms.CharField(required=False, max_length=JSON_CHARACTERS_MAX)
    answers = forms.CharField(required=False, max_length=JSON_CHARACTERS_MAX)

    def clean_given(self) -> Any:
        """Another input, if one was typed."""
        return self._json("given")

    def clean_answers(self) -> Any:
        """What the others shall have said, by step."""
        found = self._json("answers") or {}
        if any(not isinstance(answer, dict) for answer in found.values()):
            raise forms.ValidationError("An answer is a JSON object: {step: {…}}.")
        return found

    def _json(self, name: str) -> Any:
        text = self.cleaned_data[name].strip()
        if not text:
            return None
        try:
            found = json.loads(text, parse_float=Decimal)
        except (ValueError, RecursionError):
            raise forms.ValidationError("This is no JSON.") from None
        if not isinstance(found, dict):
            raise forms.ValidationError("This is no JSON object.")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A step at which the fork may begin. ``does``: how it would be done; ``closed``: why not from here."""

    step: saga.StepState
    look: Look
    does: str
    closed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A step of a fork as it is shown."""

    step: saga.ForkStep
    look: Look
    how: str


# --- Asking -------------------------------------------------------------------------------------------------------------
def ask_view(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """GET asks from where and why, POST tries it. The run itself is never touched."""
    user = require(request, ACT)
    run = run_of(run_id)
    form = ForkForm(request.POST or None, steps=[step.name for step in run.steps])
    if request.method != "POST":
        return _page(request, run, form, status=200)
    if not form.is_valid():
        return _page(request, run, form, status=422)
    values = form.cleaned_data
    try:
        state = saga.fork(
            run_id,
            from_step=values["step"],
            data=values["given"],
            answers=values["answers"],
            reason=values["reason"],
            by=actor_of(user),
            now=timezone.now(),
        )
    except saga.InvalidValues as refusal:
        form.add_error("answers" if str(refusal.field).startswith("answers") else "given", refusal.detail)
        return _page(request, run, form, status=422)
    except DomainError as refusal:
        messages.warning(request, f"Nothing was tried. {refusal.code}: {refusal.detail}")
        return redirect("admin:backoffice_run", run_id)
    return redirect("admin:backoffice_fork", state.fork_id)


def _page(request: HttpRequest, run: saga.RunState, form: ForkForm, *, status: int) -> HttpResponse:
    choices = choices_of(run)
    context = {
        **admin.site.each_context(request),
        "title": f"Fork run {short_id(run.run_id)}",
        "run": run,
        "choices": choices,
        "chosen": form["step"].value() or choices[0].step.name,
        "data": json.dumps(saga.run_input(run.run_id), indent=2, ensure_ascii=False, default=str),
        "back": reverse("admin:backoffice_run", args=[run.run_id]),
        "form": form,
    }
    return render(request, "backoffice/fork_ask.html", context, status=status)


def choices_of(run: saga.RunState) -> list[Choice]:
    """Each step, how a fork would do it, and why it cannot begin there."""
    found, missing = [], ""
    for step in run.steps:
        closed = f"{words(missing)} was not done" if missing else ""
        found.append(Choice(step=step, look=look("step", step.status), does=_does(step), closed=closed))
        if not missing and step.status not in {"DONE", "UNDONE", "UNDOING"}:
            missing = step.name
    return found


def _does(step: saga.StepState) -> str:
    if step.shape == LOCAL:
        return "done in the sandbox, and rolled back"
    if step.output:
        return "takes the answer that the run had, unless you give another"
    return "is not asked, unless you give its answer"


# --- What became of it --------------------------------------------------------------------------------------------------
def fork_view(request: HttpRequest, fork_id: UUID) -> HttpResponse:
    """A fork: what each step would have done."""
    require(request, VIEW)
    state = saga.fork_state(fork_id)
    if state is None:
        raise Http404("There is no such fork.")
    context = {
        **admin.site.each_context(request),
        "title": f"Fork of {state.business_key}",
        "fork": state,
        "look": look("fork", state.status),
        "verdict": verdict_of(state),
        "steps": [Played(step=each, look=_look(each), how=HOW.get(each.how, each.how)) for each in state.steps],
        "lines": [_with_account(row) for row in state.posted.get("lines", ())],
        "holds": [_with_account(row) for row in state.posted.get("holds", ())],
        "others": {name: rows for name, rows in state.posted.items() if name not in {"lines", "holds"} and rows},
    }
    return render(request, "backoffice/fork.html", context)


def _look(step: saga.ForkStep) -> Look:
    return Look("idle", "lock", "Kept") if step.how == "kept" else look("forked", step.status)


def verdict_of(state: saga.ForkState) -> Verdict:
    """What the run would have come to."""
    text = f"Tried from {words(state.from_step)} on. Nothing was sent, nothing was posted, the run is as it was."
    tone = look("fork", state.status)
    if state.status == "COMPLETED":
        skipped = sum(step.status == "NOT_ASKED" for step in state.steps)
        more = f" {plural(skipped, 'step was', 'steps were')} not asked." if skipped else ""
        return Verdict(tone.tone, tone.icon, f"It would complete.{more}", text)
    what = "be refused" if state.status == "REFUSED" else "fail"
    code = f" ({state.error_code})" if state.error_code else ""
    said = f"{sentence(state.failed_step)} would {what}{code}"
    return Verdict(
        tone.tone, tone.icon, f"{said}: {state.error_detail.rstrip('.')}." if state.error_detail else f"{said}.", text
    )


def _with_account(row: Mapping[str, Any]) -> dict[str, Any]:
    """A witness's row, with the page of its account."""
    shown = {**row, "href": ""}
    try:
        shown["amount"] = Decimal(str(row["amount"]))
        shown["href"] = address("backoffice_account", *str(row["account"]).split("/"))
    except (KeyError, ArithmeticError):
        pass  # a witness that tells less is shown with less
    return shown

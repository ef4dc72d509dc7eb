"""Use cases: who answers for them, what they consist of, and the switch that pauses them. Always with a reason."""

from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone

from apps.backoffice.components.formats import plural, words
from apps.backoffice.components.offence import Said
from apps.backoffice.components.states import Look
from apps.backoffice.components.verdicts import Verdict
from apps.backoffice.components.waiting import use_case_lines
from apps.backoffice.live import fragment
from apps.backoffice.pages.triage import actor_of, require
from apps.backoffice.pages.usecase_map import LIVE_MS, use_case_map
from apps.common.errors import DomainError
from apps.common.reasons import reason_field
from apps.saga import public as saga

VIEW, PAUSE = "saga.view_run", "saga.change_pause"
_WAIT, _REFUSE, _STEP = "wait", "refuse", "step:"


class ReasonForm(forms.Form):
    """Why somebody lets a paused thing go on."""

    reason = reason_field()


class PauseForm(ReasonForm):
    """What to pause, and why."""

    what = forms.ChoiceField()

    def __init__(self, state: saga.UseCaseState, data: Any = None) -> None:
        super().__init__(data)
        paused = {pause.step for pause in state.pauses if not pause.breaker}
        whole = [] if state.paused else [(_WAIT, "New runs: they wait"), (_REFUSE, "New runs: they are refused")]
        steps = [(f"{_STEP}{step.name}", f"Step {words(step.name)}") for step in state.steps if step.name not in paused]
        field = self.fields["what"]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101  # declared above
        field.choices = [*whole, *steps]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A use case in the list."""

    state: saga.UseCaseState
    look: Look
    live: int
    held: int
    stuck: int
    wait: Said | None


def _look(state: saga.UseCaseState) -> Look:
    if state.paused:
        return Look("idle", "bar", "Paused")
    if state.pauses:
        return Look("warn", "warn", plural(len(state.pauses), "step paused", "steps paused"))
    return Look("ok", "ok", "Open")


def _line(state: saga.UseCaseState, wait: Said | None = None) -> Line:
    return Line(
        state=state,
        look=_look(state),
        live=sum(version.live for version in state.versions),
        held=sum(version.held for version in state.versions),
        stuck=sum(version.stuck for version in state.versions),
        wait=wait,
    )


def verdict_of(state: saga.UseCaseState) -> Verdict:
    """Do its runs go on?"""
    if not state.pauses:
        return Verdict("ok", "ok", "It runs.", "Nothing of it is paused.")
    held = sum(pause.held for pause in state.pauses)
    goes_on = "and goes on by itself" if held == 1 else "and go on by themselves"
    waits = f"{plural(held, 'run waits', 'runs wait')} {goes_on} when it is resumed." if held else "No run waits for it."
    if state.paused:
        refuses = any(pause.refuses for pause in state.pauses)
        return Verdict("warn", "warn", f"Paused: new runs {'are refused' if refuses else 'wait'}.", waits)
    steps = ", ".join(sorted({words(pause.step) for pause in state.pauses}))
    return Verdict("warn", "warn", f"No run begins {steps}.", waits)


def list_view(request: HttpRequest) -> HttpResponse:
    """All use cases."""
    require(request, VIEW)
    now = timezone.now()
    waits = {each.use_case: each.wait for each in use_case_lines(saga.places(now=now), now=now)}
    lines = [_line(state, waits.get(state.name)) for state in saga.use_cases()]
    context = {**admin.site.each_context(request), "title": "Use cases", "lines": lines}
    return render(request, "backoffice/usecases.html", context)


def use_case_view(request: HttpRequest, name: str) -> HttpResponse:
    """One of them."""
    require(request, VIEW)
    return _page(request, _state(name), status=200)


def use_case_live(request: HttpRequest, name: str) -> HttpResponse:
    """The parts of its page that change, alone."""
    require(request, VIEW)
    return fragment(request, "backoffice/usecase_parts.html", _parts(request, _state(name)))


def pause_view(request: HttpRequest, name: str) -> HttpResponse:
    """POST pauses what the form says."""
    user = require(request, PAUSE)
    state = _state(name)
    form = PauseForm(state, request.POST or None)
    if request.method != "POST" or not form.is_valid():
        return _page(request, state, status=422, form=form) if request.method == "POST" else _back(name)
    what, reason = form.cleaned_data["what"], form.cleaned_data["reason"]
    step = what.removeprefix(_STEP) if what.startswith(_STEP) else ""
    try:
        saga.pause(name, step, reason=reason, refuses=what == _REFUSE, by=actor_of(user), now=timezone.now())
    except DomainError as refusal:
        messages.warning(request, f"Nothing done: {refusal.detail}")
    else:
        messages.success(request, "Paused.")
    return _back(name)


def resume_view(request: HttpRequest, name: str) -> HttpResponse:
    """POST lifts the pause that the page showed; another one by now is left alone."""
    user = require(request, PAUSE)
    state = _state(name)
    shown = next((pause for pause in state.pauses if str(pause.id) == request.POST.get("pause")), None)
    form = ReasonForm(request.POST or None)
    if request.method != "POST":
        return _back(name)
    if shown is None:
        messages.warning(request, "Nothing done: this pause is over. Look again.")
        return _back(name)
    if not form.is_valid():
        return _page(request, state, status=422, resuming=form, pause_id=str(shown.id))
    try:
        reason = form.cleaned_data["reason"]
        saga.lift_pause(name, shown.step, reason=reason, by=actor_of(user), now=timezone.now(), pause_id=shown.id)
    except DomainError as refusal:
        messages.warning(request, f"Nothing done: {refusal.detail}")
    else:
        messages.success(request, "It goes on.")
    return _back(name)


def _state(name: str) -> saga.UseCaseState:
    try:
        return saga.use_case(name)
    except saga.UnknownUseCase:
        raise Http404("There is no such use case.") from None


def _back(name: str) -> HttpResponse:
    return redirect("admin:backoffice_use_case", name)


def _parts(request: HttpRequest, state: saga.UseCaseState) -> dict[str, Any]:
    """What changes while somebody looks."""
    return {
        "state": state,
        "line": _line(state),
        "verdict": verdict_of(state),
        "map": use_case_map(request, state, now=timezone.now()),
        "runs_href": f"{reverse('admin:saga_run_changelist')}?use_case={state.name}",
    }


def _page(
    request: HttpRequest,
    state: saga.UseCaseState,
    *,
    status: int,
    form: PauseForm | None = None,
    resuming: ReasonForm | None = None,
    pause_id: str = "",
) -> HttpResponse:
    parts = _parts(request, state)
    context = {
        **admin.site.each_context(request),
        "title": "Use case",
        **parts,
        "form": form or PauseForm(state),
        "resuming": resuming,
        "resuming_id": pause_id,
        "may_pause": request.user.has_perm(PAUSE),
        "live_url": parts["map"].live_url,
        "live_ms": LIVE_MS,
    }
    return render(request, "backoffice/usecase.html", context, status=status)

"""The sentence on top of a page: it answers the page's question, written from the same numbers as the page."""

from dataclasses import dataclass
from datetime import datetime

from apps.backoffice.components.formats import duration, moment, plural, sentence, words
from apps.observability.masking import mask_text
from apps.saga.public import RunState, StepState, standing


@dataclass(frozen=True, slots=True)
class Verdict:
    """``title`` answers, ``text`` explains; ``tone`` and ``icon`` as in states.py."""

    tone: str
    icon: str
    title: str
    text: str


def run_verdict(run: RunState, *, now: datetime) -> Verdict:
    """What happened to this run, and what comes next."""
    says = {
        "COMPLETED": _completed,
        "COMPENSATED": _compensated,
        "COMPENSATING": _compensating,
        "STUCK": _stuck,
        "HANDLED": _handled,
        "WAITING": _waiting,
    }.get(run.status, _running)
    verdict = _held(run, now) if run.held_by is not None else says(run, now)
    return Verdict(verdict.tone, verdict.icon, mask_text(verdict.title), mask_text(verdict.text))


def _current(run: RunState) -> StepState | None:
    """The step at which the run is."""
    if run.status == "COMPENSATING":
        undoing = [step for step in run.steps if step.status == "UNDOING"]
        to_undo = [step for step in run.steps if step.status in {"DONE", "UNKNOWN"}]
        found = undoing or to_undo
        return found[-1] if found else None
    return next((step for step in run.steps if step.status not in {"DONE", "UNDONE"}), None)


def current_step(run: RunState) -> str:
    """The name of the step at which a run is; empty when it is over."""
    step = _current(run) if run.finished_at is None else None
    return step.name if step else ""


def _cause(run: RunState) -> str:
    """Why it failed: "Issue document was refused (R412): NCM not in table." """
    if not run.failed_step:
        return "It failed."
    refused = run.error_code[:1] == "R" and run.error_code[1:].isdigit()
    code = f" ({run.error_code})" if run.error_code else ""
    said = f"{sentence(run.failed_step)} {'was refused' if refused else 'failed'}{code}"
    detail = run.error_detail.strip().rstrip(".")
    return f"{said}: {detail}." if detail else f"{said}."


def _held(run: RunState, now: datetime) -> Verdict:
    step = _current(run)
    where = f"before {words(step.name)}" if step is not None else "in its way"
    since = f" since {moment(run.held_at, now=now).text}" if run.held_at is not None else ""
    return Verdict("idle", "bar", f"Held{since}: a pause stands {where}.", "It goes on by itself when the pause is lifted.")


def _handled(run: RunState, now: datetime) -> Verdict:
    when = f" at {moment(run.finished_at, now=now).text}" if run.finished_at else ""
    stands = standing(run.steps)
    left = f" As it was left: {stands}." if stands else " Nothing of it was left half done."
    return Verdict("idle", "lock", f"Closed by a person{when}.", f"{_cause(run)}{left}")


def _completed(run: RunState, now: datetime) -> Verdict:
    took = duration((run.finished_at or now) - run.started_at)
    repeated = sum(step.attempts > 1 for step in run.steps)
    how = f"{plural(repeated, 'step', 'steps')} needed more than one attempt" if repeated else "each at the first attempt"
    return Verdict("ok", "ok", f"Completed in {took}.", f"All {len(run.steps)} steps are done, {how}.")


def _compensated(run: RunState, now: datetime) -> Verdict:
    undone = [step for step in run.steps if step.status == "UNDONE"]
    done = f"{plural(len(undone), 'step', 'steps')} undone in reverse order" if undone else "Nothing had to be undone"
    took = duration((run.finished_at or now) - run.started_at)
    return Verdict("undo", "undo", _cause(run), f"{done}. Over after {took}; nothing is left to do.")


def _compensating(run: RunState, now: datetime) -> Verdict:
    step = _current(run)
    if step is None:
        return Verdict("undo", "undo", _cause(run), "Undoing what was done.")
    number = max(step.undo_attempts, 1)
    title = f"{_cause(run)} Undoing {words(step.name)}, attempt {number}."
    return Verdict("undo", "undo", title, _next(step, now=now) or _until(step, now=now))


def _stuck(run: RunState, _now: datetime) -> Verdict:
    tried = max((step.undo_attempts or step.attempts for step in run.steps if step.name == run.failed_step), default=0)
    text = f"{plural(tried, 'attempt', 'attempts')} made. It can go neither forward nor back without a person."
    return Verdict("bad", "bad", f"Stuck. {_cause(run)}", text)


# By the shape of the step: for whom a run waits, and what its moment means.
_ANSWER = ("the answer to {}", "Without an answer it is asked again at {}.")
_RUNS = ("the runs that {} began", "It looks again at {}.")
_WAITS = {
    "approval": ("somebody to decide {}", "Until {}: then it passes to the next who may decide, or is refused."),
    "timer": ("a moment at {}", "It goes on at {}."),
    "child": _RUNS,
    "parallel": _RUNS,
}


def _waiting(run: RunState, now: datetime) -> Verdict:
    step = _current(run)
    if step is None:
        return Verdict("run", "wait", "Waiting.", "")
    since = max((attempt.started_at for attempt in step.tries if not attempt.undo), default=run.started_at)
    whom, then = _WAITS.get(step.shape, _ANSWER)
    title = f"Waiting for {whom.format(words(step.name))} for {duration(now - since)}."
    until = moment(step.waiting_until, now=now).text if step.waiting_until is not None else ""
    return Verdict("run", "wait", title, then.format(until) if until else "")


def _running(run: RunState, now: datetime) -> Verdict:
    step = _current(run)
    if step is None:
        return Verdict("run", "run", "Running.", "")
    number = max(step.attempts, 1)
    if step.error_code:
        failed = f"The last attempt at {words(step.name)} failed ({step.error_code})."
        return Verdict("run", "again", f"{failed} Trying again.", _due(step, now=now) or f"Attempt {number + 1} is due.")
    done = sum(each.status == "DONE" for each in run.steps)
    return Verdict("run", "run", f"Running: {words(step.name)}.", f"{done} of {len(run.steps)} steps are done.")


def _until(step: StepState, *, now: datetime) -> str:
    if step.waiting_until is None or step.waiting_until <= now:
        return "Then the steps before it, in reverse order."
    return f"It waits for the answer; without one it is asked again at {moment(step.waiting_until, now=now).text}."


def _next(step: StepState, *, now: datetime) -> str:
    due = _due(step, now=now)
    return f"The last one failed: {step.error_code}. {due}" if due and step.error_code else due


def _due(step: StepState, *, now: datetime) -> str:
    if step.retry_at is None or step.retry_at <= now:
        return ""
    return f"Next attempt in {duration(step.retry_at - now)}, at {moment(step.retry_at, now=now).text}."


def home_verdict(*, things: int, in_flight: int, sees_all: bool = True) -> Verdict:
    """Is everything all right? ``things`` that need a person, and runs on the way. ``sees_all``: runs and messages, too."""
    flight = f"{plural(in_flight, 'run is', 'runs are')} on the way." if in_flight else "No run is on the way."
    if things:
        title = "1 thing needs you." if things == 1 else f"{things} things need you."
        return Verdict("bad", "bad", title, f"Sorted by the money at stake.{f' {flight}' if sees_all else ''}")
    if not sees_all:
        return Verdict(
            "ok", "ok", "Nothing needs you.", "You see some of the pages only: what is on the others is not counted."
        )
    return Verdict("ok", "ok", "Nothing needs you.", f"No run is stuck and no message was left behind. {flight}")

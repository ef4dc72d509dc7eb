"""The two sentences on top of a use case's map: which step offends, and where somebody waits for longest."""

from dataclasses import dataclass
from datetime import datetime

from apps.backoffice.components.formats import age, clock, deciders, duration, plural
from apps.backoffice.components.usemap import HOTTEST, Lane, StepFacts, heat_of
from apps.saga.public import Longest, Wait

WINDOW_WORDS = {"15min": "15 minutes", "1h": "hour", "24h": "24 hours", "7d": "7 days"}


@dataclass(frozen=True, slots=True)
class Said:
    """A sentence with its proof. ``step`` and ``undo``: of whom it is said; empty when all is well."""

    tone: str
    icon: str
    title: str
    text: str
    step: str = ""
    undo: bool = False


def offender(steps: tuple[StepFacts, ...]) -> StepFacts | None:
    """The step in which most runs are in trouble now; when none is, the one where most failed in the window."""
    found = max(steps, key=lambda step: (step.ahead.trouble + step.back.stuck, step.errors), default=None)
    return found if found is not None and (found.ahead.trouble or found.back.stuck or found.errors) else None


def offence(steps: tuple[StepFacts, ...], *, window: str, now: datetime) -> Said:
    """Which step offends."""
    step = offender(steps)
    within = f"in the last {WINDOW_WORDS[window]}"
    if step is None:
        return Said("ok", "ok", "No step offends.", f"No run is stuck or tried again, and no attempt failed {within}.")
    parts = (_trouble_now(step.ahead), _trouble_back(step), _failed_lately(step, steps, within=within, now=now))
    tone, icon = ("bad", "bad") if step.ahead.trouble or step.back.stuck else ("warn", "warn")
    return Said(tone, icon, f"Offending step: {step.name}", " ".join(filter(None, parts)), step.name)


def _trouble_back(step: StepFacts) -> str:
    return f"Its undo holds {plural(step.back.runs, 'run', 'runs')}." if step.back.runs else ""


def _failed_lately(step: StepFacts, steps: tuple[StepFacts, ...], *, within: str, now: datetime) -> str:
    failed = sum(each.errors for each in steps)
    if not step.errors:
        return ""
    share = f"{step.errors} of {failed} failures" if failed > step.errors else plural(failed, "failure", "failures")
    return f"{share} {within} happened here{_cause(step, now=now)}."


def _trouble_now(lane: Lane) -> str:
    parts = []
    if lane.stuck:
        parts.append(f"{lane.stuck} {'is stuck and needs' if lane.stuck == 1 else 'are stuck and need'} a person")
    if lane.in_error:
        parts.append(f"{lane.in_error} failed and {'is' if lane.in_error == 1 else 'are'} tried again")
    return f"Of {plural(lane.runs, 'run', 'runs')} in it now, {' and '.join(parts)}." if parts else ""


def _cause(step: StepFacts, *, now: datetime) -> str:
    worst = step.worst
    if worst is None:
        return ""
    said = {"NO_ANSWER": "no answer came", "UNKNOWN": "nobody knows the outcome"}.get(worst.outcome, worst.code)
    how = "all" if worst.runs >= step.errors else f"{worst.runs} times"
    return f", {how}: {said}, first at {clock(worst.since, now=now)}"


def longest_wait(steps: tuple[StepFacts, ...], *, now: datetime) -> Said:
    """Where somebody waits for longest, for whom, and until when: "Step a holds 37 runs; the longest waits …"."""
    lanes = [(step, undo, step.back if undo else step.ahead) for step in steps for undo in (False, True)]
    taken = [(step, undo, lane, lane.longest) for step, undo, lane in lanes if lane.longest is not None]
    if not taken:
        return Said("ok", "ok", "Nobody waits.", "No run is on the way.")
    step, undo, lane, longest = min(taken, key=lambda each: each[3].since)
    title = f"Longest wait: {'the undo of ' if undo else ''}{step.name}"
    holds = f"{'The undo of' if undo else 'Step'} {step.name} holds {plural(lane.runs, 'run', 'runs')};"
    which = "it waits" if lane.runs == 1 else "the longest waits"
    text = f"{holds} {which} {'' if longest.exact else 'at least '}{age(now - longest.since)}{_for_whom(longest, now=now)}."
    slowest = step.slowest
    if slowest is not None and not undo:
        text += f" Usually 95 of 100 spend at most {duration(slowest[1])} there ({slowest[0]})."
    usual = "warn" if heat_of(now - longest.since) == HOTTEST else "run"  # a short wait is no reason to look up
    tone = {"person": "bad", "pause": "idle"}.get(longest.wait.kind if longest.wait else "", usual)
    return Said(tone, "wait", title, text, step.name, undo)


def _for_whom(longest: Longest, *, now: datetime) -> str:
    wait = longest.wait
    if wait is None:
        return ""
    whom = {
        "answer": f"for {_the(wait)}",
        "call": f"for {_the(wait)}",
        "undo": f"for {_the(wait)}" if wait.whom else "to be undone",
        "retry": f"for attempt {longest.attempt + 1}",
        "worker": "for a worker",
        "pause": "for whoever lifts the pause",
        "timer": "for its time",
        "approval": f"for {deciders(wait.whom.split(' or '))} to decide",
        "person": f"for somebody of {wait.whom} to decide" if wait.whom else "for somebody to decide",
    }.get(wait.kind, f"for {wait.whom}")
    if wait.until is None:
        return f" {whom}"
    if wait.until <= now:
        return f" {whom}, and should have gone on at {clock(wait.until, now=now)}"
    return f" {whom}, until {clock(wait.until, now=now)}"


def _the(wait: Wait) -> str:
    return f"the {wait.whom}" if wait.whom else "an answer"

"""The timeline of a run: from its real attempts to bars, marks and words. Pure: values in, coordinates out.

Bar: our own work. Hatched bar: waiting for an answer. Dots: until the next attempt. Octagon: the attempt failed. Diamond:
nobody knows. Violet: undoing. A strip across: a wait so long that the axis is broken there. Steps that never began are
listed, so that the end is visible.
"""

import itertools
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from apps.backoffice.components.axis import Axis, Break, Tick, folds_of
from apps.backoffice.components.formats import duration
from apps.saga.public import AttemptState, RunState, StepState

LIVE = frozenset({"RUNNING", "WAITING", "COMPENSATING"})
WIDTH, LEFT, RIGHT = 1000, 236.0, 750.0  # what is right of RIGHT belongs to the words behind the last bar
TOP, ROW, BAR, MARK = 26, 30, 16, 16
BAR_WIDTH_MIN = 4.0  # a step of a millisecond stays visible
CHARACTER = 6.1  # an average letter at 11.5 px; only to decide on which side of a bar its words fit
TEXT_MIN = 12
_WAITED = frozenset({"ASKED", "ANSWERED", "NO_ANSWER"})
_FAILED = frozenset({"FAILED", "REFUSED"})
_UNCLEAR = frozenset({"UNKNOWN", "NO_ANSWER"})
_STILL_TO_UNDO = frozenset({"DONE", "UNKNOWN", "UNDOING"})


@dataclass(frozen=True, slots=True)
class Bar:
    """One attempt."""

    x: float
    width: float
    hatched: bool
    title: str


@dataclass(frozen=True, slots=True)
class Mark:
    """How an attempt ended, when it did not end well."""

    x: float
    icon: str
    tone: str

    @property
    def left(self) -> float:
        """Where its icon begins."""
        return self.x - MARK / 2


@dataclass(frozen=True, slots=True)
class Dots:
    """The time until the next attempt."""

    x1: float
    x2: float


@dataclass(frozen=True, slots=True)
class Row:
    """A step, or the undo of a step. ``words`` stand at ``words_x``, before the bars when ``before`` is set."""

    name: str
    undo: bool
    y: int
    icon: str
    tone: str
    words: str
    strong: bool = False
    words_x: float = LEFT + 6
    before: bool = False
    bars: tuple[Bar, ...] = ()
    marks: tuple[Mark, ...] = ()
    dots: tuple[Dots, ...] = ()

    @property
    def base(self) -> int:
        """The base line of its text."""
        return self.y + 13

    @property
    def words_tone(self) -> str:
        """Of words that are said aloud: red or amber for trouble, else the colour of the lane."""
        if any(mark.icon == "bad" for mark in self.marks[-1:]):
            return "bad"
        if self.marks and self.tone == "warn":
            return "warn"
        return "undo" if self.undo else "run"

    @property
    def middle(self) -> int:
        """The height of its line."""
        return self.y + BAR // 2

    @property
    def shown(self) -> str:
        """The words, as many as fit beside the bars."""
        room = self.words_x - LEFT if self.before else WIDTH - self.words_x
        fit = max(int(room / CHARACTER), TEXT_MIN)
        return self.words if len(self.words) <= fit else self.words[: fit - 1].rstrip() + "…"


@dataclass(frozen=True, slots=True)
class Gantt:
    """All that the drawing needs."""

    ticks: tuple[Tick, ...]
    breaks: tuple[Break, ...]
    rows: tuple[Row, ...]
    now_x: float | None
    undo_top: int | None
    finding: str

    @property
    def bottom(self) -> int:
        """Where the rows end."""
        return max((row.y + ROW for row in self.rows), default=TOP + ROW)

    @property
    def undo_height(self) -> int:
        """Of the lane of the undo."""
        return self.bottom - (self.undo_top or 0) - 4

    @property
    def now_left(self) -> float:
        """Where the label of "now" begins."""
        return (self.now_x or 0.0) - 19

    @property
    def focus(self) -> float:
        """What a narrow screen shows first: where the run is now, in per cent of the width."""
        return (self.now_x or RIGHT) / WIDTH * 100

    @property
    def above(self) -> int:
        """Where the drawing begins: over the axis there is room for what its breaks say."""
        return -22 if self.breaks else 0

    @property
    def height(self) -> int:
        """Of the whole drawing."""
        return self.bottom - self.above + (24 if self.now_x is not None else 4)


def gantt(run: RunState, *, now: datetime, finding: str) -> Gantt:
    """Lay a run out. ``finding`` is what the picture says, for those who cannot see it."""
    live = run.status in LIVE
    axis = _axis(run, now=now, live=live)
    rows = [_row(step, axis, run=run, now=now, undo=False) for step in run.steps]
    undone = _to_undo(run)
    rows += [_row(step, axis, run=run, now=now, undo=True) for step in undone]
    gap = 10 if undone else 0  # the lane of the undo stands apart
    placed = tuple(replace(row, y=TOP + 8 + ROW * index + (gap if row.undo else 0)) for index, row in enumerate(rows))
    return Gantt(
        ticks=axis.ticks(),
        breaks=axis.breaks,
        rows=placed,
        now_x=axis.x(now) if live else None,
        undo_top=TOP + ROW * len(run.steps) + 9 if undone else None,
        finding=finding,
    )


def _axis(run: RunState, *, now: datetime, live: bool) -> Axis:
    tries = [attempt for step in run.steps for attempt in step.tries]
    moments = {
        run.started_at,
        *(each.started_at for each in tries),
        *(each.finished_at or each.started_at for each in tries),
    }
    moments |= {now} if live else set()
    moments |= {run.finished_at} if run.finished_at is not None else set()
    moments = {max(moment, run.started_at) for moment in moments}
    axis = Axis(run.started_at, max(moments), LEFT, RIGHT, folds_of(moments))
    if not live:
        return axis
    # A little room behind "now", and the next attempt when it is near.
    room = max(axis.span, timedelta(seconds=1))
    waits = [step.retry_at - now for step in run.steps if step.retry_at is not None and step.retry_at > now]
    behind = max(room * 0.06, min(min(waits, default=timedelta(0)), room * 0.3))
    return replace(axis, end=max(axis.end, now + behind))


def _to_undo(run: RunState) -> list[StepState]:
    """What was undone, in that order, and then what is still to be undone."""
    begun = [step for step in run.steps if any(attempt.undo for attempt in step.tries)]
    begun.sort(key=lambda step: min(attempt.started_at for attempt in step.tries if attempt.undo))
    if not begun and run.status != "COMPENSATING":
        return []
    over = run.status in {"COMPLETED", "COMPENSATED", "HANDLED"}
    waiting = [] if over else [step for step in reversed(run.steps) if step.status in _STILL_TO_UNDO and step not in begun]
    return begun + waiting


def _row(step: StepState, axis: Axis, *, run: RunState, now: datetime, undo: bool) -> Row:
    tries = [attempt for attempt in step.tries if attempt.undo is undo]
    icon, tone = _sign(step, tries, undo=undo)
    name = f"undo {step.name}" if undo else step.name
    words, strong = _words(step, tries, run=run, undo=undo)
    row = Row(name=name, undo=undo, y=0, icon=icon, tone=tone, words=words, strong=strong)
    if not tries:
        return row
    live = run.status in LIVE
    bars = tuple(_bar(attempt, axis, step=step, now=now, live=live) for attempt in tries)
    marks = tuple(mark for attempt in tries if (mark := _mark(attempt, axis)))
    again = live and (run.status == "COMPENSATING") is undo and tries[-1].outcome in _FAILED | _UNCLEAR
    dots = _dots(tries, axis, until=max(step.retry_at or now, now) if again else None)
    row = replace(row, bars=bars, marks=marks, dots=dots)
    return _place_words(row)


def _sign(step: StepState, tries: list[AttemptState], *, undo: bool) -> tuple[str, str]:
    """Icon and tone in front of the name."""
    if not tries:
        return "clock", "idle"
    if undo:
        return ("undo", "undo") if step.status != "FAILED" else ("bad", "bad")
    last = tries[-1].outcome
    if last in {"DONE", "ANSWERED"}:
        return "ok", "ok"
    if last == "ROLLED_BACK":
        return "undo", "idle"
    if last in _UNCLEAR:
        return "unknown", "warn"
    if last in _FAILED:
        return "bad", "bad"
    return ("wait", "run") if last == "ASKED" else ("run", "run")


def _bar(attempt: AttemptState, axis: Axis, *, step: StepState, now: datetime, live: bool) -> Bar:
    open_end = now if live else attempt.started_at
    begin, end = axis.x(attempt.started_at), axis.x(attempt.finished_at or open_end)
    title = f"attempt {attempt.number}, {duration((attempt.finished_at or open_end) - attempt.started_at)}"
    hatched = attempt.outcome in _WAITED or (step.shape == "ask" and attempt.outcome not in {"DONE", "FAILED"})
    return Bar(begin, max(end - begin, BAR_WIDTH_MIN), hatched, title)


def _mark(attempt: AttemptState, axis: Axis) -> Mark | None:
    at = axis.x(attempt.finished_at or attempt.started_at)
    begin = axis.x(attempt.started_at)
    x = max(at, begin + BAR_WIDTH_MIN) + 5
    if attempt.outcome in _FAILED:
        return Mark(x, "bad", "bad")
    return Mark(x, "unknown", "warn") if attempt.outcome in _UNCLEAR else None


def _dots(tries: list[AttemptState], axis: Axis, *, until: datetime | None) -> tuple[Dots, ...]:
    """The time between the attempts, and after the last one ``until`` the next."""
    found = []
    for earlier, later in itertools.pairwise(tries):
        found.append((earlier.finished_at or earlier.started_at, later.started_at))
    last = tries[-1]
    if until is not None and last.finished_at is not None:
        found.append((last.finished_at, until))
    lines = [Dots(axis.x(begin) + 15, axis.x(end) - 2) for begin, end in found]
    return tuple(line for line in lines if line.x2 > line.x1)


def _place_words(row: Row) -> Row:
    """Behind the last mark, or before the first bar when there is more room."""
    ends = [bar.x + bar.width for bar in row.bars] + [mark.x + 7 for mark in row.marks] + [dot.x2 for dot in row.dots]
    behind = max(ends) + 8
    begin = min(bar.x for bar in row.bars) - 8
    needed = len(row.words) * CHARACTER
    before = behind + needed > WIDTH and begin - LEFT > WIDTH - behind
    return replace(row, words_x=begin if before else behind, before=before)


def _words(step: StepState, tries: list[AttemptState], *, run: RunState, undo: bool) -> tuple[str, bool]:
    """What is said beside the bars, and whether it is said aloud."""
    if not tries:
        if undo:
            return ("waits for its turn", False)
        return ("not begun yet" if run.status in {"RUNNING", "WAITING"} else "never begun", False)
    last, number = tries[-1], len(tries)
    took = duration(last.finished_at - last.started_at) if last.finished_at else ""
    which = f"attempt {last.number}" if number > 1 else ""
    if last.outcome in _FAILED or last.outcome in _UNCLEAR:
        return (_trouble(step, last, which), True)
    if last.outcome == "ROLLED_BACK":
        return ("rolled back with its commit: nothing to undo", False)
    if last.finished_at is None:
        doing = "waits for an answer" if last.outcome == "ASKED" else "running"
        return (f"{doing}, {which}" if which else doing, True)
    verb = f"answered in {took}" if last.outcome == "ANSWERED" else took
    return (f"{which}, {verb}" if which else verb, False)


def _trouble(step: StepState, last: AttemptState, which: str) -> str:
    said = {"REFUSED": "refused", "NO_ANSWER": "no answer", "UNKNOWN": "outcome unknown"}.get(last.outcome, "failed")
    detail = last.error_detail or step.error_detail
    code = last.error_code or step.error_code
    text = f"{said}: {detail}" if detail else said
    text = f"{which} {text}" if which else text
    return f"{text} ({code})" if code and code not in text else text

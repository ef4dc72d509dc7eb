"""The map of a use case: its steps from left to right, their undo below from right to left. Values in, coordinates out.

The upper half of a box says who is there now and what failed, the lower half is the heat of the chosen measure with its
number. A use case with many steps takes several rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from math import ceil

from apps.backoffice.components.formats import age, brief, count
from apps.backoffice.components.usemap import StepFacts, heat_of, share_heat, waited

MEASURES = ("waiting", "errors", "volume")
COLUMNS_MAX = 7  # more boxes in a row would be too small to read on a laptop
LEFT, TOP = 80, 54  # of the first box
BOX_H, HALF, UNDO_H, UNDO_AT = 112, 54, 50, 168  # UNDO_AT: from the top of a box to the top of its undo
ROW_H = 262
END_W = 100  # what stands behind the last box
_WIDE, _NARROW = (130, 16), (122, 14)  # width and gap of boxes: up to six in a row, and seven
_CHARACTER, _CHARACTER_UNDO = 6.5, 6.1  # an average letter of a name at 12 and at 11 px; only to shorten it
_ICONS = {"COMPENSABLE": "undo", "PIVOT": "pivot", "RETRIABLE": "again"}
_RANK = {kind: rank for rank, kind in enumerate(_ICONS)}
_KINDS = {"COMPENSABLE": "can be undone", "PIVOT": "the pivot, it decides the run", "RETRIABLE": "only retried"}


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoBox:
    """The undo of a step."""

    x: int
    y: int
    width: int
    name: str
    here: str
    undone: str
    hot: bool
    label: str
    href: str
    arrow_to: int | None  # where the arrow to the undo before it ends
    turns_from: int | None  # the middle of the step whose failure leads here
    turned: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A step."""

    x: int
    y: int
    width: int
    name: str
    full_name: str
    here: str
    failed: str
    number: str
    caption: str
    heat: int
    icon: str
    offends: bool
    waits_longest: bool
    paused: bool
    optional: bool
    label: str
    href: str
    entered: str
    turned: str
    follows: bool  # another box of the same row stands before it
    pivot: bool
    undo: UndoBox | None

    @property
    def middle(self) -> int:
        """Of its width."""
        return self.x + self.width // 2

    @property
    def right(self) -> int:
        """Its right edge."""
        return self.x + self.width

    @property
    def line(self) -> int:
        """The height of the arrows."""
        return self.y + BOX_H // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMap:
    """All that the drawing needs."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    started: str
    completed: str
    undone: str
    finding: str

    @property
    def first(self) -> Box:
        """The step with which a run begins."""
        return self.boxes[0]

    @property
    def last(self) -> Box:
        """The step with which a run ends."""
        return self.boxes[-1]

    @property
    def way_back(self) -> UndoBox | None:
        """The last undo: after it a run is undone."""
        return next((box.undo for box in self.boxes if box.undo is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tone:
    """How the map is coloured: by which measure, and who stands out."""

    measure: str
    offender: str
    waits_longest: str
    now: datetime


def step_map(steps: tuple[StepFacts, ...], *, tone: Tone, ends: Mapping[str, int], hrefs: Mapping[str, str]) -> StepMap:
    """Lay it out. ``ends``: runs started, completed and undone in the window; ``hrefs``: by step, and by ``undo:`` step,
    where its runs are listed.
    """
    # Optional steps stand where a run that has them does them: in the order of the kinds.
    shown = tuple(sorted((step for step in steps if step.terms is not None), key=lambda step: _RANK[_kind(step)]))
    columns, (width, gap) = _grid(len(shown))
    most = {"errors": max((s.errors for s in shown), default=0), "volume": max((_entered(s) for s in shown), default=0)}
    boxes = []
    for index, step in enumerate(shown):
        row, column = divmod(index, columns)
        x, y = LEFT + column * (width + gap), TOP + row * ROW_H
        undo = _undo_box(shown, index, x=x, y=y + UNDO_AT, width=width, gap=gap, columns=columns, hrefs=hrefs)
        boxes.append(_box(step, x=x, y=y, width=width, follows=column > 0, undo=undo, tone=tone, most=most, hrefs=hrefs))
    rows = max(ceil(len(shown) / columns), 1)
    return StepMap(
        width=LEFT + columns * (width + gap) - gap + END_W,
        height=rows * ROW_H + TOP - 26,
        boxes=tuple(boxes),
        started=count(ends["started"]),
        completed=count(ends["completed"]),
        undone=count(ends["undone"]),
        finding=_finding(shown),
    )


def _grid(number: int) -> tuple[int, tuple[int, int]]:
    """Boxes in a row, as even as it goes, and their width and gap."""
    rows = max(ceil(number / COLUMNS_MAX), 1)
    columns = max(ceil(number / rows), 3)
    return columns, _NARROW if columns == COLUMNS_MAX else _WIDE


def _kind(step: StepFacts) -> str:
    return step.terms.kind if step.terms is not None else ""


def _entered(step: StepFacts) -> int:
    return step.pace.entered if step.pace is not None else 0


def _short(name: str, room: int, character: float) -> str:
    fit = int(room / character)
    return name if len(name) <= fit else f"{name[: fit - 1]}…"


def _box(
    step: StepFacts,
    *,
    x: int,
    y: int,
    width: int,
    follows: bool,
    undo: UndoBox | None,
    tone: Tone,
    most: Mapping[str, int],
    hrefs: Mapping[str, str],
) -> Box:
    number, caption, heat = _measured(step, tone=tone, most=most)
    kind = _kind(step)
    here, failed = count(step.ahead.runs), count(step.errors)
    label = f"{step.name}, {_KINDS[kind]}: {here} here now, {failed} failed, {number} {caption}"
    return Box(
        x=x,
        y=y,
        width=width,
        name=_short(step.name, width - 16, _CHARACTER),
        full_name=step.name,
        here=here,
        failed=failed,
        number=number,
        caption=caption,
        heat=heat,
        icon=_ICONS[kind],
        offends=step.name == tone.offender,
        waits_longest=step.name == tone.waits_longest,
        paused=step.paused,
        optional=step.terms is not None and step.terms.optional,
        label=f"{label}, paused" if step.paused else label,
        href=hrefs[step.name],
        entered=count(_entered(step)),
        turned=count(step.turned) if step.turned else "",
        follows=follows,
        pivot=kind == "PIVOT",
        undo=undo,
    )


def _measured(step: StepFacts, *, tone: Tone, most: Mapping[str, int]) -> tuple[str, str, int]:
    """The number of the lower half, what it is, and its heat."""
    if tone.measure == "errors":
        return count(step.errors), "failed", share_heat(step.errors, most["errors"])
    if tone.measure == "volume":
        return count(_entered(step)), "began it", share_heat(_entered(step), most["volume"])
    usual, longest = step.slowest, waited(step.ahead, now=tone.now)
    # Who waits now has not passed yet: a step that hangs is not told by those that passed it before.
    if longest is not None and (usual is None or longest > usual[1]):
        return age(longest), "longest, now", heat_of(longest)
    if usual is None:
        return "–", "nobody passed", 0
    return brief(usual[1]), f"p95, {usual[0]}", heat_of(usual[1])


def _undo_box(
    steps: tuple[StepFacts, ...],
    index: int,
    *,
    x: int,
    y: int,
    width: int,
    gap: int,
    columns: int,
    hrefs: Mapping[str, str],
) -> UndoBox | None:
    step = steps[index]
    if not step.can_be_undone:
        return None
    undone = step.pace.undone if step.pace is not None else 0
    next_step = steps[index + 1] if index + 1 < len(steps) and (index + 1) % columns else None
    here = step.back.runs
    return UndoBox(
        x=x,
        y=y,
        width=width,
        name=_short(step.name, width - 25, _CHARACTER_UNDO),
        here=count(here),
        undone=count(undone),
        hot=bool(here),
        label=f"Undo of {step.name}: {count(here)} now, {count(undone)} undone",
        href=hrefs[f"undo:{step.name}"],
        arrow_to=x - gap if index % columns and steps[index - 1].can_be_undone else None,
        turns_from=x + width + gap + width // 2 - 20 if next_step is not None and _turns(next_step) else None,
        turned=count(next_step.turned) if next_step is not None and next_step.turned else "",
    )


def _turns(step: StepFacts) -> bool:
    """Can a run turn around here? After the pivot it only goes forward."""
    return _kind(step) != "RETRIABLE"


def _finding(steps: tuple[StepFacts, ...]) -> str:
    here = ", ".join(f"{step.name} {step.ahead.runs}" for step in steps if step.ahead.runs)
    undoing = ", ".join(f"{step.name} {step.back.runs}" for step in steps if step.back.runs)
    return f"Runs there now: {here or 'none'}. Undoing: {undoing or 'none'}. The same numbers stand in the table below."

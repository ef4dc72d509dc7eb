"""A use case as a picture: its steps from left to right, what is undone from right to left, and where it cannot go back.

As Mermaid text for documents, and drawn as SVG here: one file, without a script, a font or another host.
"""

from xml.sax.saxutils import escape, quoteattr

from apps.saga.definition import COMPENSABLE, PIVOT, Definition, Step
from apps.saga.shapes import ApprovalStep, ChildrenStep, TimerStep

_VERBS = {"ask": "asks", "call": "calls"}


# --- Words ----------------------------------------------------------------------------------------------------------------
def _words(name: str) -> str:
    return name.replace("_", " ")


def _sentence(definition: Definition) -> str:
    """The picture in words, for who cannot see it."""
    undone = [_words(step.name) for step in reversed(definition.steps) if step.kind is COMPENSABLE]
    told = [f"{len(definition.steps)} steps: {', '.join(_words(step.name) for step in definition.steps)}."]
    told += [
        f"{_words(step.name)} is the pivot: after it the run only goes forward."
        for step in definition.steps
        if step.kind is PIVOT
    ]
    told += [
        f"{_words(step.name)} runs {', '.join(_branches(step))}."
        for step in definition.steps
        if isinstance(step, ChildrenStep)
    ]
    if definition.optional_steps:
        told.append(f"When a step chooses them: {', '.join(_words(step.name) for step in definition.optional_steps)}.")
    if undone:
        told.append(f"Undone, in this order: {', '.join(undone)}.")
    return " ".join(told)


def _branches(step: ChildrenStep) -> list[str]:
    """The use cases that it runs."""
    return [definition.use_case for definition in step.known()]


def _label(step: Step) -> str:
    if isinstance(step, TimerStep):
        return "waits for a moment"
    if isinstance(step, ApprovalStep):
        return f"asks {step.partner or ' or '.join(who.partition(':')[2] for who in step.deciders)}"
    if isinstance(step, ChildrenStep):
        return f"runs {len(step.known())} at once" if len(step.known()) > 1 else f"runs {', '.join(_branches(step))}"
    return f"{_VERBS.get(step.shape, step.shape)} {step.partner}".strip()


# --- Mermaid --------------------------------------------------------------------------------------------------------------
def _quoted(text: str) -> str:
    return '"' + text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;") + '"'


def mermaid(definition: Definition) -> str:
    """The picture as a Mermaid flowchart. The pivot is a hexagon, an undo a dotted arrow back."""
    lines = [
        "flowchart LR",
        f"    accTitle: {definition.use_case} version {definition.version}",
        f"    accDescr: {_sentence(definition)}",
        "    begin((start))",
    ]
    lines += [f"    s{at}{_node(step)}" for at, step in enumerate(definition.steps)]
    nodes = ["begin", *(f"s{at}" for at in range(len(definition.steps))), "done"]
    lines += ["    done(((completed)))", f"    {' --> '.join(nodes)}"]
    back = [f"s{at}" for at, step in reversed(list(enumerate(definition.steps))) if step.kind is COMPENSABLE]
    if back:
        lines.append("    undone(((undone)))")
        lines += [f"    {one} -. undo .-> {other}" for one, other in zip(back, [*back[1:], "undone"], strict=True)]
    for at, step in enumerate(definition.steps):
        if isinstance(step, ChildrenStep):
            lines += [f"    s{at} --o s{at}b{n}([{_quoted(name)}])" for n, name in enumerate(_branches(step))]
    if definition.optional_steps:
        lines.append("    classDef optional stroke-dasharray: 5 4")
        lines += [f"    o{at}{_node(step)}:::optional" for at, step in enumerate(definition.optional_steps)]
    return "\n".join(lines) + "\n"


def _node(step: Step) -> str:
    opening, closing = ("{{", "}}") if step.kind is PIVOT else ("[", "]")
    text = _quoted(f"{_words(step.name)}<br/>{step.kind.lower()} · {_label(step)}").replace("&lt;br/&gt;", "<br/>")
    return f"{opening}{text}{closing}"


# --- SVG ------------------------------------------------------------------------------------------------------------------
_BOX_W, _BOX_H, _GAP = 176, 64, 44
_LEFT, _TOP, _LANE = 92, 44, 66  # before the first box, above the boxes, down to the way back
_RIGHT = 40  # behind the end: half of its word
_PIVOT_RIGHT = 120  # when the words beside a last pivot stand there
_END_R = 14
_OPTIONAL = 64  # from the way back down to the steps that may be chosen
_LINE_CHARACTERS = 22  # of a step's name, in one line of a box; a longer one takes two
_LABEL_CHARACTERS = 28  # of what stands below it, which is smaller
# Of the page's own colour, so that it reads on a light and on a dark one; undo and pivot in tones that show on both.
_STYLE = """
.saga .b{fill:none;stroke:currentColor;stroke-width:1.5}.saga .r{fill:currentColor;fill-opacity:.07}
.saga .p{stroke:#6d6af0;stroke-width:3}.saga .v{stroke:#6d6af0;stroke-width:1.5;stroke-dasharray:2 4}
.saga .f{stroke:currentColor;stroke-width:1.5;fill:none}.saga .h{fill:currentColor}
.saga .u{stroke:#9160e8;stroke-width:1.5;stroke-dasharray:5 4;fill:none}.saga .k{fill:#9160e8}
.saga text{fill:currentColor}.saga .n{font-weight:600}.saga .s,.saga .t,.saga .w{font-size:11px}.saga .s{opacity:.8}
"""


def _x(at: int) -> int:
    """The left edge of a box."""
    return _LEFT + at * (_BOX_W + _GAP)


def _text(x: float, y: float, css: str, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{css}" text-anchor="{anchor}">{escape(text)}</text>'


def _lines(name: str) -> list[str]:
    """A step's name in at most two lines; what does not fit is in the picture's words."""
    lines = [""]
    for word in _words(name).split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if len(longer) <= _LINE_CHARACTERS or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return [_short(line, _LINE_CHARACTERS) for line in lines[:2]]


def _short(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def _box(at: int, step: Step, *, top: int = _TOP, optional: bool = False) -> list[str]:
    x, middle = _x(at), _x(at) + _BOX_W / 2
    css = "b p" if step.kind is PIVOT else "b" if step.kind is COMPENSABLE else "b r"
    lines = _lines(step.name)
    first = top + (22 if len(lines) == 1 else 16)
    told = " ".join((step.__doc__ or _words(step.name)).split())
    if isinstance(step, ChildrenStep):
        told += f" Runs {', '.join(_branches(step))}."
    dashed = ' stroke-dasharray="5 4"' if optional else ""
    return [
        f"<g><title>{escape(f'{_words(step.name)}: {told}')}</title>",
        f'<rect x="{x}" y="{top}" width="{_BOX_W}" height="{_BOX_H}" rx="8" class="{css}"{dashed}/>',
        *(_text(middle, first + 15 * line, "n", text) for line, text in enumerate(lines)),
        _text(middle, top + 45, "s", step.kind.lower()),
        _text(middle, top + 58, "s", _short(_label(step), _LABEL_CHARACTERS)),
        "</g>",
    ]


def _forward(count: int) -> list[str]:
    y = _TOP + _BOX_H / 2
    starts = [_LEFT - _GAP, *(_x(at) + _BOX_W for at in range(count))]
    return [f'<path d="M{start} {y:g}H{start + _GAP - 2}" class="f" marker-end="url(#saga-f)"/>' for start in starts]


def _back(definition: Definition) -> list[str]:
    """Down from each step that can be undone, and from right to left to the end where everything is undone."""
    places = [at for at, step in enumerate(definition.steps) if step.kind is COMPENSABLE]
    if not places:
        return []
    bottom, y = _TOP + _BOX_H, _TOP + _BOX_H + _LANE
    drawn = []
    for at in places:
        middle = _x(at) + _BOX_W // 2
        drawn.append(f'<path d="M{middle} {bottom}V{y}" class="u"/>')
        drawn.append(
            _text(
                middle + 6,
                bottom + 24,
                "t",
                _short(f"undo {_words(definition.steps[at].name)}", _LABEL_CHARACTERS),
                "start",
            )
        )
    right, end = _x(places[-1]) + _BOX_W // 2, _LEFT - _GAP + 2
    drawn.append(f'<path d="M{right} {y}H{end}" class="u" marker-end="url(#saga-u)"/>')
    drawn.append(f'<circle cx="{end - _END_R - 2}" cy="{y}" r="{_END_R}" class="u"/>')
    drawn.append(_text(end - _END_R - 2, y + 30, "t", "undone"))
    return drawn


def _pivot(definition: Definition) -> list[str]:
    at = next((at for at, step in enumerate(definition.steps) if step.kind is PIVOT), None)
    if at is None:
        return []
    x, bottom = _x(at) + _BOX_W + _GAP // 2, _TOP + _BOX_H + _LANE
    return [
        f'<path d="M{x} {_TOP - 20}V{bottom}" class="v"/>',
        _text(x + 6, _TOP - 14, "w", "no way back from here", "start"),
        _text(x - 6, _TOP - 14, "w", "pivot", "end"),
    ]


def _optional(definition: Definition, top: int) -> list[str]:
    """The steps that another one may choose, in a row of their own."""
    if not definition.optional_steps:
        return []
    boxes = [_box(at, step, top=top + 24, optional=True) for at, step in enumerate(definition.optional_steps)]
    return [
        _text(_x(0), top + 12, "w", "when a step chooses them", "start"),
        *(part for box in boxes for part in box),
    ]


def _marker(name: str, css: str) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0L8 4L0 8Z" class="{css}"/></marker>'
    )


def svg(definition: Definition) -> str:
    """The picture as one SVG element, with its words inside. It may stand in a page or alone."""
    count, below = len(definition.steps), _TOP + _BOX_H + _LANE + 44
    boxes = max(count, len(definition.optional_steps))
    width = _x(boxes) + _END_R + (_PIVOT_RIGHT if definition.steps[-1].kind is PIVOT else _RIGHT)
    height = below + (_OPTIONAL + _BOX_H if definition.optional_steps else 0)
    title = f"{definition.use_case} version {definition.version}"
    y, start, end = _TOP + _BOX_H / 2, _LEFT - _GAP - _END_R, _x(count) + _END_R
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"',
        f' class="saga" role="img" aria-label={quoteattr(f"{title}. {_sentence(definition)}")}',
        ' font-family="Inter,system-ui,sans-serif" font-size="13">',
        f"<title>{escape(title)}</title><desc>{escape(_sentence(definition))}</desc><style>{_STYLE}</style>",
        f"<defs>{_marker('saga-f', 'h')}{_marker('saga-u', 'k')}</defs>",
        f'<circle cx="{start}" cy="{y:g}" r="{_END_R}" class="f"/>',
        _text(start, y + 30, "s", "start"),
        *_pivot(definition),
        *_forward(count),
        *_back(definition),
        *(part for at, step in enumerate(definition.steps) for part in _box(at, step)),
        *_optional(definition, below),
        f'<circle cx="{end}" cy="{y:g}" r="{_END_R}" class="f"/><circle cx="{end}" cy="{y:g}" r="{_END_R - 4}" class="f"/>',
        _text(end, y + 30, "s", "completed"),
        "</svg>",
    ]
    return "".join(parts)

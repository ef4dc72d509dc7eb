"""Tracebacks for logs: what Python prints, without the marks under its lines.

For the marks Python looks up the columns of every frame and parses its lines anew: most of what a failure costs that is
logged, and while a broker is away there are many.
"""

import traceback

CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


def told(error: BaseException) -> str:
    """Where the error was raised and what it says, and before it those from which it came."""
    parts: list[str] = []
    seen: set[int] = set()
    found, link = error, ""
    while True:
        parts.append(_alone(found) + link)
        seen.add(id(found))
        before, link = found.__cause__, CAUSE
        if before is None and not found.__suppress_context__:
            before, link = found.__context__, CONTEXT
        if before is None or id(before) in seen:
            return "".join(reversed(parts)).rstrip("\n")
        found = before


def _alone(error: BaseException) -> str:
    if isinstance(error, SyntaxError | BaseExceptionGroup):  # these say more than a line, in ways that Python knows
        return "".join(traceback.format_exception(type(error), error, error.__traceback__, chain=False))
    # From bare frames; those of an error's own traceback come with their columns.
    stack = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__))
    head = ["Traceback (most recent call last):\n"] if stack else []
    return "".join([*head, *stack.format(), f"{_name(type(error))}{_words(error)}\n", *_notes(error)])


def _name(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ in {"builtins", "__main__"} else f"{kind.__module__}.{kind.__qualname__}"


def _words(error: BaseException) -> str:
    try:
        words = str(error)
    except Exception:
        words = "<exception str() failed>"
    return f": {words}" if words else ""


def _notes(error: BaseException) -> list[str]:
    return [f"{note}\n" for note in getattr(error, "__notes__", ())]

"""A traceback in a log is Python's own, without the marks under its lines."""

import traceback
from collections.abc import Callable

import pytest

from apps.observability.tracebacks import told


def _fail() -> None:
    int("no number")


def _of_a_cause() -> None:
    try:
        _fail()
    except ValueError as error:
        raise LookupError("there is none") from error


def _on_the_way() -> None:
    try:
        _of_a_cause()
    except LookupError:
        {}["a key"]


def _of_nothing() -> None:
    try:
        _fail()
    except ValueError:
        raise KeyboardInterrupt from None


def _with_notes() -> None:
    error = RuntimeError("a line\nand another")
    error.add_note("it was late")
    raise error


def _again_and_again(left: int = 50) -> None:
    if left == 0:
        raise RuntimeError
    _again_and_again(left - 1)


def _in_a_group() -> None:
    try:
        _fail()
    except ValueError as error:
        raise ExceptionGroup("two", [error, KeyError(1)]) from error


def _of_syntax() -> None:
    compile("1 +", "typed", "exec")


class Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def _speechless() -> None:
    raise Speechless


def _in_a_circle() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    raise one


@pytest.mark.parametrize(
    "fail",
    [
        *(_fail, _of_a_cause, _on_the_way, _of_nothing, _with_notes, _again_and_again),
        *(_in_a_group, _of_syntax, _speechless, _in_a_circle),
    ],
)
def test_says_what_python_says(fail: Callable[[], None]) -> None:
    try:
        fail()
    except BaseException as caught:
        error = caught
    pythons = "".join(traceback.format_exception(error))
    assert without_marks(told(error)) == without_marks(pythons)


def test_has_no_marks() -> None:
    with pytest.raises(KeyError) as caught:
        _on_the_way()
    assert told(caught.value) == without_marks(told(caught.value))


def without_marks(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.strip(" |") or line.strip(" |~^"))

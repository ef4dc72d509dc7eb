"""What a step has to be."""

from typing import Any

import pytest

from lastro_pipes import Kind, Message, Misconfigured, Step
from lastro_pipes.step import load, prepare


class Bare:
    def handle(self, message: Message) -> Any: ...

    def compensate(self, message: Message) -> None: ...


class Pivot(Step):
    service = "a.b.c"
    kind = Kind.PIVOT

    def handle(self, message: Message) -> Any: ...


class Forgotten(Step):
    def handle(self, message: Message) -> Any: ...


class Empty(Step): ...


class Asynchronous:
    kind = "PIVOT"

    async def handle(self, message: Message) -> Any: ...


class Strange:
    kind = "MAYBE"

    def handle(self, message: Message) -> Any: ...


class TestPrepare:
    def test_any_class_with_the_methods_will_do(self) -> None:
        made = prepare(Bare)
        assert (made.kind, made.service, made.name) == (Kind.COMPENSABLE, "", "Bare")
        made.close()

    def test_a_pivot_needs_no_compensate(self) -> None:
        made = prepare(Pivot)
        assert (made.kind, made.compensate, made.service) == (Kind.PIVOT, None, "a.b.c")

    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            (Forgotten, "no compensate"),
            (Empty, "no handle"),
            (Asynchronous, "coroutine"),
            (Strange, "MAYBE"),
            (Bare(), "not a class"),
        ],
    )
    def test_says_what_is_missing(self, kind: Any, words: str) -> None:
        with pytest.raises(Misconfigured, match=words):
            prepare(kind)


class TestLoad:
    def test_by_name(self) -> None:
        assert load("tests.test_step:Pivot").service == "a.b.c"

    @pytest.mark.parametrize(
        "target", ["tests.test_step", "tests.test_step:", ":Pivot", "no.such.module:X", "tests.test_step:No"]
    )
    def test_says_what_is_wrong_with_the_name(self, target: str) -> None:
        with pytest.raises(Misconfigured):
            load(target)

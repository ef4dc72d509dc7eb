"""What a process remembers of the pauses: not longer than it may, and never an answer that was read before a change."""

from collections.abc import Callable
from typing import Any

import pytest

from apps.saga import pauses

KEY = ("test.toy", "a")


class Table:
    """Stands for the table: what it holds, how often it was read, and what happens while it is read."""

    def __init__(self) -> None:
        self.keys: set[tuple[str, str]] = set()
        self.reads = 0
        self.during: Callable[[], None] = lambda: None

    @property
    def objects(self) -> "Table":
        return self

    def filter(self, **_condition: Any) -> "Table":
        return self

    def values_list(self, *_columns: str) -> list[tuple[str, str]]:
        self.reads += 1
        found = list(self.keys)
        self.during()
        return found


class TestKnown:
    @pytest.fixture
    def table(self, monkeypatch: pytest.MonkeyPatch) -> Table:
        table = Table()
        monkeypatch.setattr(pauses, "Pause", table)
        return table

    @pytest.fixture
    def seconds(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        clock = [100.0]
        monkeypatch.setattr(pauses.time, "monotonic", lambda: clock[0])
        return clock

    def test_reads_once_in_a_while(self, table: Table, seconds: list[float]) -> None:
        known = pauses._Known()
        assert [known.paused() for _ in range(5)] == [frozenset()] * 5
        assert table.reads == 1
        table.keys.add(KEY)
        seconds[0] += pauses.KNOWN_FOR_S - 0.01
        assert known.paused() == frozenset()
        seconds[0] += 0.02
        assert known.paused() == {KEY}
        assert table.reads == 2

    def test_forgets_at_once_when_it_is_told_to(self, table: Table, seconds: list[float]) -> None:
        known = pauses._Known()
        known.paused()
        table.keys.add(KEY)
        known.forget()
        assert known.paused() == {KEY}

    def test_does_not_keep_what_was_read_before_a_change(self, table: Table, seconds: list[float]) -> None:
        known = pauses._Known()

        def pause_meanwhile() -> None:
            table.keys.add(KEY)
            known.forget()
            table.during = lambda: None

        table.during = pause_meanwhile
        known.paused()
        assert known.paused() == {KEY}

"""How far it is: a bar on a terminal that is redrawn, a line for each part elsewhere."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from django.core.management.base import OutputWrapper

BAR_CHARACTERS = 28
T = TypeVar("T")


class Progress:
    """Parts of a work, one after the other, each with a number of things to do."""

    def __init__(self, out: OutputWrapper) -> None:
        self._out, self._redraws = out, out.isatty()
        self._name, self._total, self._done = "", 0, 0

    def begin(self, name: str, total: int) -> None:
        """Another part."""
        self._name, self._total, self._done = name, total, 0
        if self._redraws and total:
            self._draw()

    def reach(self, done: int) -> None:
        """So many of its things are done."""
        self._done = done
        if self._redraws:
            self._draw()

    def end(self, told: str = "") -> None:
        """It is over; ``told``: with what, where that is not all of it."""
        tail = told or f"{self._done}"
        if self._redraws:
            self._out.write(f"\r{self._name:<26}{'#' * BAR_CHARACTERS} {tail}\x1b[K", ending="\n")
        else:
            self._out.write(f"{self._name}: {tail}", ending="\n")
        self._out.flush()

    def each(self, name: str, things: Iterable[T], total: int) -> Iterator[T]:
        """Go through the things of a part."""
        self.begin(name, total)
        for done, thing in enumerate(things, start=1):
            yield thing
            self.reach(done)
        self.end()

    def _draw(self) -> None:
        filled = BAR_CHARACTERS * self._done // max(self._total, 1)
        bar = "#" * filled + "." * (BAR_CHARACTERS - filled)
        self._out.write(f"\r{self._name:<26}{bar} {self._done}/{self._total}\x1b[K", ending="")
        self._out.flush()

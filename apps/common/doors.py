"""Which pages of the back office the viewer may open: a link to another one is its text alone.

Whoever draws a link asks here, and whoever knows the viewer answers: the back office's middleware, for each request.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.urls import NoReverseMatch, reverse

Opens = Callable[[str], bool]

_opens: ContextVar[Opens | None] = ContextVar("opens", default=None)


@contextmanager
def seen_by(opens: Opens) -> Iterator[None]:
    """What is drawn meanwhile is for somebody who may open the pages, by their names, of which ``opens`` says so."""
    token = _opens.set(opens)
    try:
        yield
    finally:
        _opens.reset(token)


def is_open(page: str) -> bool:
    """May the viewer open the admin's page of this name? What is drawn for nobody in particular has all doors."""
    opens = _opens.get()
    return opens is None or opens(page)


def address(page: str, *args: Any, query: str = "") -> str:
    """A page by its name, perhaps of another app; empty when it is not there, or not for the viewer."""
    if not is_open(page):
        return ""
    try:
        return reverse(f"admin:{page}", args=args) + query
    except NoReverseMatch:
        return ""

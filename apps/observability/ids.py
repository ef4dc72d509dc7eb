"""The ids of the work at hand: request, global id (one business transaction) and trace, across HTTP, Celery and Kafka."""

import contextlib
import re
from collections.abc import Iterator
from contextvars import ContextVar

_context: ContextVar[dict[str, str] | None] = ContextVar("lastro_ids", default=None)

_SAFE = re.compile(r"[A-Za-z0-9._:\-]{1,128}")


def current() -> dict[str, str]:
    """The ids bound here: any of request_id, global_id, run_id, tracekey, trace."""
    return dict(_context.get() or {})


def is_safe(value: str) -> bool:
    """May an id that a stranger sent be written to logs and headers as it is?"""
    return _SAFE.fullmatch(value) is not None


@contextlib.contextmanager
def bound(**ids: str) -> Iterator[None]:
    """Add ids to everything that is logged or published inside the block."""
    token = _context.set({**current(), **ids})
    try:
        yield
    finally:
        _context.reset(token)

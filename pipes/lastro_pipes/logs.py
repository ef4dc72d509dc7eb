"""Logs: one JSON object a line, with the ids of the message at hand, and never a card number."""

import contextlib
import json
import logging
import re
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import IO

_bound: ContextVar[dict[str, str] | None] = ContextVar("lastro_pipes_ids", default=None)
# 13 to 19 digits (ISO/IEC 7812), with at most one separator between two of them; ids in hexadecimal are spared.
_CARD = re.compile(r"(?<![0-9A-Za-z-])\d(?:[ \t.-]?\d){12,18}(?![0-9A-Za-z-])")
OTHERS = ("kafka", "amqp")  # whose INFO tells of every connection, and whose WARNING we read (kafka_login.py)


@contextlib.contextmanager
def bound(**values: str) -> Iterator[None]:
    """Add ids to everything that is logged inside the block."""
    token = _bound.set({**(_bound.get() or {}), **values})
    try:
        yield
    finally:
        _bound.reset(token)


def mask_cards(text: str) -> str:
    """Replace whatever could be a card number, by Luhn's check, by its last four digits."""
    return _CARD.sub(_mask, text)


def _mask(found: "re.Match[str]") -> str:
    digits = re.sub(r"\D", "", found.group())
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + index % 2)
        total += value - 9 if value > 9 else value
    return f"****{digits[-4:]}" if total % 10 == 0 else found.group()


class JsonFormatter(logging.Formatter):
    """time (UTC), level, logger, message, the bound ids, and the traceback if there is one."""

    def __init__(self, **fixed: str) -> None:
        super().__init__()
        self._fixed = fixed

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._fixed,
            **(_bound.get() or {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        text = mask_cards(json.dumps(line, ensure_ascii=False, default=str))
        return text.encode("utf-8", errors="backslashreplace").decode()


def configure(level: str, *, service: str, stream: IO[str] | None = None) -> None:
    """Log to standard error as JSON. For processes of our own command; a host program keeps its logging."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(service=service))
    handler.setLevel(level)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in OTHERS:
        logging.getLogger(name).setLevel(logging.WARNING)

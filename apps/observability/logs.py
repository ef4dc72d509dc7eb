"""Logs: one JSON object a line, with the ids of the work at hand, and never a card number."""

import json
import logging
import re
from datetime import UTC, datetime

from apps.observability import ids

# 13 to 19 digits, perhaps in groups: what a card number looks like. Access keys (44) and ids are longer or hold letters.
_CARD = re.compile(r"(?<![\w-])(?:\d[ -]?){12,18}\d(?![\w-])")


def _luhn(digits: str) -> bool:
    total = 0
    for index, character in enumerate(reversed(digits)):
        value = int(character) * (2 if index % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def mask_cards(text: str) -> str:
    """Replace whatever could be a card number (13 to 19 digits that pass Luhn's check) by its last four digits."""

    def replace(match: re.Match[str]) -> str:
        digits = re.sub(r"\D", "", match.group())
        return f"****{digits[-4:]}" if _luhn(digits) else match.group()

    return _CARD.sub(replace, text)


class MaskFilter(logging.Filter):
    """Mask card numbers in the finished message."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = mask_cards(record.getMessage()), None
        return True


class JsonFormatter(logging.Formatter):
    """time (UTC), level, logger, message, the bound ids, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **ids.current(),
        }
        if record.exc_info:
            line["exception"] = mask_cards(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)

"""Logs: one JSON object a line, with the ids of the work at hand, and never a card number."""

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

from apps.observability import ids, tracebacks

CARD_DIGITS_MIN, CARD_DIGITS_MAX = 13, 19  # ISO/IEC 7812
_GROUPS_MAX = CARD_DIGITS_MAX  # a card number has no more groups than digits

# What looks like digits and is no card number: a SHA-256 (the head of the ledger's chain), a UUID, and a fiscal access key
# (44 digits, often shown in fours).
_SPARED = (
    r"(?<![0-9A-Za-z])(?=[0-9]*[a-f])[0-9a-f]{64}(?![0-9A-Za-z])|"
    r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{8}-?(?:[0-9A-Fa-f]{4}-?){3}[0-9A-Fa-f]{12}(?![0-9A-Fa-f])"
    r"|(?<!\d)(?:\d{44}|\d{4}(?:[ .]\d{4}){10})(?!\d)"
)
# Digits with at most one separator between two of them: a card number is somewhere in such a run, maybe beside an
# amount, an expiry or a CVV.
_RUN = rf"\d(?:[ \t.\u00a0/-]?\d){{{CARD_DIGITS_MIN - 1},}}"
_DIGITS = re.compile(f"(?P<spared>{_SPARED})|(?P<run>{_RUN})")
_ANY_RUN = re.compile(_RUN)
_GROUP = re.compile(r"\d+")


def _luhn(digits: str) -> bool:
    total = 0
    for index, character in enumerate(reversed(digits)):
        value = int(character) * (2 if index % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def mask_cards(text: str) -> str:
    """Replace whatever could be a card number (13 to 19 digits that pass Luhn's check) by its last four digits."""
    if _ANY_RUN.search(text) is None:  # most lines have none, which is found out in a tenth of the time
        return text
    return _DIGITS.sub(lambda found: found.group() if found["spared"] else _mask_run(found.group()), text)


def _mask_run(run: str) -> str:
    """Mask each stretch of whole groups that could be a card number."""
    groups = list(_GROUP.finditer(run))
    masked, copied, first = "", 0, 0
    while first < len(groups):
        length = _card_groups([group.group() for group in groups[first : first + _GROUPS_MAX]])
        if length == 0:
            first += 1
            continue
        start, end = groups[first].start(), groups[first + length - 1].end()
        last_four = re.sub(r"\D", "", run[start:end])[-4:]
        masked += f"{run[copied:start]}****{last_four}"
        copied, first = end, first + length
    return masked + run[copied:]


def _card_groups(groups: list[str]) -> int:
    """How many of these groups, from the first on, make a card number: the longest such stretch, or 0."""
    digits, found = "", 0
    for count, group in enumerate(groups, start=1):
        digits += group
        if len(digits) > CARD_DIGITS_MAX:
            return found
        if len(digits) >= CARD_DIGITS_MIN and _luhn(digits):
            found = count
    return found


class MaskFilter(logging.Filter):
    """Mask card numbers in the finished message."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            # A filter's exception would reach the code that logs: wrong arguments must not break it.
            message = f"{record.msg} (logged with arguments that do not fit)"
        record.msg, record.args = mask_cards(message), None
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
            # Kept with the record, as Python's own formatter does it: whoever else writes it need not tell it again.
            record.exc_text = record.exc_text or self.formatException(record.exc_info)
            line["exception"] = record.exc_text
        # The whole line, because an id may come from a caller and a traceback quotes values.
        text = mask_cards(json.dumps(line, ensure_ascii=False, default=str))
        # A stranger's text may hold half of a surrogate pair, which no stream can write: the line would be lost.
        return text.encode("utf-8", errors="backslashreplace").decode()

    def formatException(self, ei: Any) -> str:
        """Who logs an error where there is none has no traceback."""
        _kind, error, _traceback = ei
        return super().formatException(ei) if error is None else tracebacks.told(error)

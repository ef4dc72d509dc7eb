"""What JSON can say and nobody can keep: PostgreSQL, UTF-8 and everything recursive have limits that JSON has not."""

import json
import re
from typing import Any

NESTING_MAX = 32  # nothing of ours is nested deeper than five; what walks a document afterwards is recursive
# An escaped NUL: an odd number of backslashes before u0000. PostgreSQL's text and jsonb cannot hold it.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def check_keepable(text: str, value: Any) -> None:
    """``value`` was read from ``text``: can it be stored, and written out again? Raises ValueError, which says why not."""
    if text.count("[") + text.count("{") > NESTING_MAX and _deeper_than(NESTING_MAX, value):
        raise ValueError("nested too deeply")
    if "\\u" not in text:
        return
    if _NUL.search(text):
        raise ValueError("it holds the character U+0000")
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair") from None


def _deeper_than(levels: int, value: Any) -> bool:
    level = [value]
    for _ in range(levels):
        inner = [part for part in level if isinstance(part, dict | list)]
        level = [child for part in inner for child in (part.values() if isinstance(part, dict) else part)]
        if not level:
            return False
    return True

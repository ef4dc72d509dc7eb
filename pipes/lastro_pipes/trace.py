"""W3C Trace Context: what a step publishes continues the trace of the message that it was handed."""

import os
import re
from collections.abc import Mapping

HEADER = "traceparent"
_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


def is_traceparent(text: object) -> bool:
    """Is it a traceparent that may be continued?"""
    return isinstance(text, str) and _FORM.fullmatch(text) is not None


def incoming(headers: Mapping[str, str], meta_trace: str) -> str:
    """The trace of a message: its header, or else its meta. Free text in the meta is somebody's correlation id."""
    header = headers.get(HEADER, "")
    return header if is_traceparent(header) else meta_trace


def child(parent: str) -> str:
    """The trace as this step passes it on: same trace, own span. A new trace when there was none; free text is kept."""
    found = _FORM.fullmatch(parent)
    if found is None:
        return parent or f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"
    return f"00-{found[1]}-{os.urandom(8).hex()}-{found[3]}"

"""What every benchmark prints: progress as text, and one JSON object as its last line."""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any


def say(text: str) -> None:
    """Progress for people."""
    print(text, flush=True)


def timed(work: Callable[[], Any]) -> float:
    """Seconds that the work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which so many per cent of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def load() -> float:
    """How many processes wanted a core over the last minute: more than there are cores means a disturbed measurement."""
    return round(os.getloadavg()[0], 1)


def machine(**more: str) -> dict[str, Any]:
    """What it ran on."""
    return {"cores": os.cpu_count(), "cpu": platform.machine(), "python": sys.version.split()[0], **more}


def report(bench: str, *, ratios: dict[str, float], figures: dict[str, Any], **about: str) -> None:
    """The last line of a benchmark's output."""
    rounded = {name: round(value, 3) for name, value in ratios.items()}
    print(json.dumps({"bench": bench, "ratios": rounded, "figures": figures, "machine": machine(**about)}), flush=True)

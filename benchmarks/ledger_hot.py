"""Eight writers on one hot account at once: an ordinary one, whose lock they queue for, and a deferred one, which has none.

    python -m benchmarks.ledger_hot        (also a part of benchmarks.ledger)

Each writer moves money from an account of its own, so the hot account is all that they share. ``hot8_waiting``: how many of
the eight waited for another's lock, on average, asked every 20 ms; it does not depend on what else the machine does.
"""

import threading
from types import TracebackType
from typing import Any, Self

from benchmarks.ledger import DATABASE, Bench

WRITERS = 8
COMMANDS = 300  # of each writer
SAMPLE_S = 0.02
_WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = %s AND wait_event_type = 'Lock' AND wait_event IN ('transactionid', 'tuple')
"""

_waiting: dict[str, list[float]] = {"hot8": [], "hot8_deferred": []}


class Waiting:
    """How many sessions wait for a row that somebody else has locked, on average."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._seen: list[int] = []
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        from django.db import connection, connections

        try:
            while not self._stop.wait(SAMPLE_S):
                with connection.cursor() as cursor:
                    cursor.execute(_WAITING, [DATABASE])
                    self._seen.append(int(cursor.fetchone()[0]))
        finally:
            connections.close_all()

    def average(self) -> float:
        """Of those looks at which anybody was at work, or nearly: writers start together and end within a moment."""
        return sum(self._seen) / max(len(self._seen), 1)


def measure(bench: Bench) -> None:
    """One round of both."""
    for key, deferred in (("hot8", False), ("hot8_deferred", True)):
        with Waiting() as waiting:
            bench.measure(key, "spot", writers=WRITERS, count=COMMANDS, deferred=deferred)
        _waiting[key].append(waiting.average())


def figures(bench: Bench) -> dict[str, Any]:
    """What was seen besides the rates, in the rounds that count."""
    from benchmarks.harness import median

    return {f"{key}_waiting": round(median(seen[-len(bench.rates[key]) :]), 2) for key, seen in _waiting.items()}


def ratios(bench: Bench) -> dict[str, float]:
    """How much faster nobody's lock is."""
    return {"hot8_deferred_vs_locked": bench.ratio("hot8_deferred", "hot8")}


def main() -> None:
    """This alone; the last line is JSON."""
    import django

    django.setup()
    from benchmarks.harness import report
    from benchmarks.ledger import ROUNDS, build

    build(DATABASE, accounts=1_000)
    bench = Bench()
    for _ in range(ROUNDS):
        measure(bench)
    rates = {f"per_s_{key}": round(bench.median(key)) for key in bench.rates}
    report("ledger_hot", ratios=ratios(bench), figures=rates | figures(bench))


if __name__ == "__main__":
    main()

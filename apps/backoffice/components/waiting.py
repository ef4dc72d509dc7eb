"""One line for each use case: where its runs are now, and where somebody waits for longest."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime

from apps.backoffice.components.offence import Said, longest_wait
from apps.backoffice.components.usemap import lanes_of
from apps.saga.public import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class UseCaseLine:
    """A use case with runs on the way. ``trouble``: those that are stuck or tried again; ``late``: past the deadline."""

    use_case: str
    runs: int
    trouble: int
    slow: int
    late: int
    wait: Said


def use_case_lines(places: tuple[Place, ...], *, now: datetime) -> tuple[UseCaseLine, ...]:
    """The use cases with runs on the way, the one with most trouble first, then the one with the longest wait."""
    of: dict[str, list[Place]] = defaultdict(list)
    for place in places:
        of[place.use_case].append(place)
    found = [_line(use_case, tuple(those), now=now) for use_case, those in of.items()]
    oldest = {use_case: min(place.longest.since for place in those) for use_case, those in of.items()}
    return tuple(sorted(found, key=lambda line: (-line.trouble, oldest[line.use_case])))


def _line(use_case: str, places: tuple[Place, ...], *, now: datetime) -> UseCaseLine:
    return UseCaseLine(
        use_case=use_case,
        runs=sum(place.runs for place in places),
        trouble=sum(place.stuck + place.in_error for place in places),
        slow=sum(place.slow for place in places),
        late=sum(place.late for place in places),
        wait=longest_wait(lanes_of(places), now=now),
    )

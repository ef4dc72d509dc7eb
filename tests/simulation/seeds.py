"""Seeds, one after the other; what is told of one that fails."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from django.db import connection
from django.utils import timezone

from apps.ledger.reconciliation import check_balances
from apps.saga.models import Run, RunStatus
from tests.simulation.scheduler import Schedule, prepare
from tests.simulation.world import World

TRACE_LINES_MAX = 400  # of a failing seed: a schedule has fewer


@dataclass(frozen=True, slots=True)
class Failure:
    """A seed that breaks something, and how it came to that."""

    seed: int
    what: str
    trace: tuple[str, ...]

    def __str__(self) -> str:
        lines = "\n".join(self.trace[-TRACE_LINES_MAX:])
        return f"seed {self.seed}: {self.what}\n{lines}\nIt repeats alone: make simulate SEED={self.seed}"


def simulate(seed: int, *, change: Callable[[Schedule], None] = lambda _: None) -> tuple[World, Failure | None]:
    """One seed's world after its schedule, and what was wrong; an engine that raises is wrong too.

    ``change`` makes the schedule another one: a test of the simulation breaks something on purpose.
    """
    world = World(seed)
    schedule = Schedule(world)
    change(schedule)
    try:
        schedule.run()
    except Exception as error:
        connection.close()  # whatever was open in it
        _bury(world)
        return world, Failure(seed, f"{type(error).__name__}: {error}", tuple(world.trace))
    return world, None


def _bury(world: World) -> None:
    """What a failed schedule leaves behind must not be woken by the next ones."""
    left = Run.objects.filter(business_key=world.business_key)
    left.update(status=RunStatus.STUCK, due_at=None, held_by=None, held_at=None)


def search(
    seeds: Iterable[int],
    *,
    failures_max: int = 1,
    change: Callable[[Schedule], None] = lambda _: None,
    hear: Callable[[list[str]], None] = lambda _: None,
) -> list[Failure]:
    """The failing ones among these seeds, at most ``failures_max``. At the end the ledger proves itself.

    ``hear`` is told what happened in each.
    """
    prepare(timezone.now())
    found: list[Failure] = []
    last = -1
    for last in seeds:
        world, failure = simulate(last, change=change)
        hear(world.trace)
        if failure is not None:
            found.append(failure)
        if len(found) == failures_max:
            return found
    if differences := check_balances():
        found.append(Failure(last, f"up to here the ledger differs: {differences[:3]}", ()))
    return found

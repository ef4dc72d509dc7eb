"""What failed and is tried again, and what waits behind it.

Note [Waiting in memory]
A message that failed stays with this process, unacknowledged: its offset is not committed, so whoever comes after a crash
reads it again. Later messages of the same topic and key wait behind it, which keeps the key's order; other keys of the
partition go on, and what they did is known by the store if they have to be read again.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lastro_pipes.transports.base import Incoming

WAITING_MAX = 1_000  # records in memory; then new ones stay with the broker
_Slot = tuple[str, str]  # topic and key


def delay(attempts: int, *, first_s: float, most_s: float) -> float:
    """Seconds after so many attempts: the first delay, times four each, plus or minus a quarter."""
    jitter = random.uniform(0.75, 1.25)  # noqa: S311  # not a secret
    return min(first_s * 4.0 ** min(attempts - 1, 20), most_s) * jitter


@dataclass(slots=True)
class _Queue:
    records: deque[Incoming] = field(default_factory=deque)
    due_at: float = 0.0  # monotonic
    refusals: int = 0  # of the head's publishing; attempts are counted by the store
    is_busy: bool = False  # the head was taken, and is not settled yet


class WaitingRoom:
    """Records by topic and key, each queue with the time when its head is due."""

    def __init__(self) -> None:
        self._queues: dict[_Slot, _Queue] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Incoming]:
        return (record for queue in self._queues.values() for record in queue.records)

    @property
    def is_full(self) -> bool:
        """Is there no room for more?"""
        return self._size >= WAITING_MAX

    def join(self, record: Incoming) -> bool:
        """Wait behind earlier records of the same topic and key. False when there are none: nothing to wait for."""
        queue = self._queues.get(_slot(record))
        if queue is None:
            return False
        queue.records.append(record)
        self._size += 1
        return True

    def put_off(self, record: Incoming, *, due_at: float, refused: bool = False) -> int:
        """Try a record again later, before those behind it. How often its publishing was refused until now."""
        queue = self._queues.setdefault(_slot(record), _Queue())
        queue.records.appendleft(record)
        self._size += 1
        queue.due_at, queue.is_busy = due_at, False
        queue.refusals = queue.refusals + 1 if refused else 0
        return queue.refusals

    def refusals(self, record: Incoming) -> int:
        """How often the publishing of what this record led to was refused."""
        queue = self._queues.get(_slot(record))
        return queue.refusals if queue is not None else 0

    def heads(self, now: float) -> list[Incoming]:
        """The first records of the queues that are due."""
        return [queue.records[0] for queue in self._waiting() if queue.due_at <= now]

    def take(self, record: Incoming) -> None:
        """The head is worked on now. Its queue stays, so that what comes meanwhile waits behind it."""
        queue = self._queues[_slot(record)]
        queue.records.popleft()
        queue.is_busy = True
        self._size -= 1

    def settled(self, record: Incoming) -> None:
        """The head is done with: the next one of its queue is due at once."""
        queue = self._queues.get(_slot(record))
        if queue is None:
            return
        queue.refusals, queue.due_at, queue.is_busy = 0, 0.0, False
        if not queue.records:
            del self._queues[_slot(record)]

    def next_due(self) -> float | None:
        """When a head is due; None when nothing waits."""
        return min((queue.due_at for queue in self._waiting()), default=None)

    def _waiting(self) -> list[_Queue]:
        return [queue for queue in self._queues.values() if queue.records and not queue.is_busy]

    def clear(self) -> list[Incoming]:
        """Everything that waits; the room is empty afterwards."""
        found = list(self)
        self._queues.clear()
        self._size = 0
        return found

    def keep(self, is_wanted: Callable[[Incoming], bool]) -> None:
        """Forget what is no longer ours."""
        for slot, queue in list(self._queues.items()):
            queue.records = deque(record for record in queue.records if is_wanted(record))
            if not queue.records and not queue.is_busy:
                del self._queues[slot]
        self._size = sum(len(queue.records) for queue in self._queues.values())


def _slot(record: Incoming) -> _Slot:
    return record.topic, record.key

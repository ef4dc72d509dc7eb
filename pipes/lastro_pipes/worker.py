"""The loop of a process: poll, work, publish, and then the offset. One thread; more processes for more speed.

Note [What is published together]
What several messages have to say is published in one go, at the latest FLUSH_S_MAX after the first of them was done, and
when nothing more is at hand. In one call to the broker no two records have the same topic and key, so nothing overtakes
what the broker refuses or loses.

Note [When the broker or the store is away]
Everything that is held goes back to the broker, also what is done and not published yet: read again, it is found in the
store and published. So there is one way to recover, and it is the one after a crash.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from lastro_pipes.desk import Desk
from lastro_pipes.errors import BrokerDown, StoreDown
from lastro_pipes.retries import WaitingRoom, delay
from lastro_pipes.settings import Settings
from lastro_pipes.step import Loaded
from lastro_pipes.stores.base import Key, Store
from lastro_pipes.transports.base import Incoming, Member, Outgoing, Transport

logger = logging.getLogger(__name__)

POLL_RECORDS_MAX = 100
POLL_S = 0.2  # so long a stop may take to be seen
FLUSH_S, FLUSH_S_MAX = 0.02, 0.25  # in between, as long as the last one took: half of the time is left for the steps
PAUSE_S_MIN, PAUSE_S_MAX = 0.2, 5.0  # between attempts to reach a broker or a store that is away
PURGE_EVERY_S, PURGE_ROWS_MAX = 600.0, 5_000
DAY_S = 86_400.0


def utc_now() -> datetime:
    """The clock of a process."""
    return datetime.now(UTC)


@dataclass(slots=True)
class Status:
    """What the process did and does, for its health page. ``polled_at``: monotonic seconds."""

    outcomes: dict[str, int] = field(default_factory=dict)
    waiting: int = 0
    polled_at: float = 0.0
    trouble: str = ""

    def count(self, outcome: str) -> None:
        """One more."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


@dataclass(frozen=True, slots=True)
class _Said:
    """What one record has to say. Without a record it is only a report, which nobody waits for."""

    outgoing: tuple[Outgoing, ...]
    record: Incoming | None = None
    key: Key | None = None
    is_letter: bool = False


class Worker:
    """See the module."""

    def __init__(
        self,
        step: Loaded,
        settings: Settings,
        transport: Transport,
        store: Store,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._settings, self._transport, self._store = settings, transport, store
        self._desk = Desk(step, settings, store, clock=clock)
        self._room = WaitingRoom()
        self._said: list[_Said] = []
        self._said_at, self._flush_s = 0.0, FLUSH_S
        self._pause_s = PAUSE_S_MIN
        self._purged_at = 0.0
        self.status = Status()

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set; what was begun is finished, and what is held goes back to the broker.

        A broker or a store that is away is waited for. Raises Misconfigured when the broker refuses us.
        """
        while not stop.is_set():
            try:
                self._run_member(stop)
            except (BrokerDown, StoreDown) as error:
                self._wait(stop, error)

    def _wait(self, stop: threading.Event, error: Exception) -> None:
        self.status.trouble = str(error)
        logger.warning("waits %.1f s: %s", self._pause_s, error)
        stop.wait(self._pause_s)
        self._pause_s = min(self._pause_s * 2, PAUSE_S_MAX)

    def _run_member(self, stop: threading.Event) -> None:
        member = self._transport.member(group=self._settings.group, topics=self._settings.reads)
        try:
            while not stop.is_set():
                self._turn(member, stop)
        finally:
            # Nothing of it is lost: it is not acknowledged, and read again by whoever comes next.
            self._room.clear()
            self._said.clear()
            member.close()

    def _turn(self, member: Member, stop: threading.Event) -> None:
        """One poll, and what it brought. What cannot be worked on now is given back."""
        fresh = member.poll(records_max=POLL_RECORDS_MAX, timeout_s=self._timeout_s())
        self.status.polled_at = time.monotonic()
        self._room.keep(member.holds)
        todo = deque([(record, True) for record in self._room.heads(time.monotonic())])
        todo.extend((record, False) for record in fresh)
        try:
            while todo and not stop.is_set() and not (self._room.is_full and not todo[0][1]):
                self._take(member, *todo[0])
                todo.popleft()
            self._flush(member)
            self._purge()
        except (BrokerDown, StoreDown) as error:
            self._give_all_back(member, [record for record, _ in todo])
            self._wait(stop, error)
        else:
            # The process stops, or too much waits already.
            member.give_back([record for record, is_head in todo if not is_head], after_s=PAUSE_S_MIN)
            self._pause_s, self.status.trouble = PAUSE_S_MIN, ""
        self.status.waiting = len(self._room)

    def _timeout_s(self) -> float:
        due = self._room.next_due()
        return POLL_S if due is None else max(min(due - time.monotonic(), POLL_S), 0.0)

    def _take(self, member: Member, record: Incoming, is_head: bool) -> None:
        if any(said.record is not None and _slot(said.record) == _slot(record) for said in self._said):
            self._flush(member)  # What its key said before is with the broker first, or waits before it.
        if is_head:
            self._room.take(record)
        elif self._room.join(record):
            return
        taken = self._desk.take(record)
        self.status.count(taken.outcome)
        if taken.retry_s is not None:
            self._room.put_off(record, due_at=time.monotonic() + taken.retry_s)
            self._say(_Said(taken.outgoing))
        else:
            self._say(_Said(taken.outgoing, record, taken.key))
        if time.monotonic() - self._said_at > self._flush_s:
            self._flush(member)

    def _say(self, said: _Said) -> None:
        if not self._said:
            self._said_at = time.monotonic()
        self._said.append(said)

    def _flush(self, member: Member) -> None:
        """Publish what was said; then it is done. Raises BrokerDown, and then everything is still to be said."""
        if not self._said:
            return
        began = time.monotonic()
        refused = self._send(self._said)
        self._flush_s = min(max(time.monotonic() - began, FLUSH_S), FLUSH_S_MAX)
        said, self._said = self._said, []
        finished = [one for one in said if id(one) not in refused]
        self._mark([one.key for one in finished if one.key is not None])
        for one in finished:
            if one.record is not None:
                member.done(one.record)
                self._room.settled(one.record)
        for one in said:
            if reason := refused.get(id(one)):
                self._refused(one, reason)

    def _send(self, said: Sequence[_Said]) -> dict[int, str]:
        """By the identity of what was said: why the broker refuses a part of it."""
        refused: dict[int, str] = {}
        for wave in _waves(said):
            reasons = self._transport.send([record for _, record in wave])
            refused |= {id(one): reason for (one, _), reason in zip(wave, reasons, strict=True) if reason}
        return refused

    def _refused(self, said: _Said, reason: str) -> None:
        if said.record is None:
            logger.warning("a report was not published: %s", reason)
            return
        settings = self._settings
        refusals = self._room.refusals(said.record) + 1
        logger.error("the broker refuses what a step has to say, refusal %s: %s", refusals, reason)
        if refusals >= settings.attempts_max and not said.is_letter:
            letter = self._desk.cannot_publish(said.record, reason, attempts=refusals)
            self._say(_Said(letter.outgoing, said.record, is_letter=True))
            return
        retry_s = delay(refusals, first_s=settings.retry_s, most_s=settings.retry_s_max)
        self._room.put_off(said.record, due_at=time.monotonic() + retry_s, refused=True)

    def _mark(self, keys: Sequence[Key]) -> None:
        if not keys:
            return
        try:
            self._store.published(keys)
        except StoreDown as error:
            # It is with the broker, and may be published once more by a copy: the next step knows its id.
            logger.warning("published, but not marked as such: %s", error)

    def _give_all_back(self, member: Member, todo: Iterable[Incoming]) -> None:
        said = [said.record for said in self._said if said.record is not None]
        self._said.clear()
        everything = {(*record.place, record.offset): record for record in (*said, *self._room.clear(), *todo)}
        member.give_back(list(everything.values()), after_s=self._pause_s)

    def _purge(self) -> None:
        if time.monotonic() - self._purged_at < PURGE_EVERY_S and self._purged_at:
            return
        self._purged_at = time.monotonic()
        count = self._store.purge(older_than_s=self._settings.inbox_days * DAY_S, rows_max=PURGE_ROWS_MAX)
        if count:
            logger.info("forgot %s messages of long ago", count)


def _slot(record: Incoming) -> tuple[str, str]:
    return record.topic, record.key


def _waves(said: Sequence[_Said]) -> list[list[tuple[_Said, Outgoing]]]:
    """In order, and in each wave no topic and key twice."""
    waves: list[list[tuple[_Said, Outgoing]]] = []
    used: set[tuple[str, str]] = set()
    for one in said:
        for record in one.outgoing:
            slot = (record.topic, record.key)
            if slot in used or not waves:
                waves.append([])
                used = set()
            waves[-1].append((one, record))
            used.add(slot)
    return waves

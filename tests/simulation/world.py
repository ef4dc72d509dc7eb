"""The world of one schedule: a clock, a chance, what travels between processes, and how a process dies.

Everything that may differ between two schedules is drawn from one seeded ``random.Random``, so a seed is a schedule. What
belongs to Celery and the broker is played by three lists; what belongs to the partner by tests/simulation/partner.py.
The engine, its verbs, the outbox, the ledger and PostgreSQL are the real ones.
"""

import json
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from apps.common import clock, prepared
from apps.common.clock import uuid7
from apps.messaging import wakeup
from apps.saga import calls, chains, engine, pauses
from apps.saga.calls import Claim, Outcome
from tests.simulation.partner import Partner

TICK = timedelta(milliseconds=1)  # between two looks at the clock, so that what comes later is later
FAULTS_MAX = 14  # of a schedule: then the steps work, so that the runs end
SLEEPS = {"sleeps before": 0.1, "sleeps after": 0.1}
STATEMENTS_MAX = 12  # a process dies at one of its first statements: a unit of work has few


TAKE = """
WITH sent AS (DELETE FROM messaging_pending RETURNING seq, message_id)
SELECT sent.seq, m.payload FROM sent JOIN messaging_message m ON m.id = sent.message_id ORDER BY sent.seq
"""
TRANSPORTS = (
    *((chains, name) for name in ("wake", "wake_soon", "wake_undo", "look", "wake_group")),
    (wakeup, "relay_after_commit"),
    (engine, "talk"),
)


class Killed(BaseException):
    """The process dies here."""


class Stalled(BaseException):
    """The process sleeps here, while it owns a call; see ``World.sleepers``."""


class Violation(AssertionError):
    """An invariant does not hold."""


class FakeClock:
    """It stands still between two looks, and jumps when the schedule says so."""

    def __init__(self) -> None:
        # Not a round date of its own: runs lie in the month of their id, and ids are made by the machine's clock.
        self.start = self.time = timezone.now()

    def __call__(self) -> datetime:
        self.time += TICK
        return self.time

    def told(self) -> str:
        return f"{(self.time - self.start).total_seconds():9.3f}"


class World:
    """One schedule's own."""

    def __init__(self, seed: int) -> None:
        self.seed, self.id = seed, uuid7().hex
        self.business_key = f"simulated {self.id}"
        self.chance = random.Random(seed)
        self.clock = FakeClock()
        self.partner = Partner()
        self.trace: list[str] = []
        self.healed = False  # the end of the schedule: nothing fails, nothing is lost
        self.faults = 0
        self.wake_ups: list[tuple[str, int, int, int]] = []  # chain, soon, undo or look; the run's number; position, steps
        self.requests: list[dict[str, Any]] = []  # on their way to the partner
        self.answers: list[tuple[str, dict[str, Any]]] = []  # on their way back: reply key, answer
        self.runs: list[UUID] = []
        self.calls: list[tuple[str, str, int]] = []  # every call that was made: do or undo, step key, attempt
        self.seen: list[str] = []  # what was wrong within a step, where an error would only be one more failure
        self.posted: dict[UUID, tuple[UUID, str, str]] = {}  # tracekey: run, place, do or undo; rolled back ones too
        self.published: list[tuple[int, dict[str, Any]]] = []  # what was committed to the outbox: its number, its body
        self.has_skipped = False  # maybe: somebody wanted to
        self.has_published = False  # maybe: it may have been rolled back
        self.sleepers: list[tuple[Claim, Outcome | None]] = []  # owners of calls that stall: before they talk, or after

    # --- Telling --------------------------------------------------------------------------------------------------
    def tell(self, what: str) -> None:
        self.trace.append(f"{self.clock.told()}  {what}")

    def name(self, run_id: UUID) -> str:
        """A run's number: ids differ from one replay to the next."""
        return f"run {self.runs.index(run_id)}" if run_id in self.runs else "a new run"

    # --- Chance ---------------------------------------------------------------------------------------------------
    def happens(self, probability: float) -> bool:
        return self.chance.random() < probability

    def fault(self, where: str, kinds: dict[str, float]) -> str:
        """One of these kinds, each with its probability, or nothing. Never more than FAULTS_MAX."""
        drawn = self.chance.random()
        if self.healed or self.faults >= FAULTS_MAX:
            return ""
        for kind, probability in kinds.items():
            drawn -= probability
            if drawn < 0:
                self.faults += 1
                self.tell(f"    {where}: {kind}")
                return kind
        return ""

    # --- What travels -----------------------------------------------------------------------------------------------
    def _wake(self, kind: str, run_id: UUID, position: int = 0, steps: int = 0) -> None:
        self.know(run_id)
        self.wake_ups.append((kind, self.runs.index(run_id), position, steps))

    def _wake_group(self, begun: Iterable[chains.Begun]) -> None:
        for each in begun:
            self._wake("chain" if each.calls else "soon", each.run_id, 0, each.calls)

    def know(self, run_id: UUID) -> None:
        """A run has been started, by somebody or by a step of another one."""
        if run_id not in self.runs:
            self.runs.append(run_id)

    def relay(self) -> None:
        """Take what is committed in the outbox: it is on its way. (What waits there of other schedules is taken too.)"""
        if not self.has_published:
            return
        self.has_published = False
        for seq, payload in prepared.execute(TAKE, {}).fetchall():
            body = json.loads(payload)["body"]
            if body.get("world") == self.id:
                self.published.append((seq, body))
                if body["reply_key"]:
                    self.requests.append(body)

    # --- Processes ----------------------------------------------------------------------------------------------------
    @contextmanager
    def process(self, what: str) -> Iterator[None]:
        """A process does something, and maybe dies of it, at one of its statements or right after its commit."""
        self.tell(what)
        how = self.fault(what, {"dies at a statement": 0.05, "dies after the commit": 0.05})
        try:
            with self._death(how):
                yield
        except Killed:
            self.tell("    (dead)")
            pauses.forget()  # its successor knows nothing yet
        except Stalled:
            self.tell("    (asleep)")
        finally:
            self.relay()

    def _talk(self, claim: Claim) -> Outcome:
        """The call; its owner may fall asleep before it talks, or with the answer in its hands."""
        how = self.fault(f"the owner of {claim.run.step}", SLEEPS)
        if how == "sleeps before":
            self.sleepers.append((claim, None))
            raise Stalled
        outcome = calls.talk(claim)
        if how == "sleeps after":
            self.sleepers.append((claim, outcome))
            raise Stalled
        return outcome

    def wake_sleeper(self, index: int) -> None:
        """The rest of ``engine.advance``, however late."""
        claim, outcome = self.sleepers.pop(index)
        engine._settle(claim, calls.talk(claim) if outcome is None else outcome, now=self.clock())

    @contextmanager
    def _death(self, how: str) -> Iterator[None]:
        if not how:
            yield
            return
        passes = [self.chance.randrange(STATEMENTS_MAX) if how == "dies at a statement" else 0]

        def die(*_: Any) -> None:
            raise Killed

        def watch(execute: Callable[..., Any], *given: Any) -> Any:
            passes[0] -= 1
            if passes[0] == -1 and how == "dies at a statement":
                raise Killed
            if passes[0] == -1 and connection.in_atomic_block:
                transaction.on_commit(die)
            return execute(*given)

        with connection.execute_wrapper(watch):
            yield

    @contextmanager
    def in_charge(self) -> Iterator[None]:
        """The engine runs by this world's clock and chance, and its wake-ups come here instead of to Celery."""
        before = random.getstate()
        random.seed(self.seed)  # the jitter of the engine's delays
        kept = [(holder, name, getattr(holder, name)) for holder, name in TRANSPORTS]
        logger, level = logging.getLogger("apps"), logging.getLogger("apps").level
        logger.setLevel(logging.CRITICAL)  # it warns of every fault, and faults are what this is made of
        chains.wake = lambda run_id, position, steps: self._wake("chain", run_id, position, steps)
        chains.wake_soon = lambda run_id: self._wake("soon", run_id)
        chains.wake_undo = lambda run_id: self._wake("undo", run_id)
        chains.look = lambda *run_ids: [self._wake("look", run_id) for run_id in run_ids]
        chains.wake_group = self._wake_group
        wakeup.relay_after_commit = lambda: None  # we relay
        engine.talk = self._talk
        try:
            with clock.running_by(self.clock):
                yield
        finally:
            for holder, name, original in kept:
                setattr(holder, name, original)
            logger.setLevel(level)
            random.setstate(before)

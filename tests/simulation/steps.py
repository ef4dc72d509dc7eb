"""Random journeys of steps that do real things, fail in every way that a step may fail, and count what they do.

A local step does everything anew whenever it is called: if the engine did it twice, its posting would be in the ledger
twice. What leaves the database carries the step's key, as the engine's contract asks.
"""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar

from apps.common.clock import uuid7
from apps.common.errors import DomainError, UnknownOutcome
from apps.ledger import public as ledger
from apps.messaging.contracts.base import Message
from apps.messaging.public import publish
from apps.saga.definition import AskStep, CallStep, Kind, LocalStep, Revise, Run
from tests.simulation.world import Killed, World

ACCOUNTS = (ledger.AccountRef("SIM", "PAYER"), ledger.AccountRef("SIM", "PAYEE"))
EVENT = 990
AMOUNT = Decimal("0.25")
TECHNICAL = {"technical": 0.06}
REFUSAL = {"refuses": 0.05}
OUTSIDE = {"refuses": 0.07, "technical": 0.07, "unknown, not done": 0.08, "unknown, done": 0.08}
BY_US = "refused before the partner heard of it"
DEATHS = {"dies before": 0.05, "dies after": 0.05}


class Refused(DomainError):
    """No."""

    code = "R997"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told(Message):
    """What a step publishes: a request to the partner, or the news that it was done. ``reply_key`` empty: no answer."""

    topic: ClassVar[str] = "tests.simulation.partner.in"
    schema: ClassVar[str] = "tests.simulation_told.v1"

    world: str
    run_id: str
    position: int
    place: str
    what: str
    number: int
    step_key: str
    reply_key: str
    repeated: bool


class Common:
    """What the three shapes share. Its attributes are the instance's: every schedule has steps of its own."""

    def __init__(self, world: World, position: int, kind: Kind, prefix: str = "") -> None:
        self.world, self.kind = world, kind
        self.name = f"{prefix}{self.shape}_{position}"  # type: ignore[attr-defined]
        self.attempts_max = world.chance.randint(1, 4)
        self.undo_attempts_max = world.chance.randint(2, 5)

    def _fail(self, run: Run, where: str, kinds: dict[str, float]) -> None:
        found = self.world.fault(f"{self.world.name(run.id)} {self.name} {where}", kinds)
        if found == "refuses":
            raise Refused(BY_US)
        if found == "technical":
            raise RuntimeError("broken")

    def _tell(self, run: Run, what: str, *, waits: bool, repeated: bool = True) -> None:
        told = Told(
            world=self.world.id,
            run_id=str(run.id),
            position=position_of(run),
            place=place_of(run),
            what=what,
            number=run.attempt,
            step_key=run.step_key,
            reply_key=run.reply_key if waits else "",
            repeated=repeated,
        )
        publish(told, key=str(run.id))
        self.world.has_published = True


def place_of(run: Run) -> str:
    """Of the step within its run, and how often it has begun anew: ``2~1``."""
    return run.step_key.split(":")[1]


def position_of(run: Run) -> int:
    """Of the step within its run: a branch is a run of its own."""
    return int(place_of(run).partition("~")[0])


class SimLocal(Common, LocalStep):
    """Posts to the ledger; undoing it posts back. It may revise what follows it."""

    revises = False
    following: tuple[str, ...] = ()

    def handle(self, run: Run) -> dict[str, Any] | Revise:
        self._fail(run, "handle", TECHNICAL | REFUSAL)
        tracekey = self._post(run, "do")
        self._tell(run, "do", waits=False)
        self._fail(run, "handle, at its end", TECHNICAL | REFUSAL)
        output = {"tracekey": tracekey}
        return Revise(output, self._what_follows()) if self.revises else output

    def _what_follows(self) -> tuple[str, ...]:
        """Some of the steps that would follow, another choice each time."""
        kept = tuple(name for name in self.following if self.world.happens(0.7))
        self.world.tell(f"    {self.name} leaves out {len(self.following) - len(kept)} of {len(self.following)} steps")
        return kept

    def compensate(self, run: Run) -> None:
        self._fail(run, "compensate", TECHNICAL)
        if "tracekey" in run.outputs.get(self.name, {}):  # not when a person only said that it was done
            self._post(run, "undo")
        self._tell(run, "undo", waits=False)
        self._fail(run, "compensate, at its end", TECHNICAL)

    def _post(self, run: Run, what: str) -> str:
        debit, credit = ACCOUNTS if what == "do" else reversed(ACCOUNTS)
        tracekey = uuid7()
        entry = ledger.Entry.transfer(tracekey=tracekey, debit=debit, credit=credit, amount=AMOUNT, eventcode=EVENT)
        ledger.post(entry, now=run.now)
        self.world.posted[tracekey] = (run.id, place_of(run), what)
        return str(tracekey)


class SimAsk(Common, AskStep):
    """Asks the partner by message."""

    def __init__(self, world: World, position: int, kind: Kind, prefix: str = "") -> None:
        super().__init__(world, position, kind, prefix)
        self.undo_waits = world.happens(0.6)

    def ask(self, run: Run) -> None:
        self._fail(run, "ask", TECHNICAL | REFUSAL)
        self._tell(run, "do", waits=True)
        self._fail(run, "ask, at its end", TECHNICAL)

    def on_answer(self, run: Run, answer: dict[str, Any]) -> dict[str, Any]:
        self._fail(run, "on_answer", TECHNICAL)
        return _taken(self.world, run, answer)

    def ask_undo(self, run: Run) -> bool:
        self._fail(run, "ask_undo", TECHNICAL)
        self._tell(run, "undo", waits=True, repeated=self.undo_waits)
        return self.undo_waits

    def on_undo_answer(self, run: Run, answer: dict[str, Any]) -> None:
        self._fail(run, "on_undo_answer", TECHNICAL)


class SimCall(Common, CallStep):
    """Calls the partner."""

    lease = timedelta(seconds=15)  # short, so that many an owner comes too late

    def prepare(self, run: Run) -> None:
        self._fail(run, "prepare", TECHNICAL | REFUSAL)

    def call(self, run: Run) -> dict[str, Any]:
        return self._call(run, "do")

    def did_it_happen(self, run: Run) -> dict[str, Any] | None:
        self._fail(run, "did_it_happen", TECHNICAL)
        return self.world.partner.happened(run.step_key)

    def record(self, run: Run, outcome: dict[str, Any]) -> dict[str, Any]:
        self._fail(run, "record", TECHNICAL)
        taken = _taken(self.world, run, outcome)
        self._tell(run, "do", waits=False)
        return taken

    def undo_prepare(self, run: Run) -> bool:
        self._fail(run, "undo_prepare", TECHNICAL)
        return True

    def undo_call(self, run: Run) -> dict[str, Any]:
        return self._call(run, "undo")

    def undo_record(self, run: Run, outcome: dict[str, Any]) -> None:
        self._fail(run, "undo_record", TECHNICAL)
        self._tell(run, "undo", waits=False)

    def _call(self, run: Run, what: str) -> dict[str, Any]:
        """Talk: it may fail before or after the partner has done it, and the caller may die."""
        world = self.world
        world.calls.append((what, run.step_key, run.attempt))
        where = f"{world.name(run.id)} {self.name} {'call' if what == 'do' else 'undo_call'}"
        fate = world.fault(where, OUTSIDE | DEATHS)
        if fate == "dies before":
            raise Killed
        if fate == "technical":
            raise RuntimeError("not reached")
        if fate == "unknown, not done":
            raise UnknownOutcome("a dead line")
        if what == "do":
            answer = world.partner.do(run.step_key, refuses=fate == "refuses")
        else:
            answer = world.partner.undo(run.step_key)
        if fate == "dies after":
            raise Killed
        if fate == "unknown, done":
            raise UnknownOutcome("a dead line")
        return answer


def _taken(world: World, run: Run, answer: dict[str, Any]) -> dict[str, Any]:
    if answer.get("by", run.step_key) != run.step_key:
        world.seen.append(f"the answer to {answer['by']} was recorded as that of {run.step_key}")
    if answer["status"] != "done":
        raise Refused(answer.get("why"))
    return {"by": answer["by"]}

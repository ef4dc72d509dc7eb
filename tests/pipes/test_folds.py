"""The state manager's fold and the package's own give every saga the same state, whatever was heard of it, in any order."""

import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from lastro_pipes import control, envelope, gsm, records, routing
from lastro_pipes.errors import Code, Invalid, Refuse
from lastro_pipes.routing import Way
from lastro_pipes.transports.base import Incoming, Outgoing

from apps.messaging.envelope import complete_meta, decode
from apps.saga.choreography import facts
from apps.saga.choreography.fold import State, View
from apps.saga.pipes import GROUP
from tests.pipes.world import SERVICES

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
STEPS = {str(state) for state in State}


def heard(random_: random.Random) -> list[Outgoing]:
    """Messages, reports and dead letters such as services may write, without any regard to what makes sense together."""
    found = [control.start(SERVICES, {"n": 1}, global_id="g", position=random_.randrange(3))]
    for _ in range(random_.randrange(8)):
        found += _one(random_, found)
    random_.shuffle(found)
    return found


def _one(random_: random.Random, before: list[Outgoing]) -> list[Outgoing]:
    asking = [record for record in before if record.topic.endswith((".in", ".compensate"))]
    kind = random_.choice(["do", "undo", "seek", "report", "report", "report", "letter"])
    position = random_.randrange(3)
    if kind == "do":
        return [control.start(SERVICES, {"n": 1}, global_id="g", position=position)]
    if kind in ("undo", "seek"):
        made = control.compensate(SERVICES, global_id="g", position=position, code="C", reason="r", seek_end=kind == "seek")
        return [made]
    about = random_.choice(asking)
    found = envelope.decode(about.value.encode())
    way = Way.UNDO if about.topic.endswith(".compensate") else Way.DO
    service = about.topic.rpartition(".")[0]
    place = routing.find(found.meta, way=way, service=service)
    if kind == "letter":
        errors: list[Exception] = [RuntimeError("x"), Invalid(Code.NO_WAY_BACK, "no"), Invalid(Code.NOT_PUBLISHED, "no")]
        error = records.error_of(random_.choice(errors))
        incoming = Incoming(about.topic, 0, 0, "g", about.value.encode())
        return [records.dead_letter(incoming, found, error, service=service, group=service, attempts=2)]
    ends = [records.RETRYING, records.DEAD, records.IGNORED]
    ends += [records.DONE, records.REFUSED] if way is Way.DO else [records.UNDONE]
    outcome = random_.choice(ends)
    why = records.refusal_of(Refuse("SOLD_OUT"), service=service) if outcome == records.REFUSED else None
    report = records.report(
        place,
        found,
        outcome,
        topic=f"{service}.event",
        key="g",
        attempt=1,
        times=records.Times(asked_at=None, started_at=NOW, finished_at=NOW),
        trace="",
        error=why,
        report_id=UUID(int=random_.getrandbits(128), version=4),
    )
    return [report]


def ours(log: list[Outgoing]) -> View:
    """As the state manager folds it."""
    found = []
    for number, record in enumerate(log):
        meta = decode(record.value.encode())["meta"]
        body = decode(record.value.encode())["body"]
        message_id = complete_meta(meta, value=record.value.encode()).message_id
        notice = facts.read(record.topic, meta, body, message_id=message_id, group=GROUP)
        assert notice is not None
        found.append(notice.fact(notice.place(SERVICES), now=NOW + timedelta(seconds=number)))
    return View(found, steps=3)


@pytest.mark.parametrize("seed", range(400))
def test_the_two_folds_agree_on_every_step(seed: int) -> None:
    log = heard(random.Random(seed))
    theirs = gsm.fold([(record.topic, record.value.encode()) for record in log])["g", ""]
    found = ours(log)
    assert [str(state) for state in found.states] == [theirs.step(position) for position in range(3)]
    if not found.seeks:  # what the package's fold does not look at: a search is on its way
        assert found.is_completed == (theirs.status == "COMPLETED")
        assert found.is_compensated == (theirs.status == "COMPENSATED")
        if theirs.status == "COMPENSATING":
            assert found.is_backward


@pytest.mark.parametrize("seed", range(50))
def test_order_and_copies_make_no_difference(seed: int) -> None:
    random_ = random.Random(seed)
    log = heard(random_)
    mixed = [*log, *random_.sample(log, len(log) // 2)]
    random_.shuffle(mixed)
    assert ours(log).states == ours(mixed).states


@pytest.mark.parametrize("seed", range(50))
def test_attempts_are_numbered_from_one_without_a_gap(seed: int) -> None:
    view = ours(heard(random.Random(seed)))
    for position in range(3):
        for undo in (False, True):
            tries = view.attempts(position, undo=undo)
            assert [row.number for row, _ in tries] == list(range(1, len(tries) + 1))
            assert all(row.started_at is not None and row.outcome for row, _ in tries)


def test_the_steps_states_are_the_packages() -> None:
    names = {
        "WAITING",
        "ASKED",
        "RETRYING",
        "DONE",
        "REFUSED",
        "DEAD",
        "UNDO_ASKED",
        "UNDO_RETRYING",
        "UNDONE",
        "UNDO_DEAD",
    }
    assert names == STEPS

"""The state manager's fold: what is known does not depend on the order in which it is heard, nor on copies."""

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastro_pipes import control, gsm
from tests.world import CHAIN, World, body_of, meta_of


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def foreign(position: int, kind: str = "in", *, steps: list[str] | None = None) -> tuple[str, bytes]:
    """A message as the talk's own framework would send it."""
    words = [service.rsplit(".", 1)[1] for service in CHAIN]
    steps = steps or (words if kind == "in" else words[::-1])
    value = {"meta": {"global-id": "g", "steps": steps}, "body": {}}
    return f"{CHAIN[position]}.{kind}", json.dumps(value).encode()


class TestOrder:
    @pytest.mark.parametrize(
        "plan", [{}, {"third": "refuse"}, {"second": "fail"}, {"second": ["fail", "do"]}, {"first": "refuse"}]
    )
    def test_of_the_topics_does_not_matter(self, world: World, plan: dict[str, object]) -> None:
        gid = world.begin({"plan": plan})
        world.settle()
        records = world.broker.pairs()
        wanted = gsm.fold(records)[gid, ""]
        states = [wanted.step(position) for position in range(3)]
        for seed in range(30):
            shuffled = records + random.Random(seed).choices(records, k=3)
            random.Random(seed).shuffle(shuffled)
            found = gsm.fold(shuffled)[gid, ""]
            assert (found.status, [found.step(position) for position in range(3)]) == (wanted.status, states)


class TestStepsThatReportNothing:
    def test_are_done_when_the_next_one_is_asked(self) -> None:
        saga = gsm.fold([foreign(0), foreign(1)])["g", ""]
        assert [saga.step(position) for position in range(3)] == ["DONE", "ASKED", "WAITING"]
        assert saga.status == "RUNNING"

    def test_are_undoing_when_a_compensation_is_asked(self) -> None:
        for records in itertools.permutations([foreign(0), foreign(1), foreign(2), foreign(1, "compensate")]):
            saga = gsm.fold(records)["g", ""]
            assert saga.status == "COMPENSATING"
            assert saga.step(1) == "UNDO_ASKED"


class TestStuck:
    def test_until_the_retry_is_heard_of(self, world: World) -> None:
        gid = world.begin({"plan": {"second": "fail"}})
        world.settle()
        assert world.saga(gid).status == "STUCK"
        (letter,) = world.broker.all(".error")
        world.broker.append(control.again(f"{CHAIN[1]}.in", letter.key, meta_of(letter), body_of(letter)))
        assert (world.saga(gid).status, world.saga(gid).step(1)) == ("RUNNING", "ASKED")

    def test_a_step_that_fails_and_is_tried_again_is_retrying(self, world: World) -> None:
        gid = world.begin({"plan": {"first": ["fail", "do"]}})
        world.first.turn()
        assert (world.saga(gid).status, world.saga(gid).step(0)) == ("RUNNING", "RETRYING")

    def test_a_message_that_went_astray_is_told(self) -> None:
        topic, value = foreign(0, steps=["second", "third"])
        saga = gsm.fold([(topic, value)])["g", ""]
        assert saga.status == "STUCK"
        assert saga.strays[0].code == "P003"

    @pytest.mark.parametrize(
        "value", [b"no JSON", b'{"meta":{"global-id":"g","schema":"pipes.step_reported.v1"},"body":{}}']
    )
    def test_rubbish_stops_nothing(self, value: bytes) -> None:
        with pytest.raises(gsm.Stray):
            gsm.read(f"{CHAIN[0]}.event", value)

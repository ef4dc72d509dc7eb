"""Three services on a broker in memory: the protocol from the first message to the last."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastro_pipes import Kind, Refuse, control, gsm
from lastro_pipes.transports.base import Outgoing
from tests.world import CHAIN, World, body_of, meta_of

FIRST, SECOND, THIRD = CHAIN


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


class TestForward:
    def test_the_body_goes_from_step_to_step_and_the_last_word_is_in_the_report(self, world: World) -> None:
        gid = world.begin({"n": 1}, meta={"use-case": "shop.buy"})
        world.settle()
        assert world.effects(gid) == {"first": ["done"], "second": ["done"], "third": ["done"]}
        saga = world.saga(gid)
        assert (saga.status, saga.use_case) == ("COMPLETED", "shop.buy")
        (last,) = [body_of(r) for r in world.broker.all("third.event")]
        assert json.loads(last["output_json"]) == {"n": 1, "by": list(CHAIN)}
        assert last["saga"] == "COMPLETED"

    def test_every_message_has_an_id_a_place_the_key_and_one_trace(self, world: World) -> None:
        world.begin({}, key="customer-7")
        world.settle()
        records = world.broker.all("")
        assert {record.key for record in records} == {"customer-7"}
        assert len({meta_of(record)["message-id"] for record in records}) == len(records)
        assert len({meta_of(record)["trace"].split("-")[1] for record in records}) == 1
        assert [meta_of(record)["position"] for record in world.broker.all(".in")] == [0, 1, 2]
        for record in records:
            assert dict(record.headers)["traceparent"] == meta_of(record)["trace"]

    def test_a_message_as_the_talk_shows_it_is_enough(self, world: World) -> None:
        value = {"meta": {"global-id": "g1", "steps": ["first", "second", "third"]}, "body": {"n": 1}}
        world.broker.append(Outgoing(f"{FIRST}.in", "", json.dumps(value)))
        world.settle()
        assert world.saga("g1").status == "COMPLETED"
        assert world.broker.all("second.in")[0].key == "g1"

    def test_what_nobody_knows_travels_along(self, world: World) -> None:
        world.begin({}, meta={"tenant": {"id": 7}})
        world.settle()
        assert [meta_of(record)["tenant"] for record in world.broker.all("")] == [{"id": 7}] * 6

    def test_the_same_service_twice_is_told_apart_by_its_position(self, world: World) -> None:
        record = control.start([FIRST, SECOND, FIRST], {})
        world.broker.append(record)
        world.settle()
        gid = meta_of(record)["global-id"]
        assert world.effects(gid) == {"first": ["done", "done"], "second": ["done"], "third": []}
        assert world.saga(gid).status == "COMPLETED"

    def test_routes_of_one_saga_that_run_side_by_side_are_told_apart_by_their_branch(self, world: World) -> None:
        for branch, steps in (("a", [FIRST, SECOND]), ("b", [FIRST, THIRD])):
            world.broker.append(control.start(steps, {}, global_id="g", meta={"branch": branch}))
        world.settle()
        assert world.effects("g") == {"first": ["done", "done"], "second": ["done"], "third": ["done"]}
        sagas = gsm.fold(world.broker.pairs())
        assert [sagas["g", branch].status for branch in ("a", "b")] == ["COMPLETED", "COMPLETED"]
        assert {message.step_key for message in world.first.step.messages} == {"g:a:0", "g:b:0"}


class TestRefusal:
    def test_the_third_refuses_and_the_second_and_the_first_are_undone_in_reverse(self, world: World) -> None:
        gid = world.begin({"plan": {"third": "refuse"}})
        world.settle()
        assert world.effects(gid) == {"first": ["done", "undo-done"], "second": ["done", "undo-done"], "third": []}
        (to_second,) = world.broker.all("second.compensate")
        assert meta_of(to_second)["steps"] == list(reversed(CHAIN)), "the list is inverted"
        assert meta_of(to_second)["error"]["code"] == "SOLD_OUT"
        (to_first,) = world.broker.all("first.compensate")
        assert meta_of(to_first)["message-id"] > meta_of(to_second)["message-id"]
        assert world.saga(gid).status == "COMPENSATED"

    def test_each_undo_is_given_what_its_step_gave_back(self, world: World) -> None:
        world.begin({"plan": {"third": "refuse"}})
        world.settle()
        for service, by in ((world.first, [FIRST]), (world.second, [FIRST, SECOND])):
            message = service.step.messages[-1]
            assert message.done is not None
            assert message.body == message.done.output
            assert message.body["by"] == by
            assert message.error["code"] == "SOLD_OUT"
        assert body_of(world.broker.all("first.compensate")[0])["by"] == [FIRST]

    def test_the_first_refuses_and_the_saga_is_over(self, world: World) -> None:
        gid = world.begin({"plan": {"first": "refuse"}})
        world.settle()
        assert world.effects(gid) == {"first": [], "second": [], "third": []}
        assert not world.broker.all(".compensate")
        assert world.saga(gid).status == "COMPENSATED"

    def test_a_repeated_refusal_says_the_same_under_the_same_id(self, world: World) -> None:
        gid = world.begin({"plan": {"second": "refuse"}})
        world.settle()
        (asked,) = world.broker.all("second.in")
        world.broker.append(control.again(asked.topic, asked.key, meta_of(asked), body_of(asked)))
        world.settle()
        ids = [meta_of(record)["message-id"] for record in world.broker.all("first.compensate")]
        assert len(ids) == 2
        assert len(set(ids)) == 1
        assert world.effects(gid)["first"] == ["done", "undo-done"]


class TestTechnicalFailure:
    def test_is_tried_again_and_told_and_goes_on(self, world: World) -> None:
        gid = world.begin({"plan": {"second": ["fail", "fail", "do"]}})
        world.settle()
        assert world.effects(gid)["second"] == ["done"]
        assert [body_of(r)["outcome"] for r in world.broker.all("second.event")] == ["RETRYING", "RETRYING", "DONE"]
        assert world.saga(gid).status == "COMPLETED"

    def test_after_the_last_attempt_it_is_a_dead_letter_and_the_saga_stands_still(self, world: World) -> None:
        gid = world.begin({"plan": {"second": "fail"}})
        world.settle()
        (letter,) = world.broker.all(".error")
        error = meta_of(letter)["error"]
        assert letter.topic == f"{SECOND}.error"
        assert (error["attempts"], error["topic"], error["group"], error["kind"]) == (
            6,
            f"{SECOND}.in",
            SECOND,
            "technical",
        )
        assert error["reason"] == "RuntimeError: the machine is broken"
        headers = dict(letter.headers)
        assert headers["error-attempts"] == "6"
        assert headers["traceparent"]
        assert world.effects(gid) == {"first": ["done"], "second": [], "third": []}
        assert world.saga(gid).status == "STUCK"
        assert world.saga(gid).step(1) == "DEAD"

    def test_a_retry_from_outside_with_a_corrected_body_goes_on(self, world: World) -> None:
        gid = world.begin({"plan": {"second": "fail"}})
        world.settle()
        (letter,) = world.broker.all(".error")
        body = {**body_of(letter), "plan": {}}
        world.broker.append(control.again(meta_of(letter)["error"]["topic"], letter.key, meta_of(letter), body))
        assert world.saga(gid).step(1) == "ASKED"
        world.settle()
        assert world.effects(gid) == {"first": ["done"], "second": ["done"], "third": ["done"]}
        assert world.saga(gid).status == "COMPLETED"

    def test_a_retry_from_outside_that_fails_again_is_buried_again(self, world: World) -> None:
        world.begin({"plan": {"second": "fail"}})
        world.settle()
        (letter,) = world.broker.all(".error")
        again = control.again(f"{SECOND}.in", letter.key, meta_of(letter), body_of(letter))
        world.broker.append(again)
        world.settle()
        letters = world.broker.all(".error")
        assert [meta_of(one)["error"]["attempts"] for one in letters] == [6, 6]
        assert meta_of(letters[1])["error"]["message-id"] == meta_of(again)["message-id"]

    def test_a_message_that_kills_its_process_every_time_is_a_dead_letter(self, world: World) -> None:
        class Killed(BaseException): ...

        def kills(message: object) -> None:
            raise Killed

        gid = world.begin({})
        world.first.step.handle = kills  # type: ignore[method-assign]
        for _ in range(6):
            world.first.killed()
            with pytest.raises(Killed):
                world.first.turn()
        world.first.killed()
        world.settle()
        (letter,) = world.broker.all(".error")
        assert "did not survive 6 attempts" in meta_of(letter)["error"]["reason"]
        assert world.saga(gid).status == "STUCK"

    def test_an_undo_that_fails_for_good_is_stuck_until_it_is_tried_again(self, world: World) -> None:
        gid = world.begin({"plan": {"second": "undo-fail", "third": "refuse"}})
        world.settle()
        assert world.saga(gid).status == "STUCK"
        assert world.saga(gid).step(1) == "UNDO_DEAD"
        (letter,) = world.broker.all("second.error")
        assert meta_of(letter)["error"]["attempts"] == 12
        assert world.effects(gid)["first"] == ["done"], "the first waits for the second"
        world.second.step._act = lambda message, prefix: None  # type: ignore[method-assign]
        world.broker.append(control.again(f"{SECOND}.compensate", letter.key, meta_of(letter), body_of(letter)))
        world.settle()
        assert world.saga(gid).status == "COMPENSATED"

    def test_a_refusal_to_undo_is_a_dead_letter_at_once(self, world: World) -> None:
        gid = world.begin({"plan": {"second": "undo-refuse", "third": "refuse"}})
        world.settle()
        (letter,) = world.broker.all("second.error")
        assert meta_of(letter)["error"]["code"] == "P007"
        assert world.saga(gid).status == "STUCK"

    def test_one_key_that_fails_holds_up_no_other_and_keeps_its_order(self, world: World) -> None:
        bad = world.begin({"plan": {"first": ["fail", "fail", "do"]}}, key="k")
        behind = world.begin({}, key="k")
        other = world.begin({}, key="other")
        world.first.turn()
        done = [meta_of(record)["global-id"] for record in world.broker.all("second.in")]
        assert done == [other]
        world.settle()
        done = [meta_of(record)["global-id"] for record in world.broker.all("second.in") if record.key == "k"]
        assert done == [bad, behind]


class TestCompensationFromOutside:
    # It begins to look where a message was sent, or before.
    @pytest.mark.parametrize(("at", "turns"), [(at, turns) for at in range(3) for turns in range(at, 4)])
    def test_undoes_what_was_done_wherever_the_saga_has_got_to(self, world: World, turns: int, at: int) -> None:
        gid = world.begin({})
        for service in world.services[:turns]:
            service.turn()
        record = control.compensate(CHAIN, global_id=gid, position=min(at, 2), code="CANCELLED", reason="by hand")
        world.broker.append(record)
        world.settle()
        for name, effects in world.effects(gid).items():
            assert effects in ([], ["undo-done"], ["done", "undo-done"]), (name, effects)
        assert world.effects(gid)["first"] in (["done", "undo-done"], ["undo-done"])
        assert world.saga(gid).status == "COMPENSATED"

    def test_undoes_in_reverse_order(self, world: World) -> None:
        gid = world.begin({})
        world.settle()
        world.broker.append(control.compensate(CHAIN, global_id=gid, position=0, code="CANCELLED", reason="by hand"))
        order: list[str] = []
        for service in world.services:
            act = service.step._act
            service.step._act = lambda m, p, s=service, a=act: (order.append(s.settings.service), a(m, p))  # type: ignore
        world.settle()
        assert order == [THIRD, SECOND, FIRST]

    def test_a_message_that_comes_after_its_step_was_undone_is_not_worked_on(self, world: World) -> None:
        gid = world.begin({})
        world.first.turn()
        (on_the_way,) = world.broker.all("second.in")
        world.broker.log.clear()
        world.broker.committed.clear()
        for service in world.services:
            service.member = service.transport.member(group=service.settings.group, topics=service.settings.reads)
        world.broker.append(control.compensate(CHAIN, global_id=gid, position=0, code="CANCELLED", reason="by hand"))
        world.settle()
        world.broker.append(on_the_way)
        world.settle()
        assert "done" not in world.effects(gid)["second"]
        assert [body_of(r)["outcome"] for r in world.broker.all("second.event")] == ["UNDONE", "IGNORED"]
        assert not world.broker.all("third.in")

    def test_twice_undoes_once(self, world: World) -> None:
        gid = world.begin({})
        world.settle()
        for _ in range(2):
            world.broker.append(control.compensate(CHAIN, global_id=gid, position=0, code="C", reason="by hand"))
        world.settle()
        assert set(map(tuple, world.effects(gid).values())) == {("done", "undo-done")}

    def test_of_a_dead_step_undoes_that_step_too(self, world: World) -> None:
        gid = world.begin({"plan": {"second": "fail"}})
        world.settle()
        world.broker.append(control.compensate(CHAIN, global_id=gid, position=1, code="C", reason="by hand"))
        world.settle()
        assert world.effects(gid) == {"first": ["done", "undo-done"], "second": ["undo-done"], "third": []}
        assert world.second.step.messages[-1].done is None, "it is told that nothing was committed"
        assert world.saga(gid).status == "COMPENSATED"


class TestPivot:
    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[World]:
        made = World(tmp_path, second=Kind.PIVOT, third=Kind.RETRIABLE)
        yield made
        made.close()

    def test_refuses_like_any_other(self, world: World) -> None:
        gid = world.begin({"plan": {"second": "refuse"}})
        world.settle()
        assert world.saga(gid).status == "COMPENSATED"

    def test_a_refusal_behind_it_is_a_dead_letter_and_nothing_is_undone(self, world: World) -> None:
        gid = world.begin({"plan": {"third": "refuse"}})
        world.settle()
        (letter,) = world.broker.all(".error")
        assert meta_of(letter)["error"]["code"] == "P008"
        assert not world.broker.all(".compensate")
        assert world.saga(gid).status == "STUCK"

    @pytest.mark.parametrize("turns", [2, 3])
    def test_a_compensation_that_comes_behind_it_is_buried_and_the_saga_goes_on(self, world: World, turns: int) -> None:
        world.second.step.loaded = lambda: Scripted_without_undo(world.second)  # type: ignore[method-assign]
        world.second.killed()
        gid = world.begin({})
        for service in world.services[:turns]:
            service.turn()
        world.broker.append(control.compensate(CHAIN, global_id=gid, position=0, code="C", reason="by hand"))
        world.settle()
        (letter,) = world.broker.all(".error")
        assert letter.topic == f"{SECOND}.error"
        assert meta_of(letter)["error"]["code"] == "P004"
        assert world.effects(gid) == {"first": ["done"], "second": ["done"], "third": ["done"]}
        assert world.saga(gid).status == "COMPLETED"


def Scripted_without_undo(service):  # type: ignore[no-untyped-def]
    return type(service.step).loaded(service.step, undoes=False)


class TestPoison:
    @pytest.mark.parametrize(
        ("value", "code"),
        [
            (b"no JSON", "P001"),
            (b"[]", "P001"),
            (b'{"meta": {}}', "P001"),
            (b'{"meta": {}, "body": {}}', "P002"),
            (b'{"meta": {"global-id": ""}, "body": {}}', "P002"),
            (b'{"meta": {"global-id": "g"}, "body": {}}', "P002"),
            (b'{"meta": {"global-id": "g", "steps": []}, "body": {}}', "P002"),
            (b'{"meta": {"global-id": "g", "steps": ["first"], "branch": "a b"}, "body": {}}', "P002"),
            (b'{"meta": {"global-id": "g", "steps": ["first", ["second", "third"]]}, "body": {}}', "P002"),
            (b'{"meta": {"global-id": "g", "steps": ["first", "No Name"]}, "body": {}}', "P002"),
            (b'{"meta": {"global-id": "g", "steps": ["first", ""]}, "body": {}}', "P002"),
            (b'{"meta": {"global-id": "g", "steps": ["second"]}, "body": {}}', "P003"),
            (b'{"meta": {"global-id": "g", "steps": ["first", "second", "first"]}, "body": {}}', "P003"),
            (b'{"meta": {"global-id": "g", "steps": ["first", "second"], "position": 2}, "body": {}}', "P002"),
            (b'{"meta": {"global-id": "g", "steps": ["first", "second"], "position": -1}, "body": {}}', "P002"),
            (b'{"meta": {"global-id": "g", "steps": ["first", "second"], "position": true}, "body": {}}', "P002"),
            (b'{"meta": {"global-id": "g", "steps": ["first", "second"], "position": "0"}, "body": {}}', "P002"),
            (b'{"meta": {"global-id": "g", "steps": ["first", "second"], "position": 1}, "body": {}}', "P003"),
            (b'{"meta": {"global-id": "g", "steps": ["first"], "message-id": "x"}, "body": {}}', "P002"),
            (b'{"meta": {"global-id": "g", "steps": ["first"]}, "body": "\\u0000"}', "P001"),
            (b'{"meta": {"global-id": "g", "steps": ["first"]}, "body": 1e999}', "P001"),
            (b'{"meta": {"global-id": "g", "steps": ["first"]}, "body": "\\ud800"}', "P001"),
            (b'{"meta": {"global-id": "g", "steps": ["first"]}, "body": ' + b"[" * 99 + b"]" * 99 + b"}", "P001"),
            (b'{"meta": {"global-id": "g", "steps": ["first"]}, "body": "' + b"x" * 2_000_000 + b'"}', "P001"),
        ],
    )
    def test_is_buried_with_its_code_and_the_partition_goes_on(self, world: World, value: bytes, code: str) -> None:
        world.broker.append(Outgoing(f"{FIRST}.in", "k", value.decode()))
        gid = world.begin({}, key="k")
        world.settle()
        (letter,) = world.broker.all(".error")
        error = meta_of(letter)["error"]
        assert (letter.topic, error["code"], error["kind"]) == (f"{FIRST}.error", code, "invalid")
        assert error["topic"] == f"{FIRST}.in"
        assert error["reason"]
        assert world.saga(gid).status == "COMPLETED"

    def test_a_result_that_is_no_json_takes_no_effect(self, world: World) -> None:
        gid = world.begin({})
        handle = world.second.step.handle
        world.second.step.handle = lambda message: {**handle(message), "bad": object()}  # type: ignore[method-assign]
        world.second.killed()
        world.settle()
        (letter,) = world.broker.all(".error")
        assert meta_of(letter)["error"]["code"] == "P005"
        assert world.effects(gid)["second"] == []

    def test_a_result_that_is_too_large_takes_no_effect(self, world: World) -> None:
        gid = world.begin({})
        handle = world.second.step.handle
        world.second.step.handle = lambda message: {**handle(message), "big": "x" * 950_000}  # type: ignore[method-assign]
        world.second.killed()
        world.settle()
        assert meta_of(world.broker.all(".error")[0])["error"]["code"] == "P005"
        assert world.effects(gid)["second"] == []

    @pytest.mark.parametrize("position", [0, 2])
    def test_a_large_body_passes_through_and_is_left_out_of_the_last_report(self, world: World, position: int) -> None:
        gid = world.begin({"big": "x" * 890_000}, position=position)
        world.settle()
        assert world.saga(gid).step(2) == "DONE"
        assert body_of(world.broker.all("third.event")[0])["output_json"] == ""

    def test_a_letter_that_grows_as_json_holds_the_beginning(self, world: World) -> None:
        value = '{"meta":{"global-id":"g","steps":["first"],"position":7},"body":[' + "1E9," * 200_000 + "1]}"
        world.broker.append(Outgoing(f"{FIRST}.in", "k", value))
        world.settle()
        (letter,) = world.broker.all(".error")
        assert meta_of(letter)["error"]["code"] == "P002"
        assert body_of(letter)["bytes"] == len(value)

    def test_a_refusal_may_say_anything(self, world: World) -> None:
        gid = world.begin({})

        def refuses(message: object) -> None:
            raise Refuse("C" * 500, "\ud800 \x00 " + "x" * 5_000)

        world.second.step.handle = refuses  # type: ignore[method-assign]
        world.second.killed()
        world.settle()
        assert world.saga(gid).status == "COMPENSATED"
        error = meta_of(world.broker.all("first.compensate")[0])["error"]
        assert (len(error["code"]), len(error["reason"]) < 1_100) == (100, True)

    def test_a_message_for_another_group_of_the_topic_is_left_alone(self, world: World) -> None:
        record = control.start(CHAIN, {}, meta={"for-group": "somebody.else"})
        world.broker.append(record)
        world.settle()
        assert not world.first.step.calls
        assert not world.broker.all(".event")

    def test_is_buried_once_when_it_is_read_again(self, world: World) -> None:
        world.broker.append(Outgoing(f"{FIRST}.in", "k", "no JSON"))
        world.first.turn()
        world.broker.committed.clear()
        world.first.killed()
        world.first.turn()
        assert len({meta_of(letter)["message-id"] for letter in world.broker.all(".error")}) == 1


class TestDuplicates:
    def test_a_copy_takes_no_effect_and_says_nothing(self, world: World) -> None:
        gid = world.begin({})
        world.settle()
        before = len(world.broker.all(""))
        for record in world.broker.all(".in"):
            world.broker.append(record)
        world.settle()
        assert world.effects(gid) == {"first": ["done"], "second": ["done"], "third": ["done"]}
        assert len(world.broker.all("")) == before + 3

    def test_a_new_message_for_a_step_that_is_done_sends_its_answer_again(self, world: World) -> None:
        gid = world.begin({})
        world.first.turn()
        (sent,) = world.broker.all("second.in")
        world.broker.log.clear()  # It is lost, whoever lost it.
        world.broker.committed.clear()
        for service in world.services:
            service.killed()
        world.broker.append(control.start(CHAIN, {}, global_id=gid))
        world.settle()
        assert [meta_of(r)["message-id"] for r in world.broker.all("second.in")] == [meta_of(sent)["message-id"]]
        assert world.effects(gid) == {"first": ["done"], "second": ["done"], "third": ["done"]}


class TestPublishing:
    def test_a_topic_that_is_missing_is_waited_for_and_other_keys_go_on(self, world: World) -> None:
        world.broker.topics.remove(f"{SECOND}.in")
        gid = world.begin({}, key="k")
        alone = control.start([FIRST], {})
        world.broker.append(alone)
        for _ in range(3):
            world.first.turn()
        assert world.saga(meta_of(alone)["global-id"]).status == "COMPLETED"
        world.broker.topics.add(f"{SECOND}.in")
        world.settle()
        assert world.effects(gid) == {"first": ["done"], "second": ["done"], "third": ["done"]}
        assert world.saga(gid).status == "COMPLETED"

    def test_an_answer_that_can_never_be_published_is_a_dead_letter_whose_effect_stays(self, world: World) -> None:
        world.broker.topics.remove(f"{SECOND}.in")
        gid = world.begin({})
        world.settle()
        (letter,) = world.broker.all(".error")
        assert meta_of(letter)["error"]["code"] == "P006"
        assert world.effects(gid)["first"] == ["done"]
        assert world.saga(gid).status == "STUCK"
        world.broker.topics.add(f"{SECOND}.in")
        world.broker.append(control.again(f"{FIRST}.in", letter.key, meta_of(letter), body_of(letter)))
        world.settle()
        assert world.effects(gid) == {"first": ["done"], "second": ["done"], "third": ["done"]}
        assert world.saga(gid).status == "COMPLETED"

    def test_a_broker_that_goes_away_costs_no_attempt_and_no_effect(self, world: World) -> None:
        gid = world.begin({})
        world.broker.is_down = True
        for _ in range(3):
            world.first.turn()
        assert world.first.worker.status.trouble
        world.broker.is_down = False
        world.settle()
        assert world.first.worker.status.trouble == ""
        assert world.first.step.calls == [("do", gid, 1)]
        assert world.effects(gid) == {"first": ["done"], "second": ["done"], "third": ["done"]}

    def test_reports_can_be_switched_off(self, world: World, tmp_path: Path) -> None:
        quiet = type(world.first)(world.broker, tmp_path, FIRST, PIPES_REPORT_TOPIC="off")
        world.first.store.close()
        world.services[0] = world.first = quiet
        world.begin({"plan": {"first": ["fail", "do"]}})
        world.settle()
        assert not world.broker.all("first.event")
        assert len(world.broker.all("second.event")) == 1

    def test_reports_can_have_one_topic(self, world: World, tmp_path: Path) -> None:
        for place, service in enumerate(world.services):
            service.store.close()
            made = type(service)(world.broker, tmp_path, CHAIN[place], PIPES_REPORT_TOPIC="saga.pipes.step.event")
            world.services[place] = made
        gid = world.begin({})
        world.settle()
        assert len(world.broker.all("saga.pipes.step.event")) == 3
        assert gsm.fold(world.broker.pairs())[gid, ""].status == "COMPLETED"

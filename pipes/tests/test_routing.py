"""Where a message stands, and where it goes. Pure."""

import pytest

from lastro_pipes import addresses, ids, routing, trace
from lastro_pipes.envelope import Envelope
from lastro_pipes.errors import Code, Invalid
from lastro_pipes.routing import Way

STEPS = ["a.b.one", "a.b.two", "x.y.three"]


def envelope(**meta: object) -> Envelope:
    return Envelope({"global-id": "g", "steps": STEPS, **meta}, {"n": 1}, ids.uuid7())


class TestFind:
    @pytest.mark.parametrize(("service", "position"), [("a.b.one", 0), ("a.b.two", 1), ("x.y.three", 2)])
    def test_looks_for_itself_without_a_position(self, service: str, position: int) -> None:
        place = routing.find(envelope().meta, way=Way.DO, service=service)
        assert (place.position, place.addresses) == (position, tuple(STEPS))

    def test_counts_forward_on_the_way_back(self) -> None:
        place = routing.find({"steps": STEPS[::-1], "position": 0}, way=Way.UNDO, service="x.y.three")
        assert (place.position, place.addresses, place.is_last) == (2, tuple(STEPS), True)

    def test_a_single_word_is_a_service_beside(self) -> None:
        place = routing.find({"steps": ["one", "two", "x.y.three"]}, way=Way.DO, service="a.b.two")
        assert place.addresses == tuple(STEPS)
        assert place.steps == ("one", "two", "x.y.three"), "and is passed on as it came"

    def test_two_words_are_an_address_as_in_the_talk(self) -> None:
        place = routing.find({"steps": ["step1", "step2"]}, way=Way.DO, service="gophercon.step1")
        assert routing.onward(place, envelope(), {}, trace="").topic == "gophercon.step2.in"  # type: ignore[union-attr]

    def test_a_list_that_was_cut_behind_the_one_who_refused_counts_the_same(self) -> None:
        whole = routing.find({"steps": STEPS[::-1]}, way=Way.UNDO, service="a.b.one")
        cut = routing.find({"steps": ["a.b.two", "a.b.one"]}, way=Way.UNDO, service="a.b.one")
        assert whole.position == cut.position == 0

    def test_without_a_list_the_next_steps_of_the_service_follow(self) -> None:
        place = routing.find({}, way=Way.DO, service="a.b.one", next_steps=("two", "x.y.three"))
        assert place.addresses == tuple(STEPS)
        with pytest.raises(Invalid):
            routing.find({}, way=Way.UNDO, service="a.b.one", next_steps=("two",))

    @pytest.mark.parametrize(
        "steps", [[], "a.b.one", {"a": 1}, [1], [None], [""], [["a.b.one"]], ["a.b.one"] * 101, ["A.b.c"]]
    )
    def test_refuses_what_is_no_list_of_names(self, steps: object) -> None:
        with pytest.raises(Invalid) as refusal:
            routing.find({"steps": steps}, way=Way.DO, service="a.b.one")
        assert refusal.value.code is Code.BAD_META

    @pytest.mark.parametrize("position", [3, -1, "0", 1.0, False, [0]])
    def test_refuses_a_position_that_is_none(self, position: object) -> None:
        with pytest.raises(Invalid) as refusal:
            routing.find({"steps": STEPS, "position": position}, way=Way.DO, service="a.b.one")
        assert refusal.value.code is Code.BAD_META

    def test_refuses_somebody_else_s_position(self) -> None:
        with pytest.raises(Invalid) as refusal:
            routing.find({"steps": STEPS, "position": 1}, way=Way.DO, service="a.b.one")
        assert refusal.value.code is Code.NOT_IN_STEPS


class TestSendings:
    def test_onward(self) -> None:
        found = envelope(
            **{"use-case": "u", "message-id": "old", "error": {"code": "x"}, "seek-end": True, "for-group": "g"}
        )
        place = routing.find(found.meta, way=Way.DO, service="a.b.one")
        sending = routing.onward(place, found, {"n": 2}, trace="t")
        assert sending is not None
        assert sending.topic == "a.b.two.in"
        assert sending.body == {"n": 2}
        message_id = sending.meta.pop("message-id")
        assert message_id != "old"
        assert sending.meta == {
            "global-id": "g",
            "use-case": "u",
            "steps": STEPS,
            "position": 1,
            "trace": "t",
            "schema": "pipes.step.v1",
        }

    def test_nothing_behind_the_last_and_before_the_first(self) -> None:
        last = routing.find(envelope().meta, way=Way.DO, service="x.y.three")
        assert routing.onward(last, envelope(), {}, trace="") is None
        assert routing.chase(last, envelope(), trace="") is None
        first = routing.find(envelope().meta, way=Way.DO, service="a.b.one")
        assert routing.backward(first, envelope(), {}, trace="") is None

    def test_backward_inverts_the_list_once(self) -> None:
        error = {"code": "NO", "reason": "no"}
        turn = routing.find(envelope().meta, way=Way.DO, service="x.y.three")
        to_two = routing.backward(turn, envelope(), {}, trace="", error=error)
        assert to_two is not None
        assert (to_two.topic, to_two.meta["steps"], to_two.meta["position"]) == ("a.b.two.compensate", STEPS[::-1], 1)
        found = Envelope(to_two.meta, {}, ids.uuid7())
        to_one = routing.backward(routing.find(found.meta, way=Way.UNDO, service="a.b.two"), found, {}, trace="")
        assert to_one is not None
        assert (to_one.topic, to_one.meta["steps"], to_one.meta["position"]) == ("a.b.one.compensate", STEPS[::-1], 2)
        assert to_one.meta["error"] == error, "why is passed on"

    def test_a_chase_goes_forward_on_compensate_and_always_has_the_same_id(self) -> None:
        found = Envelope({"global-id": "g", "steps": STEPS[::-1], "position": 2, "seek-end": True}, {}, ids.uuid7())
        place = routing.find(found.meta, way=Way.UNDO, service="a.b.one")
        first, second = (routing.chase(place, found, trace="") for _ in range(2))
        assert first is not None
        assert second is not None
        assert first.topic == "a.b.two.compensate"
        assert (first.meta["position"], first.meta["seek-end"]) == (1, True)
        assert first.meta["message-id"] == second.meta["message-id"]


class TestAddresses:
    @pytest.mark.parametrize("text", ["a.b", "a.b.c", "a_1.b2.c"])
    def test_takes(self, text: str) -> None:
        assert addresses.is_address(text)

    @pytest.mark.parametrize("text", ["", "a", "a.b.c.d", "a..b", "A.b", "a-b.c", "a.b.", None, 7, "a." + "b" * 300])
    def test_refuses(self, text: object) -> None:
        assert not addresses.is_address(text)


class TestTrace:
    PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    def test_a_child_keeps_the_trace_and_has_a_span_of_its_own(self) -> None:
        child = trace.child(self.PARENT)
        assert trace.is_traceparent(child)
        assert child.split("-")[1::2] == self.PARENT.split("-")[1::2]
        assert child != self.PARENT

    def test_a_trace_begins_where_there_is_none_and_free_text_is_kept(self) -> None:
        assert trace.is_traceparent(trace.child(""))
        assert trace.child("request-7") == "request-7"

    @pytest.mark.parametrize(
        "text", ["", "00", PARENT.replace("00-", "ff-", 1), PARENT[:3] + "0" * 32 + PARENT[35:], PARENT.upper(), None, 7]
    )
    def test_what_is_none(self, text: object) -> None:
        assert not trace.is_traceparent(text)

    def test_the_header_comes_before_the_meta(self) -> None:
        assert trace.incoming({"traceparent": self.PARENT}, "other") == self.PARENT
        assert trace.incoming({"traceparent": "broken"}, "other") == "other"

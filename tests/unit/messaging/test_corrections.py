"""Corrections of dead letters: a slip of the pen is refused, and the refusal names the place."""

import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from apps.messaging import corrections
from apps.messaging.corrections import (
    EDIT_BYTES_MAX,
    Correction,
    Draft,
    UnfitCorrection,
    check_known,
    corrected,
    read_edit,
    read_value,
    written,
)

ONE, TWO = uuid4(), uuid4()
BEFORE = Draft("k", {"schema": "a.b.v1", "steps": ["x"]}, {"n": 1, "legs": [{"amount": "1.00"}, {"amount": "2.00"}]})


def edit(value: Any) -> Correction:
    return read_edit(json.dumps(value).encode())


def set_to(*texts: str) -> Draft:
    return Correction(values=[read_value(text) for text in texts]).apply(ONE, BEFORE)


class TestSet:
    @pytest.mark.parametrize(
        ("text", "body"),
        [
            ("body.n=2", {"n": 2, "legs": [{"amount": "1.00"}, {"amount": "2.00"}]}),
            ('body.legs[1].amount="3.00"', {"n": 1, "legs": [{"amount": "1.00"}, {"amount": "3.00"}]}),
            ('body.legs.0.amount="3.00"', {"n": 1, "legs": [{"amount": "3.00"}, {"amount": "2.00"}]}),
            ("body.legs=[]", {"n": 1, "legs": []}),
            ('body.more="a=b"', {"n": 1, "legs": [{"amount": "1.00"}, {"amount": "2.00"}], "more": "a=b"}),
            ("body=null", None),
        ],
    )
    def test_changes_one_value(self, text: str, body: Any) -> None:
        assert set_to(text).body == body
        assert BEFORE.body == {"n": 1, "legs": [{"amount": "1.00"}, {"amount": "2.00"}]}, "the letter itself is a fact"

    def test_changes_the_key_and_the_meta(self) -> None:
        made = set_to('key="other"', 'meta.schema="a.b.v2"')
        assert (made.key, made.meta) == ("other", {"schema": "a.b.v2", "steps": ["x"]})

    def test_of_several_are_made_in_their_order(self) -> None:
        assert set_to('body={"m": 1}', "body.m=2").body == {"m": 2}

    @pytest.mark.parametrize(
        "text",
        [
            "body.n",
            "=1",
            "body..n=1",
            "body.n=one",
            "body.n=",
            "key=1",
            "key.x=1",
            "meta=1",
            "meta.schema=1",
            'meta.message-id="x"',
            "meta.steps=[1]",
            "topic=1",
            "body=" + "[" * 100_000,
        ],
        ids=lambda text: text[:20],
    )
    def test_refuses_what_is_no_correction(self, text: str) -> None:
        with pytest.raises(UnfitCorrection) as refusal:
            read_value(text)
        assert refusal.value.code == "R603"
        assert refusal.value.field == text.partition("=")[0] or refusal.value.field.startswith("meta.")  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("path", "place"),
        [
            ("body.a.b", "body.a"),
            ("body.n.b", "body.n.b"),
            ("body.legs[2].amount", "body.legs.2"),
            ("body.legs[-1].amount", "body.legs.-1"),
            ("body.legs.first", "body.legs.first"),
            ("body.legs[" + "9" * 5000 + "]", "body.legs." + "9" * 5000),
        ],
        ids=lambda text: text[:20],
    )
    def test_refuses_a_place_that_is_not_there(self, path: str, place: str) -> None:
        with pytest.raises(UnfitCorrection) as refusal:
            set_to(f"{path}=1")
        assert refusal.value.field == place


class TestEdit:
    def test_of_the_only_letter(self) -> None:
        found = edit({"key": "other", "meta": {"schema": "a.b.v2"}, "body": [1]})
        assert found.restrict([ONE]) == [ONE]
        assert found.apply(ONE, BEFORE) == Draft("other", {"schema": "a.b.v2", "steps": ["x"]}, [1])

    def test_leaves_what_it_does_not_name(self) -> None:
        assert edit({"body": None}).apply(ONE, BEFORE) == Draft(BEFORE.key, BEFORE.meta, None)

    def test_of_one_letter_refuses_several(self) -> None:
        for letters in ([ONE, TWO], []):
            with pytest.raises(UnfitCorrection, match="The file corrects one letter"):
                edit({"body": 1}).restrict(letters)

    def test_by_id_takes_the_named_letters_alone_in_the_order_of_their_burial(self) -> None:
        three = uuid4()
        found = edit({str(TWO): {"body": 2}, str(ONE): {"body": 1}})
        assert found.restrict([ONE, three, TWO]) == [ONE, TWO]
        assert [found.apply(one, BEFORE).body for one in (ONE, TWO)] == [1, 2]
        assert found.apply(three, BEFORE) == BEFORE

    def test_refuses_a_letter_that_is_not_selected(self) -> None:
        with pytest.raises(UnfitCorrection, match=str(TWO)):
            edit({str(ONE): {"body": 1}, str(TWO): {"body": 2}}).restrict([ONE])

    def test_restricts_nothing_when_there_is_none(self) -> None:
        assert Correction().restrict([ONE, TWO]) == [ONE, TWO]
        assert not Correction()

    @pytest.mark.parametrize(
        "value",
        [
            [],
            {},
            1,
            {"body": 1, "topic": "a"},
            {"nobody": {"body": 1}},
            {str(UUID(int=1)): {}},
            {str(UUID(int=1)): {"bdy": 1}},
            {"key": 1},
            {"meta": []},
            {"meta": {"message-id": "x"}},
            {"meta": {"steps": "x"}},
        ],
        ids=str,
    )
    def test_refuses_what_is_no_correction(self, value: Any) -> None:
        with pytest.raises(UnfitCorrection):
            edit(value)

    @pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000])
    def test_refuses_what_is_no_json(self, text: bytes) -> None:
        with pytest.raises(UnfitCorrection, match="not JSON"):
            read_edit(text)

    def test_takes_what_is_written_of_any_letter(self) -> None:
        odd = Draft("k", {"schema": "a.b.v1", "steps": [1], "global-id": None, "trace": "t", "error": {}}, {"n": 1})
        parts = written(odd)
        assert parts == {"key": "k", "meta": {"schema": "a.b.v1", "trace": "t"}, "body": {"n": 1}}
        assert edit(parts).apply(ONE, odd) == odd
        assert edit({str(ONE): written(BEFORE)}).apply(ONE, BEFORE) == BEFORE

    def test_has_a_largest_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(corrections, "EDIT_BYTES_MAX", 20)
        with pytest.raises(UnfitCorrection, match="larger than 20"):
            read_edit(b'{"body": "0123456789"}')
        assert EDIT_BYTES_MAX > 900_000, "the largest message can be corrected"


class TestCorrected:
    def test_names_where_two_drafts_differ(self) -> None:
        after = Draft("other", {**BEFORE.meta, "schema": "a.b.v2"}, {"n": 1, "legs": [], "more": None})
        assert corrected(BEFORE, after) == ["key", "meta.schema", "body.legs", "body.more"]
        assert corrected(BEFORE, Draft("k", BEFORE.meta, {"n": 1})) == ["body.legs"]
        assert corrected(BEFORE, Draft("k", BEFORE.meta, [1])) == ["body"]
        assert corrected(BEFORE, BEFORE) == []

    def test_names_a_bounded_number_of_places(self) -> None:
        after = Draft("k", BEFORE.meta, {f"f{n}": n for n in range(10_000)})
        assert len(corrected(BEFORE, after)) == corrections.CORRECTED_MAX


class TestKnown:
    def test_refuses_a_field_that_no_contract_has(self) -> None:
        with pytest.raises(UnfitCorrection) as refusal:
            check_known({"n": 1}, {"n": 1, "legs": [{"amuont": 1}]}, {"n": 1, "legs": [{"amount": 1}]})
        assert refusal.value.field == "body.legs[].amuont"

    def test_leaves_the_fields_that_were_sent(self) -> None:
        check_known({"newer": {"x": 1}}, {"newer": {"x": 2}, "n": 1}, {"n": 1})

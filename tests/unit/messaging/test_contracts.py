"""The codec of messages: what one release writes, another reads."""

import enum
import json
import re
from dataclasses import dataclass, field, make_dataclass, replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.messaging.contracts.base import InvalidMessage, Message, closest_class, message_class, message_classes
from apps.messaging.contracts.codec import Codec, avro_name, family_of, version_of
from apps.messaging.contracts.payments import CardResult
from apps.messaging.contracts.shapes import shape_of
from tests.contracts.strategies import amounts, messages_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a message."""

    sku: str
    price: Decimal
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything(Message):
    """One field of every kind."""

    topic: ClassVar[str] = "tests.codec.unit.event"
    schema: ClassVar[str] = "tests.everything.v1"

    name: str
    count: int
    flag: bool
    amount: Decimal
    id: UUID
    day: date
    moment: datetime
    tags: tuple[str, ...] = ()
    amounts: tuple[Decimal, ...] = ()
    maybe: Decimal | None = None
    note: str = "none"
    tax: Decimal = Decimal("-1.50")
    since: date = date(1969, 12, 31)
    parts: tuple[Part, ...] = ()
    gift: Part | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EverythingV4(Message):
    """A newer one, which has lost nearly everything."""

    topic: ClassVar[str] = "tests.codec.unit.event"
    schema: ClassVar[str] = "tests.everything.v4"

    name: str


def body(**changes: Any) -> dict[str, Any]:
    made = Everything(
        name="n",
        count=1,
        flag=True,
        amount=Decimal("10.50"),
        id=uuid4(),
        day=date(2026, 11, 21),
        moment=datetime(2026, 11, 21, tzinfo=UTC),
    )
    return {**made.to_body(), **changes}


class TestRoundTrip:
    @given(messages_of(Everything))
    def test_a_message_comes_back_as_it_was(self, message: Everything) -> None:
        assert Everything.from_body(message.to_body()) == message

    @given(amounts)
    def test_an_amount_keeps_its_places(self, amount: Decimal) -> None:
        assert str(Everything.from_body(body(amount=str(amount))).amount) == str(amount)

    def test_an_amount_is_digits_and_a_point_though_python_reads_more(self) -> None:
        sent = replace(Everything.from_body(body()), amount=Decimal("1E+2")).to_body()
        assert sent["amount"] == "100"
        assert Everything.from_body(body(amount="-0.50")).amount == Decimal("-0.50")
        for text in ("1E+2", "1e2", " 1", "1\n", "1_0", "+1", ".5", "1.", "\u0661", "NaN", "", "9" * 41):
            with pytest.raises(InvalidMessage):
                Everything.from_body(body(amount=text))

    def test_amounts_ids_and_moments_travel_as_text(self) -> None:
        sent = body()
        assert sent["amount"] == "10.50"
        assert isinstance(sent["id"], str)
        assert sent["moment"] == "2026-11-21T00:00:00+00:00"

    def test_a_newer_producer_may_say_more(self) -> None:
        assert Everything.from_body(body(colour="red")).name == "n"

    def test_an_older_producer_may_say_less(self) -> None:
        sent = body()
        for name in ("note", "tags", "maybe", "tax", "since", "parts", "gift"):
            del sent[name]
        read = Everything.from_body(sent)
        assert read == Everything.from_body(body(id=sent["id"]))
        assert (read.note, read.tags, read.maybe, read.tax) == ("none", (), None, Decimal("-1.50"))

    def test_a_part_may_say_more_and_less(self) -> None:
        read = Everything.from_body(body(parts=[{"sku": "a", "price": "1.00", "colour": "red"}], gift=None))
        assert read.parts == (Part(sku="a", price=Decimal("1.00")),)

    def test_what_is_read_twice_shares_nothing(self) -> None:
        sent = body(parts=[{"sku": "a", "price": "1.00"}])
        kept = json.dumps(sent)
        Everything.from_body(sent)
        assert json.dumps(sent) == kept


class TestMalformed:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("name", 1),
            ("name", None),
            ("count", "1"),
            ("count", True),
            ("count", 1.5),
            ("flag", 1),
            ("flag", "true"),
            ("amount", 10.5),
            ("amount", 10),
            ("amount", "ten"),
            ("amount", "NaN"),
            ("amount", "Infinity"),
            ("id", "not-a-uuid"),
            ("id", 7),
            ("day", "21/11/2026"),
            ("moment", "2026-11-21T00:00:00"),
            ("moment", "yesterday"),
            ("moment", "0001-01-01T00:00:00+00:00"),
            ("moment", "9999-12-31T23:59:59-03:00"),
            ("count", 2**63),
            ("count", -(2**63) - 1),
            ("amount", "10.505"),
            ("amount", "10.500"),
            ("amount", "1E+30"),
            ("amount", "1E+999999999"),
            ("amount", "1E-999999999"),
            ("amount", "1000000000000000000.00"),
            ("amount", None),
            ("tags", "abc"),
            ("tags", None),
            ("maybe", "x"),
            ("amount", {}),
            ("id", []),
            ("gift", []),
            ("parts", {}),
        ],
    )
    def test_names_the_field(self, field: str, value: Any) -> None:
        with pytest.raises(InvalidMessage, match=re.escape(f"tests.everything.v1: {field}: ")) as refusal:
            Everything.from_body(body(**{field: value}))
        assert refusal.value.field == field
        assert not refusal.value.retryable

    @pytest.mark.parametrize(
        ("field", "value", "path"),
        [
            ("tags", ["a", 1], "tags[1]"),
            ("amounts", ["1.00", "x"], "amounts[1]"),
            ("gift", {"sku": "a", "price": 1}, "gift.price"),
            ("gift", {"sku": "a"}, "gift.price"),
            ("parts", [{"sku": 1, "price": "1.00"}], "parts[0].sku"),
            ("parts", ["x"], "parts[0]"),
            (
                "parts",
                [{"sku": "a", "price": "1.00"}, {"sku": "a", "price": "1.00", "notes": ["a", 2]}],
                "parts[1].notes[1]",
            ),
        ],
    )
    def test_names_the_way_to_a_part(self, field: str, value: Any, path: str) -> None:
        with pytest.raises(InvalidMessage, match=re.escape(f"tests.everything.v1: {path}: ")) as refusal:
            Everything.from_body(body(**{field: value}))
        assert refusal.value.field == path

    @pytest.mark.parametrize(
        ("field", "value", "says"),
        [
            ("count", "4111", "count: expected a whole number of 64 bits, not str"),
            ("count", 2**63, "count: expected a whole number of 64 bits"),
            ("amount", "4111x", "amount: expected an amount of at most 20 digits, 2 of them after the point"),
            ("amount", "41.115", "amount: expected an amount of at most 20 digits, 2 of them after the point"),
            ("amount", 4111, "amount: expected text, not int"),
            ("id", "4111", "id: expected a UUID"),
            ("day", "4111", "day: expected a day as in 2026-11-21"),
            ("moment", "4111", "moment: expected a moment as in 2026-11-21T12:30:00+00:00"),
        ],
    )
    def test_says_what_was_expected_and_does_not_repeat_the_value(self, field: str, value: Any, says: str) -> None:
        with pytest.raises(InvalidMessage) as refusal:
            Everything.from_body(body(**{field: value}))
        assert refusal.value.detail == f"tests.everything.v1: {says}."

    def test_names_what_is_missing(self) -> None:
        sent = body()
        del sent["amount"]
        with pytest.raises(InvalidMessage, match="amount: it is missing") as refusal:
            Everything.from_body(sent)
        assert refusal.value.field == "amount"

    @pytest.mark.parametrize("sent", [None, [], "x", 1])
    def test_refuses_a_body_that_is_no_object(self, sent: Any) -> None:
        with pytest.raises(InvalidMessage, match="not an object"):
            Everything.from_body(sent)

    @given(st.dictionaries(st.sampled_from(list(body())), st.recursive(st.none() | st.integers() | st.text(), st.lists)))
    def test_any_body_is_read_or_refused(self, changes: dict[str, Any]) -> None:
        try:
            Everything.from_body(body(**changes))
        except InvalidMessage as refusal:
            named = re.split(r"[.\[]", str(refusal.field))[0]
        else:
            named = ""
        assert named in {"", *changes}


class TestSending:
    @pytest.mark.parametrize(
        ("field", "value", "path"),
        [
            ("moment", datetime(2026, 11, 21), "moment"),
            ("moment", date(2026, 11, 21), "moment"),
            ("moment", "2026-11-21T00:00:00+00:00", "moment"),
            ("day", datetime(2026, 11, 21, tzinfo=UTC), "day"),
            ("day", "2026-11-21", "day"),
            ("day", 3, "day"),
            ("amount", "10.50", "amount"),
            ("amount", 10, "amount"),
            ("amount", b"\x01", "amount"),
            ("amount", None, "amount"),
            ("amount", Decimal("10.505"), "amount"),
            ("amount", Decimal("NaN"), "amount"),
            ("amount", Decimal("1E+999999999"), "amount"),
            ("amount", Decimal("1000000000000000000.00"), "amount"),
            ("id", "a9c3a1de-0000-4000-8000-000000000000", "id"),
            ("name", None, "name"),
            ("name", b"n", "name"),
            ("count", True, "count"),
            ("count", 1.5, "count"),
            ("count", 2**63, "count"),
            ("flag", 1, "flag"),
            ("tags", "abc", "tags"),
            ("tags", ("a", 1), "tags[1]"),
            ("tags", None, "tags"),
            ("amounts", (Decimal("1.00"), Decimal("1.005")), "amounts[1]"),
            ("maybe", Decimal("1.005"), "maybe"),
            ("gift", {"sku": "a", "price": Decimal("1.00")}, "gift"),
            ("parts", (Part(sku="a", price=1),), "parts[0].price"),  # type: ignore[arg-type]
            ("parts", (Part(sku=1, price=Decimal("1.00")),), "parts[0].sku"),  # type: ignore[arg-type]
            ("parts", Part(sku="a", price=Decimal("1.00")), "parts"),
        ],
    )
    def test_refuses_what_the_schema_does_not_allow_and_names_the_field(self, field: str, value: Any, path: str) -> None:
        message = Everything.from_body(body())
        object.__setattr__(message, field, value)
        with pytest.raises(InvalidMessage, match=re.escape(f"tests.everything.v1: {path}: ")) as refusal:
            message.to_body()
        assert (refusal.value.code, refusal.value.field) == ("R601", path)

    def test_takes_words_and_numbers_that_have_a_class_of_their_own(self) -> None:
        state = enum.StrEnum("State", {"DONE": "done"})
        message = Everything.from_body(body())
        object.__setattr__(message, "name", state.DONE)
        assert json.loads(json.dumps(message.to_body()))["name"] == "done"


class TestDeclaration:
    @pytest.mark.parametrize(
        ("topic", "schema"),
        [
            ("payments.card.in", "a.b.v1"),
            ("payments.card.processor.out", "a.b.v1"),
            ("Payments.card.processor.in", "a.b.v1"),
            ("payments.card.processor.in", "a.b"),
            ("payments.card.processor.in", "ab.v1"),
            ("payments.card.processor.in", "a.b.v"),
        ],
    )
    def test_refuses_malformed_names(self, topic: str, schema: str) -> None:
        with pytest.raises(TypeError, match="malformed"):
            type("Wrong", (Message,), {"topic": topic, "schema": schema})

    def test_refuses_a_schema_that_is_taken(self) -> None:
        with pytest.raises(TypeError, match="declared twice"):
            type("Thief", (Message,), {"topic": CardResult.topic, "schema": CardResult.schema})
        assert message_class(CardResult.schema) is CardResult

    def test_finds_a_class_by_its_schema(self) -> None:
        assert message_class("tests.everything.v1") is Everything
        assert message_class("tests.unheard.v1") is None


class TestCannotBeCarried:
    @pytest.mark.parametrize("hint", [float, dict[str, str], bytes, Any, str | int, tuple[str, int], set[str], time])
    def test_a_type_that_avro_and_json_do_not_share(self, hint: Any) -> None:
        with pytest.raises(TypeError, match="cannot carry"):
            shape_of(hint, namespace="tests")

    def test_a_default_beside_none(self) -> None:
        kind = make_dataclass("Odd", [("field", str | None, field(default="x"))], frozen=True)
        with pytest.raises(TypeError, match="None as its default"):
            Codec(kind, schema="tests.odd.v1")


class TestAvro:
    def test_has_the_names_docs_types_and_defaults_of_the_class(self) -> None:
        avro = Everything.codec().avro
        assert (avro["namespace"], avro["name"], avro["doc"]) == ("lastro.tests", "Everything", "One field of every kind.")
        fields = {entry["name"]: entry for entry in avro["fields"]}
        assert fields["name"] == {"name": "name", "type": "string"}
        assert fields["count"]["type"] == "long"
        assert fields["flag"]["type"] == "boolean"
        assert fields["amount"]["type"] == {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 2}
        assert fields["id"]["type"] == {"type": "string", "logicalType": "uuid"}
        assert fields["day"]["type"] == {"type": "int", "logicalType": "date"}
        assert fields["moment"]["type"] == {"type": "long", "logicalType": "timestamp-micros"}
        assert fields["tags"] == {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []}
        assert fields["maybe"] == {"name": "maybe", "type": ["null", fields["amount"]["type"]], "default": None}
        assert fields["note"]["default"] == "none"
        assert fields["tax"]["default"] == "\u00ff\u006a", "-150 in two's complement"
        assert fields["since"]["default"] == -1

    def test_writes_a_part_out_once_and_names_it_after_that(self) -> None:
        fields = {entry["name"]: entry for entry in Everything.codec().avro["fields"]}
        assert fields["parts"]["type"]["items"]["name"] == "Part"
        assert fields["gift"]["type"] == ["null", "lastro.tests.Part"]

    def test_gives_versions_one_name(self) -> None:
        assert avro_name("ledger.posting_done.v12") == ("lastro.ledger", "PostingDone")
        assert avro_name("a.b.card_result.v1") == ("lastro.a.b", "CardResult")
        assert (family_of("a.b.v12"), version_of("a.b.v12")) == ("a.b", 12)


class TestClosestClass:
    def test_is_the_class_itself_or_its_nearest_relative(self) -> None:
        assert closest_class("tests.everything.v1") is Everything
        assert closest_class("tests.everything.v3") is EverythingV4
        assert closest_class("tests.everything.v2") is Everything
        assert closest_class("tests.everything.v9") is EverythingV4
        assert closest_class("tests.every.v1") is None

    def test_is_looked_for_among_those_that_are_wanted(self) -> None:
        assert closest_class("tests.everything.v4", among=["tests.everything.v1"]) is Everything
        assert closest_class("tests.everything.v1", among=["tests.everything.v1"]) is Everything
        assert closest_class("tests.everything.v1", among=[]) is None


class TestEveryClass:
    def test_is_frozen_and_slotted(self) -> None:
        ours = [kind for kind in message_classes() if kind.__module__.startswith("apps.")]
        assert ours
        for kind in ours:
            assert kind.__dataclass_params__.frozen, kind  # type: ignore[attr-defined]
            assert "__slots__" in vars(kind), kind
            assert kind.__doc__, kind

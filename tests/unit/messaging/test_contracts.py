"""The codec of messages: what one release writes, another reads."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.messaging.contracts import base
from apps.messaging.contracts.base import InvalidMessage, Message, message_class
from apps.messaging.contracts.payments import CardResult


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


offsets = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
messages = st.builds(
    Everything,
    name=st.text(),
    count=st.integers(),
    flag=st.booleans(),
    amount=st.decimals(allow_nan=False, allow_infinity=False),
    id=st.uuids(),
    day=st.dates(),
    moment=st.datetimes(timezones=offsets),
    tags=st.lists(st.text(), max_size=3).map(tuple),
    amounts=st.lists(st.decimals(allow_nan=False, allow_infinity=False, places=2), max_size=3).map(tuple),
    maybe=st.none() | st.decimals(allow_nan=False, allow_infinity=False, places=2),
    note=st.text(),
)


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
    @given(messages)
    def test_a_message_comes_back_as_it_was(self, message: Everything) -> None:
        assert Everything.from_body(message.to_body()) == message

    @given(st.decimals(allow_nan=False, allow_infinity=False, places=2))
    def test_an_amount_keeps_its_places(self, amount: Decimal) -> None:
        assert str(Everything.from_body(body(amount=str(amount))).amount) == str(amount)

    def test_amounts_ids_and_moments_travel_as_text(self) -> None:
        sent = body()
        assert sent["amount"] == "10.50"
        assert isinstance(sent["id"], str)
        assert sent["moment"] == "2026-11-21T00:00:00+00:00"

    def test_a_newer_producer_may_say_more(self) -> None:
        assert Everything.from_body(body(colour="red")).name == "n"

    def test_an_older_producer_may_say_less(self) -> None:
        sent = body()
        del sent["note"], sent["tags"], sent["maybe"]
        read = Everything.from_body(sent)
        assert (read.note, read.tags, read.maybe) == ("none", (), None)


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
            ("tags", "abc"),
            ("tags", [1]),
            ("amounts", ["1.00", "x"]),
            ("maybe", "x"),
            ("amount", {}),
            ("id", []),
        ],
    )
    def test_names_the_field(self, field: str, value: Any) -> None:
        with pytest.raises(InvalidMessage, match=re.escape(f"tests.everything.v1: {field}: ")) as refusal:
            Everything.from_body(body(**{field: value}))
        assert refusal.value.field == field
        assert not refusal.value.retryable

    def test_names_what_is_missing(self) -> None:
        sent = body()
        del sent["amount"]
        with pytest.raises(InvalidMessage, match="amount is missing") as refusal:
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
            named = refusal.field
        else:
            named = None
        assert named is None or named in changes

    def test_refuses_to_send_a_moment_without_its_offset(self) -> None:
        naive = Everything.from_body(body())
        object.__setattr__(naive, "moment", datetime(2026, 11, 21))
        with pytest.raises(InvalidMessage, match="offset"):
            naive.to_body()


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


class TestEveryContract:
    def test_is_frozen_slotted_and_reads_what_it_writes(self) -> None:
        ours = [kind for kind in base._registry.values() if kind.__module__.startswith("apps.")]
        assert ours
        for kind in ours:
            assert kind.__dataclass_params__.frozen, kind  # type: ignore[attr-defined]
            assert "__slots__" in vars(kind), kind
            assert kind.__doc__, kind
            sample = kind(
                **{name: _sample(hint) for name, hint in kind._kinds().items() if name not in ("topic", "schema")}
            )
            assert kind.from_body(sample.to_body()) == sample

    def test_never_carries_a_card_number(self) -> None:
        for kind in base._registry.values():
            assert not {"card_number", "pan", "cvv", "number"} & set(kind._kinds()), kind


def _sample(hint: Any) -> Any:
    samples = {str: "x", int: 1, bool: True, Decimal: Decimal("1.00"), UUID: UUID(int=1), date: date(2026, 1, 1)}
    if hint is datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)
    if hint in samples:
        return samples[hint]
    if base.typing.get_origin(hint) in (tuple, list):
        return base.typing.get_origin(hint)([_sample(base.typing.get_args(hint)[0])])
    return None  # optional

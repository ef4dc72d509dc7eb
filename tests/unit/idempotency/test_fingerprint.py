"""Which bodies are the same."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.common.errors import MalformedJson
from apps.idempotency import operations
from apps.idempotency.public import InvalidIdempotencyKey, check_key

json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def fingerprint(body: Any, route: str = "POST /x") -> bytes:
    return operations._fingerprints(route, body)[0]


class TestFingerprint:
    @given(st.dictionaries(st.text(), json, max_size=4))
    def test_the_order_of_keys_says_nothing(self, body: dict[str, Any]) -> None:
        assert fingerprint(body) == fingerprint(dict(reversed(body.items())))

    @given(json, json)
    def test_two_bodies_share_one_only_when_they_are_equal(self, one: Any, two: Any) -> None:
        same = operations._canonical(one) == operations._canonical(two)
        assert (fingerprint(one) == fingerprint(two)) == same

    @pytest.mark.parametrize(
        ("one", "two", "same"),
        [
            (Decimal("10.5"), Decimal("10.50"), True),
            (10, Decimal("10.0"), True),
            (Decimal("1e2"), 100, True),
            (0, Decimal("-0.00"), True),
            (10, "10", False),
            (1, True, False),
            (0, None, False),
            ([1, 2], [2, 1], False),
            (["number", "1e0"], 1, False),
            ({"a": None}, {}, False),
            ([], {}, False),
            (Decimal("1e2000000"), Decimal("1e2000001"), False),
        ],
    )
    def test_numbers_are_compared_by_value_and_kinds_are_kept_apart(self, one: Any, two: Any, *, same: bool) -> None:
        assert (fingerprint(one) == fingerprint(two)) is same

    def test_the_route_is_a_part_of_it(self) -> None:
        assert fingerprint({}, "POST /x") != fingerprint({}, "POST /y")

    def test_a_body_nested_beyond_reason_is_malformed(self) -> None:
        body: list[Any] = []
        for _ in range(100_000):
            body = [body]
        with pytest.raises(MalformedJson):
            fingerprint(body)


class TestKey:
    @pytest.mark.parametrize("key", ["a", "x" * 255, "a b", "8e03978e-40d5-43e8-bc93-6894a57f9324", "!~"])
    def test_one_to_255_printable_characters(self, key: str) -> None:
        assert check_key(key) == key

    @pytest.mark.parametrize("key", ["", " ", " a", "a ", "x" * 256, "a\n", "ä", "a\x00b", "\x7f"])
    def test_and_nothing_else(self, key: str) -> None:
        with pytest.raises(InvalidIdempotencyKey):
            check_key(key)

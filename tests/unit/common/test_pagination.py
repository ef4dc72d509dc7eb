"""Cursors come back as they were made; forged ones are refused before they reach the database."""

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.common.errors import InvalidRequest
from apps.common.pagination import PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX, decode_cursor, encode_cursor, page_rows

keys = st.lists(
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=30)
    | st.integers(min_value=-(2**63) + 1, max_value=2**63 - 1),
    min_size=1,
    max_size=3,
)


def forged(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


class TestCursor:
    @given(keys)
    def test_comes_back_as_it_was_made(self, key: list[str | int]) -> None:
        assert decode_cursor(encode_cursor(*key), parts=len(key)) == key

    @given(keys)
    def test_needs_no_escaping_in_a_url(self, key: list[str | int]) -> None:
        assert set(encode_cursor(*key)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")

    @given(st.text(max_size=200))
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        with contextlib.suppress(InvalidRequest):
            decode_cursor(text, parts=1)

    @pytest.mark.parametrize(
        "value",
        [[], ["a", "b"], "a", {"a": 1}, [None], [1.5], [True], [["a"]], ["\x00"], ["\ud800"], [2**63], ["a" * 1000]],
    )
    def test_refuses_what_no_column_can_be_compared_with(self, value: object) -> None:
        with pytest.raises(InvalidRequest) as refusal:
            decode_cursor(forged(value), parts=1)
        assert refusal.value.field == "cursor"

    def test_refuses_a_nest_without_end(self) -> None:
        nest = base64.urlsafe_b64encode(b"[" * 100_000).decode()
        with pytest.raises(InvalidRequest):
            decode_cursor(nest, parts=1)


class TestPageRows:
    def test_has_a_default_and_two_ends(self) -> None:
        assert page_rows(None) == PAGE_ROWS_DEFAULT
        assert page_rows("1") == 1
        assert page_rows(str(PAGE_ROWS_MAX)) == PAGE_ROWS_MAX

    @pytest.mark.parametrize("text", ["", "0", "-1", "+1", "501", "1.0", "ten", "²", "٣", "9" * 5000, " 5"])
    def test_refuses_anything_else(self, text: str) -> None:
        with pytest.raises(InvalidRequest) as refusal:
            page_rows(text)
        assert refusal.value.field == "limit"

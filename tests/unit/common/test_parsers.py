"""JSON in: exact numbers, and nothing that could mean two things."""

import contextlib
import io
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.common.errors import MalformedJson
from apps.common.json_text import NESTING_MAX
from apps.common.parsers import StrictJSONParser, strict_json

text = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
documents = st.recursive(
    st.none() | st.booleans() | st.integers(min_value=-(10**30), max_value=10**30) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=10,
)


class TestStrictJson:
    @given(documents, st.booleans())
    def test_reads_what_the_standard_writes(self, value: Any, ascii_only: bool) -> None:
        assert strict_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value

    @given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=2))
    def test_keeps_every_cent(self, amount: Decimal) -> None:
        read = strict_json(b'{"amount": %s}' % str(amount).encode())["amount"]
        assert isinstance(read, Decimal)
        assert str(read) == str(amount)

    def test_reads_whole_numbers_as_int(self) -> None:
        assert type(strict_json(b"[10]")[0]) is int

    @given(st.binary(max_size=60))
    def test_any_bytes_are_read_or_refused(self, raw: bytes) -> None:
        with contextlib.suppress(MalformedJson):
            strict_json(raw)

    @pytest.mark.parametrize(
        ("raw", "why"),
        [
            (b"", "line 1, column 1"),
            (b"{", "line 1, column 2"),
            (b'{"a": 1,}', "column"),
            (b"[1] 2", "Extra data"),
            (b'{"a": 1, "a": 2}', "twice"),
            (b'{"o": {"a": 1, "\\u0061": 2}}', "twice"),
            (b'{"a": NaN}', "NaN"),
            (b"[Infinity]", "Infinity"),
            (b"[-Infinity]", "-Infinity"),
            (b"1" * 41, "too long"),
            (b"0." + b"1" * 5000, "too long"),
            (b"[" + b"9" * 50_000 + b"]", "too long"),
            (b"[" * 60_000, "nested"),
            (b"[" * 500 + b"]" * 500, "nested"),
            (b'{"a":' * 33 + b"1" + b"}" * 33, "nested"),
            (b"\xff\xfe{}", "UTF-8"),
            (b'{"a": "\xc3\x28"}', "UTF-8"),
            ("{}".encode("utf-16"), "UTF-8"),
            (b"\xef\xbb\xbf{}", "BOM"),
            (b'["\\ud800"]', "surrogate"),
            (b'{"\\udfff": 1}', "surrogate"),
            (b'["\\u0000"]', "U\\+0000"),
            (b'["a\\\\\\u0000"]', "U\\+0000"),
            (b'["a\nb"]', "control character"),
        ],
    )
    def test_refuses_and_says_why(self, raw: bytes, why: str) -> None:
        with pytest.raises(MalformedJson, match=why):
            strict_json(raw)

    def test_knows_an_escaped_backslash_from_an_escape(self) -> None:
        assert strict_json(b'["\\\\u0000", "\\ud83d\\ude00"]') == ["\\u0000", "\U0001f600"]

    def test_goes_as_deep_as_its_limit(self) -> None:
        deep = strict_json(b"[" * NESTING_MAX + b"]" * NESTING_MAX)
        assert isinstance(deep, list)
        many = strict_json(b"[" + b"[]," * 1000 + b"[]]")
        assert len(many) == 1001

    def test_is_the_parser_of_the_api(self) -> None:
        assert StrictJSONParser().parse(io.BytesIO(b'{"a": 1.10}')) == {"a": Decimal("1.10")}

"""How values travel in arrays (written as text by us, read by PostgreSQL), and how one row comes back."""

from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.db import DataError, connection, transaction
from django.test.utils import CaptureQueriesContext

from apps.common import prepared
from apps.common.arrays import array_text
from apps.ledger.rows import fetch

ODD = [
    "",
    "NULL",
    "null",
    'say "hi"',
    "C:\\temp\\",
    '\\"',
    "a,b",
    "{}",
    " led ",
    "two\nlines",
    "tab\t",
    "São João",
    "🎟",
    "'",
    "%s",
]


@pytest.mark.django_db
class TestArray:
    @pytest.mark.parametrize(
        ("kind", "values"),
        [
            ("text", ODD),
            ("text", [None, "a", None]),
            ("text", [None]),
            ("bytea", [b"", b"\x00\xff\\\"'", bytes(range(256)), None]),
            ("uuid", [UUID("cd17b2f1-0dbc-48cf-bf33-7a0ffa779aeb"), None]),
            ("numeric", [Decimal("0.00"), Decimal("-12345678901234567.89"), Decimal("1E+2"), None]),
            ("date", [date(2026, 1, 31), None]),
            ("bool", [True, None, False]),
            ("int", [1, None, -1]),
            ("uuid", []),
        ],
        ids=str,
    )
    def test_reads_as_it_was_written(self, kind: str, values: list[Any]) -> None:
        ((read,),) = fetch(f"SELECT %s::{kind}[]", [array_text(values)])
        assert read == values


@pytest.mark.django_db
class TestFirstRow:
    def test_of_one_statement_and_of_the_next(self) -> None:
        assert prepared.first_row("SELECT %s::int, %s::text", [1, "a"]) == (1, "a")
        assert prepared.first_row("SELECT %s::int", [2]) == (2,)
        assert prepared.first_row("SELECT %s::int WHERE false", [3]) is None

    def test_after_a_statement_that_failed(self) -> None:
        with pytest.raises(DataError), transaction.atomic():
            prepared.first_row("SELECT 1 / %s::int, 'division by zero'", [0])
        assert prepared.first_row("SELECT %s::int", [4]) == (4,)

    def test_is_told_to_those_who_count_statements(self) -> None:
        with CaptureQueriesContext(connection) as captured:
            assert prepared.first_row("SELECT %s::int", [5]) == (5,)
        assert len(captured) == 1

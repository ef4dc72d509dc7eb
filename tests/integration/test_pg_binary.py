"""PostgreSQL's binary forms, as PostgreSQL itself reads them."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from django.db import connection

from apps.common import pg_binary, prepared
from apps.common.pg_binary import Layout

pytestmark = pytest.mark.django_db

CENTS = [0, 1, -1, 99, 100, -100, 9_999, 10_000, 123_456_789_01, 10**15 - 1, 2**61, -(2**61), 2**63 - 1, -(2**63) + 1]


def ask(sql: str, value: Any) -> list[Any]:
    pg_binary.register(connection.connection)
    return [row[0] for row in prepared.execute(sql, [value]).fetchall()]


@pytest.fixture(params=["as it is", "as text in the statement"])
def asked(request: pytest.FixtureRequest, db: None) -> Any:
    connection.ensure_connection()
    if request.param == "as it is":
        yield
    else:
        with connection.execute_wrapper(lambda execute, *given: execute(*given)):  # somebody counts: Django's own cursor
            yield


@pytest.mark.usefixtures("asked")
class TestArrays:
    def test_numbers(self) -> None:
        given = pg_binary.NumericArray(pg_binary.numerics(np.array(CENTS, np.int64)))
        found = ask("SELECT unnest(%s::numeric[])", given)
        assert [str(one) for one in found] == [str(Decimal(cents).scaleb(-2)) for cents in CENTS]

    def test_numbers_have_no_leading_zeros_left(self) -> None:
        given = pg_binary.NumericArray(pg_binary.numerics(np.array([7], np.int64)))
        assert ask("SELECT unnest(%s::numeric[]) * 1.00::numeric(4, 2)", given) == [Decimal("0.07")]

    def test_uuids(self) -> None:
        values = [uuid4(), UUID(int=0), UUID(int=2**128 - 1)]
        given = pg_binary.UuidArray(pg_binary.uuids(values))
        assert ask("SELECT unnest(%s::uuid[])", given) == values

    def test_empty_ones(self) -> None:
        assert ask("SELECT cardinality(%s::uuid[])", pg_binary.UuidArray(pg_binary.uuids([]))) == [0]
        numbers = pg_binary.NumericArray(pg_binary.numerics(np.array([], np.int64)))
        assert ask("SELECT cardinality(%s::numeric[])", numbers) == [0]


class TestCopy:
    def test_rows_arrive_as_they_were_meant(self) -> None:
        layout = Layout(
            {"id": pg_binary.UUID, "n": ">i4", "amount": pg_binary.NUMERIC, "at": ">i8", "day": ">i4", "ok": "?"}, others=2
        )
        first = UUID("01a20350-1094-721a-87f0-663bd50e7855")
        moment = datetime(1999, 12, 31, 23, 59, 59, 5, tzinfo=UTC)
        made = layout.rows(
            3,
            {
                "id": pg_binary.uuid_run(first.int, 3),
                "n": [1, -2, 3],
                "amount": pg_binary.numerics(np.array([1, -250, 0], np.int64)),
                "at": pg_binary.microseconds(moment),
                "day": date(2026, 11, 22).toordinal() - pg_binary.EPOCH,
                "ok": np.array([True, False, True]),
            },
        )
        raw, width = made.tobytes(), layout.dtype.itemsize
        ends = [pg_binary.sized("ç\t".encode()) + pg_binary.NULL for _ in range(3)]
        with connection.cursor() as cursor:
            cursor.execute(
                "CREATE TEMP TABLE t "
                "(id uuid, n int, amount numeric(15,2), at timestamptz, day date, ok bool, x text, y text)"
            )
            with cursor.copy(f"COPY t ({', '.join(layout.names)}, x, y) FROM STDIN (FORMAT BINARY)") as copy:
                rows = [raw[n * width : (n + 1) * width] + end for n, end in enumerate(ends)]
                copy.write(pg_binary.COPY_HEAD + b"".join(rows) + pg_binary.COPY_TAIL)
            cursor.execute("SELECT * FROM t ORDER BY id")
            found = cursor.fetchall()
            cursor.execute("DROP TABLE t")
        day = date(2026, 11, 22)
        assert found == [
            (UUID(int=first.int + n), number, Decimal(amount), moment, day, ok, "ç\t", None)
            for n, (number, amount, ok) in enumerate([(1, "0.01", True), (-2, "-2.50", False), (3, "0.00", True)])
        ]


class TestTexts:
    def test_numbers_with_two_places_become_cents(self) -> None:
        assert pg_binary.whole_numbers("0.00,-12.34,9999999999999999.99").tolist() == [0, -1234, 10**18 - 1]

    def test_too_large_ones_are_refused(self) -> None:
        with pytest.raises(OverflowError):
            pg_binary.whole_numbers("123456789012345678.00")

    def test_none_at_all_and_an_empty_one(self) -> None:
        assert pg_binary.whole_numbers(None).tolist() == []
        assert (list(pg_binary.texts(None)), list(pg_binary.texts("")), list(pg_binary.texts(",a"))) == (
            [],
            [""],
            ["", "a"],
        )

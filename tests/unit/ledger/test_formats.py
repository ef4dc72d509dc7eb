"""Whatever a stranger wrote into a description, a file can be read and calculates nothing."""

import csv
import io
import re
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lxml import etree

from apps.ledger.formats import FORMATS, Head
from apps.ledger.public import AccountRef, StatementLine

NOW = datetime(2026, 3, 18, 15, 0, tzinfo=UTC)
DAY = date(2026, 3, 18)
HEAD = Head(AccountRef("0001", "1"), DAY, DAY, Decimal(0), Decimal("1.00"), made_at=NOW)

# What the ledger keeps: up to 255 characters, no NUL, no half of a surrogate pair. Often what is dangerous.
descriptions = st.text(
    st.sampled_from("=+-@;,\t\r\n '\"|&<>]\x01\x1b\u2028é＝") | st.characters(exclude_characters="\x00", codec="utf-8"),
    max_size=30,
)


def written(kind: str, description: str) -> str:
    line = StatementLine(UUID(int=1), DAY, "C", Decimal("1.00"), 1, description, UUID(int=2), NOW, Decimal("1.00"))
    return "".join(FORMATS[kind].write(HEAD, [[line]]))


class TestCsv:
    @given(descriptions)
    @settings(max_examples=200, deadline=None)
    def test_is_read_back_and_no_cell_begins_a_formula(self, description: str) -> None:
        _, row = csv.reader(io.StringIO(written("csv", description), newline=""), strict=True)
        assert len(row) == 9
        assert not re.search(r"(^|[;\t\r\n])[^\S\r\n]*[=+\-@＝]", row[5])
        assert row[5].replace("'", "") == description.replace("'", "")

    @given(descriptions | st.text(st.sampled_from("=a+;,\t\r\n '\""), max_size=12))
    @settings(max_examples=400, deadline=None)
    @example(';"=1+1;')
    @example("\t=1")
    def test_begins_no_formula_where_lists_are_separated_otherwise(self, description: str) -> None:
        """A Brazilian spreadsheet splits at semicolons, others at tabs, and each reads the quotes in its own way."""
        for delimiter in ",;\t":
            for cells in csv.reader(io.StringIO(written("csv", description), newline=""), delimiter=delimiter):
                assert not [cell for cell in cells if cell.lstrip().startswith(("=", "+", "-", "@", "＝"))]


class TestOfx:
    @given(descriptions)
    @settings(max_examples=200, deadline=None)
    def test_is_xml_whatever_it_holds(self, description: str) -> None:
        memo = etree.fromstring(written("ofx", description).encode()).findtext(".//MEMO")
        assert memo
        assert len(memo) <= 255
        kept = [character for character in description if character.isalnum()]
        assert [character for character in memo if character.isalnum()] == kept or not kept

    @pytest.mark.parametrize(("year", "begin"), [(1, "00010101000000[-3:BRT]"), (1900, "19000101000000[-3:BRT]")])
    def test_of_a_period_from_the_beginning_has_times_of_fourteen_digits(self, year: int, begin: str) -> None:
        head = replace(HEAD, date_from=date(year, 1, 1))
        assert etree.fromstring("".join(FORMATS["ofx"].write(head, [])).encode()).findtext(".//DTSTART") == begin


class TestText:
    @given(descriptions)
    @settings(max_examples=100, deadline=None)
    def test_has_one_line_for_each_line(self, description: str) -> None:
        shown = written("text", description)
        assert len(shown.splitlines()) == 6
        assert all(character.isprintable() or character == "\n" for character in shown)

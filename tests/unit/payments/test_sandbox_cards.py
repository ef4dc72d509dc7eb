"""The published table of cards and the code agree."""

import re
from pathlib import Path

from stdnum import luhn

from apps.payments.brands import brand_of
from apps.payments.processor import sandbox

PAGE = Path(__file__).resolve().parents[3] / "docs" / "sandbox-cards.md"


def published() -> dict[str, str]:
    """The numbers of the table with the rest of their line."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return {re.sub(r"\s", "", number): line for line in lines for number in re.findall(r"`([0-9 ]{14,})`", line)}


class TestPublishedTable:
    def test_names_every_special_card_and_no_other(self) -> None:
        special = {(number[:6], number[-4:]) for number in published()} & set(sandbox._CARDS)
        assert special == set(sandbox._CARDS)
        assert len(published()) == len(sandbox._CARDS) + 4

    def test_its_numbers_are_valid_except_the_one_that_says_so(self) -> None:
        for number, line in published().items():
            assert luhn.is_valid(number) is ("Luhn" not in line)
            assert brand_of(number[:6]) is not None

    def test_names_the_codes_of_the_declines(self) -> None:
        for number, line in published().items():
            decline = sandbox.behaviour(number[:6], number[-4:]).decline
            assert decline is None or f"`{decline[0]}`" in line
            if sandbox.behaviour(number[:6], number[-4:]).refuses_refund:
                assert "`refund_refused`" in line

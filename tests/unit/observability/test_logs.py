"""No card number leaves the process by way of a log; ids that are made of digits do."""

import json
import logging
import random
import sys
import uuid

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from apps.observability import ids
from apps.observability.logs import JsonFormatter, MaskFilter, mask_cards

VISA = "4111111111111111"


def with_check_digit(digits: str) -> str:
    total = 0
    for index, character in enumerate(reversed(digits)):
        value = int(character) * (1 if index % 2 else 2)
        total += value - 9 if value > 9 else value
    return digits + str(-total % 10)


card_numbers = st.text("0123456789", min_size=12, max_size=18).map(with_check_digit)


@st.composite
def grouped(draw: st.DrawFn) -> tuple[str, str]:
    """A card number, and the same in groups of any size, with any of the usual separators."""
    number = draw(card_numbers)
    separator = draw(st.sampled_from([" ", "-", ".", "/", "\t", "\u00a0"]))
    cuts = draw(st.sets(st.integers(1, len(number) - 1)))
    parts = [number[a:b] for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), len(number)], strict=True)]
    return number, separator.join(parts)


def digits_of(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


class TestMask:
    @given(grouped())
    def test_hides_every_card_number_in_any_grouping(self, card: tuple[str, str]) -> None:
        number, shown = card
        masked = mask_cards(f"paid with {shown}, thanks")
        assert shown not in masked
        assert len(digits_of(masked)) < 13 or "****" in masked
        assert number[:-4] not in digits_of(masked)

    @given(
        grouped(),
        st.sampled_from(["{}", '{{"number":"{}"}}', "card={}", "card-{}", "x{}", "<{}>", "({})", "{}.", "a\n{}\nb"]),
    )
    def test_hides_it_wherever_it_stands(self, card: tuple[str, str], frame: str) -> None:
        assert card[1] not in mask_cards(frame.format(card[1]))

    @pytest.mark.parametrize(
        "line",
        [
            f"{VISA} 12/28 123",
            "4111 1111 1111 1111 12/28 123",
            f"10 {VISA}",
            f"amount 10.00 {VISA}",
            f"2026-11-21 {VISA}",
            f"{VISA} 5500005555555559",
            "4111-1111-1111-1111-123",
        ],
    )
    def test_hides_it_beside_other_numbers(self, line: str) -> None:
        assert "111111111111" not in digits_of(mask_cards(line))

    def test_leaves_the_last_four_to_recognise_it(self) -> None:
        assert mask_cards(f"card {VISA} refused") == "card ****1111 refused"
        assert mask_cards("card 4111 1111 1111 1111 refused") == "card ****1111 refused"

    @given(st.text("0123456789", min_size=44, max_size=44), st.sampled_from(["{}", "NFe{}", "key {} stored", "Id='{}'"]))
    @example("41" * 22, "{}")
    def test_shows_fiscal_access_keys(self, key: str, frame: str) -> None:
        assert mask_cards(frame.format(key)) == frame.format(key)

    @given(st.text("0123456789", min_size=44, max_size=44))
    def test_shows_fiscal_access_keys_in_groups_of_four(self, key: str) -> None:
        shown = " ".join(key[at : at + 4] for at in range(0, 44, 4))
        assert mask_cards(f"key {shown} stored") == f"key {shown} stored"

    def test_shows_the_head_of_a_chain(self) -> None:
        head = "845f998c10cd5d914e729fbc5f9106792539215612d510f87d7a82c33ca3a5bd"  # 16 of its digits pass Luhn's check
        assert mask_cards(f"the head is 1:{head}") == f"the head is 1:{head}"
        for other in (head[:-1], head + "0", f"x{head}"):
            assert "910679253921" not in mask_cards(other)

    @given(st.uuids() | st.text("0123456789", min_size=32, max_size=32).map(uuid.UUID))
    def test_shows_uuids(self, value: uuid.UUID) -> None:
        for line in (str(value), f"{value}:3:undo", f"run {value} done", value.hex, f"urn:uuid:{value}"):
            assert mask_cards(line) == line

    @given(st.text("0123456789", min_size=12, max_size=18).map(with_check_digit))
    def test_shows_numbers_that_are_no_card(self, number: str) -> None:
        wrong = number[:-1] + str((int(number[-1]) + 1) % 10)
        assert mask_cards(f"n {wrong}") == f"n {wrong}"

    @pytest.mark.parametrize(
        "line", ["10.50", "R$ 1000.00", "2026-11-21T12:31:00.123+00:00", "11.222.333/0001-81", "", "0001"]
    )
    def test_shows_what_a_log_is_full_of(self, line: str) -> None:
        assert mask_cards(line) == line

    @given(st.text("0123456789 -.a", max_size=80))
    def test_is_done_after_one_pass(self, text: str) -> None:
        assert mask_cards(mask_cards(text)) == mask_cards(text)

    def test_takes_a_long_line_in_linear_time(self) -> None:
        numbers = random.Random(7)
        line = " ".join(str(numbers.randrange(10**6)) for _ in range(20_000))
        assert mask_cards(line)


def record(message: str, *args: object, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("lastro.test", logging.INFO, __file__, 1, message, args, None)
    for name, value in more.items():
        setattr(made, name, value)
    return made


class TestJsonFormatter:
    def test_writes_one_object_a_line_with_the_bound_ids(self) -> None:
        with ids.bound(run_id="r1", request_id="q1"):
            line = JsonFormatter().format(record("paid %s\nand done", "10.50"))
        assert "\n" not in line
        read = json.loads(line)
        assert (read["level"], read["logger"], read["message"]) == ("INFO", "lastro.test", "paid 10.50\nand done")
        assert (read["run_id"], read["request_id"]) == ("r1", "q1")
        assert read["time"].endswith("+00:00")

    def test_masks_a_traceback_and_the_ids(self) -> None:
        try:
            raise ValueError(f"refused {VISA}")
        except ValueError:
            failed = record("failed", exc_info=sys.exc_info())
        with ids.bound(request_id=VISA):
            line = JsonFormatter().format(failed)
        assert VISA not in line
        assert "ValueError: refused ****1111" in json.loads(line)["exception"]

    def test_tells_a_traceback_once_whoever_writes_it(self) -> None:
        try:
            raise ValueError("refused")
        except ValueError:
            failed = record("failed", exc_info=sys.exc_info())
        told = json.loads(JsonFormatter().format(failed))["exception"]
        assert "^" not in told, "Python's marks cost most of the time"
        assert logging.Formatter().format(failed) == f"failed\n{told}"

    def test_says_that_there_was_no_error(self) -> None:
        line = JsonFormatter().format(record("nothing failed", exc_info=(None, None, None)))
        assert json.loads(line)["exception"] == "NoneType: None"

    def test_masks_what_arrives_in_arguments(self) -> None:
        arrived = record("card %s %s", "4111 1111", "1111 1111")
        assert MaskFilter().filter(arrived)
        assert JsonFormatter().format(arrived).count("****1111") == 1

    def test_writes_what_no_stream_could_write(self) -> None:
        line = JsonFormatter().format(record("odd %s", "\ud800"))
        assert b"odd " in line.encode()

    def test_a_wrong_call_of_the_logger_never_breaks_its_caller(self) -> None:
        wrong = record("%d tickets", "no")
        assert MaskFilter().filter(wrong)
        assert "%d tickets" in json.loads(JsonFormatter().format(wrong))["message"]

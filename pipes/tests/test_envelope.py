"""The envelope: read, written, and refused."""

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import pytest

from lastro_pipes import ids, logs
from lastro_pipes.envelope import decode, encode, error_headers, headers, plain
from lastro_pipes.errors import Code, Invalid

ID = UUID("01234567-89ab-7def-8123-456789abcdef")


@dataclass
class Part:
    amount: Decimal


class TestDecode:
    def test_a_message_without_an_id_has_the_one_that_follows_from_its_bytes(self) -> None:
        value = b'{"meta":{"global-id":"g"},"body":{}}'
        assert decode(value).message_id == decode(value).message_id == ids.of_bytes(value)
        assert decode(value + b" ").message_id != decode(value).message_id

    def test_takes_what_an_id_says(self) -> None:
        assert decode(json.dumps({"meta": {"global-id": "g", "message-id": str(ID)}, "body": 1}).encode()).message_id == ID

    @pytest.mark.parametrize("gid", [7, None, "", "x" * 201, ["g"]])
    def test_a_global_id_is_a_short_text(self, gid: object) -> None:
        with pytest.raises(Invalid) as refusal:
            decode(json.dumps({"meta": {"global-id": gid}, "body": 1}).encode())
        assert refusal.value.code is Code.BAD_META

    @pytest.mark.parametrize("value", [b"\xff", b"", b"1", b'{"meta":1,"body":1}', b'{"meta":{},"body":NaN}'])
    def test_what_is_no_envelope(self, value: bytes) -> None:
        with pytest.raises(Invalid) as refusal:
            decode(value)
        assert refusal.value.code is Code.UNREADABLE


class TestEncode:
    def test_writes_what_steps_like_to_return(self) -> None:
        body = {
            "amount": Decimal("10.10"),
            "hundred": Decimal("1E+2"),
            "id": ID,
            "at": datetime(2026, 1, 2, 3, tzinfo=UTC),
            "day": date(2026, 1, 2),
            "part": Part(Decimal("0.1")),
        }
        assert (
            json.loads(encode({}, body))["body"]
            == plain(body)
            == {
                "amount": "10.10",
                "hundred": "100",
                "id": str(ID),
                "at": "2026-01-02T03:00:00+00:00",
                "day": "2026-01-02",
                "part": {"amount": "0.1"},
            }
        )

    @pytest.mark.parametrize("body", [float("inf"), {1, 2}, object(), "\x00", "\ud800", b"x", "x" * 900_000])
    def test_refuses(self, body: object) -> None:
        with pytest.raises(Invalid):
            encode({}, body)

    def test_keeps_what_is_not_ascii(self) -> None:
        assert "São Paulo" in encode({}, "São Paulo")


class TestHeaders:
    def test_say_what_tools_want_to_see(self) -> None:
        meta = {"message-id": str(ID), "schema": "s.v1", "trace": "request-1", "global-id": "g"}
        assert headers(meta) == (("id", str(ID)), ("schema", "s.v1"), ("trace", "request-1"), ("global-id", "g"))

    def test_of_a_dead_letter_leave_out_what_is_not_known(self) -> None:
        found = error_headers({"reason": "r", "code": "", "attempts": 3, "partition": 0, "kind": "technical"})
        assert found == (("error-reason", "r"), ("error-attempts", "3"), ("error-partition", "0"))


class TestIds:
    def test_sort_by_time(self) -> None:
        made = [ids.uuid7() for _ in range(3)]
        assert {one.version for one in made} == {7}
        assert made[0].int >> 80 <= made[-1].int >> 80


class TestLogs:
    @pytest.mark.parametrize(
        ("text", "masked"),
        [
            ("card 4111 1111 1111 1111 refused", "card ****1111 refused"),
            ("card 4111-1111-1111-1111", "card ****1111"),
            ("order 1234567890123", "order 1234567890123"),
            ("gid 01a1fefe-4111-1111-1111-111111111111", "gid 01a1fefe-4111-1111-1111-111111111111"),
        ],
    )
    def test_hold_no_card_number(self, text: str, masked: str) -> None:
        assert logs.mask_cards(text) == masked

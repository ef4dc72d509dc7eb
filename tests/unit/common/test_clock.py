"""Ids that sort by time, and the business day."""

from datetime import UTC, date, datetime

import pytest

from apps.common import clock
from apps.common.clock import business_date, uuid7


class TestUuid7:
    def test_carries_version_seven_and_the_rfc_variant(self) -> None:
        for _ in range(1000):
            made = uuid7()
            assert made.version == 7
            assert made.variant == "specified in RFC 4122"

    def test_begins_with_the_unix_milliseconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(clock.time, "time_ns", lambda: 1_732_191_234_567_999_999)
        assert uuid7().int >> 80 == 1_732_191_234_567

    def test_sorts_by_time_as_value_and_as_text(self, monkeypatch: pytest.MonkeyPatch) -> None:
        moments = iter(range(10**18, 10**18 + 10**6, 1000))  # a thousand microseconds
        monkeypatch.setattr(clock.time, "time_ns", lambda: next(moments))
        made = [uuid7() for _ in range(1000)]
        assert made == sorted(made)
        assert [str(one) for one in made] == sorted(str(one) for one in made)

    def test_never_repeats_within_one_millisecond(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(clock.time, "time_ns", lambda: 10**18)
        assert len({uuid7() for _ in range(10_000)}) == 10_000


class TestBusinessDate:
    def test_is_the_day_in_sao_paulo(self) -> None:
        assert business_date(datetime(2026, 11, 21, 2, 59, 59, tzinfo=UTC)) == date(2026, 11, 20)
        assert business_date(datetime(2026, 11, 21, 3, 0, 0, tzinfo=UTC)) == date(2026, 11, 21)

"""The word for how an incident goes on."""

from datetime import UTC, datetime

import pytest

from apps.backoffice.components.trend import trend

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


class TestTrend:
    @pytest.mark.parametrize(
        ("counts", "word", "grows"),
        [
            ([0] * 20 + [1, 5, 15, 40], "growing, 4 a minute", True),
            ([10] * 24, "steady, 2 a minute", False),
            ([20] * 21 + [4, 3, 2], "slowing", False),
            ([0] * 23 + [1], "growing, 1 in a quarter of an hour", True),
            ([9] * 21 + [0, 0, 0], "ended 09:00:00", False),
            ([0] * 24, "ended 09:00:00", False),
        ],
    )
    def test_is_told_in_words(self, counts: list[int], word: str, grows: bool) -> None:
        from django.utils import timezone

        from apps.common.clock import BUSINESS_ZONE

        with timezone.override(BUSINESS_ZONE):
            found = trend(counts, last_seen=NOW, now=NOW)
        assert (found.word, found.grows) == (word, grows)

    def test_is_drawn_to_its_highest_bar(self) -> None:
        bars = trend([0, 5, 10], last_seen=NOW, now=NOW).bars
        assert [(bar.x, bar.height) for bar in bars] == [(0.0, 0.8), (5.0, 12.5), (10.0, 25.0)]
        assert all(bar.y + bar.height == 27.0 for bar in bars)

"""When a failed delivery is tried again."""

from datetime import timedelta
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from apps.webhooks import schedule

SEEDS = st.integers().map(Random)


class TestDelay:
    @settings(deadline=None)
    @given(SEEDS)
    def test_spreads_ten_attempts_over_three_days_and_gives_up(self, chance: Random) -> None:
        delays = [schedule.delay_after(tries, chance) for tries in range(1, schedule.TRIES_MAX + 1)]
        assert delays[-1] is None
        waited = sum((delay for delay in delays if delay), timedelta(0))
        assert timedelta(days=3) < waited < timedelta(days=4) <= schedule.DISABLED_AFTER
        assert all(delay for delay in delays[:-1])

    @settings(deadline=None)
    @given(st.integers(1, len(schedule.DELAYS)), SEEDS)
    def test_is_never_shorter_than_planned_and_never_much_longer(self, tries: int, chance: Random) -> None:
        delay = schedule.delay_after(tries, chance)
        assert delay is not None
        assert schedule.DELAYS[tries - 1] <= delay <= schedule.DELAYS[tries - 1] * (1 + schedule.JITTER)


class TestPause:
    @settings(deadline=None)
    @given(st.integers(0, 10**6), SEEDS)
    def test_begins_with_some_failures_in_a_row_and_has_an_end(self, failures: int, chance: Random) -> None:
        pause = schedule.pause_after(failures, chance)
        if failures < schedule.FAILURES_MAX:
            assert pause is None
        else:
            assert pause is not None
            assert schedule.PAUSE_MIN <= pause <= schedule.PAUSE_MAX * (1 + schedule.JITTER)

"""How long a step waits before it is tried again."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from apps.saga.budgets import backoff
from apps.saga.definition import LocalStep


class TestBackoff:
    @given(st.integers(1, 10_000))
    def test_doubles_up_to_its_maximum_plus_a_quarter(self, attempts: int) -> None:
        step = LocalStep()
        plain = min(step.retry_delay * 2 ** min(attempts - 1, 20), step.retry_delay_max)
        assert plain <= backoff(step, attempts) <= plain * 1.25

    @given(st.integers(1, 100))
    def test_differs_between_runs_that_failed_together(self, attempts: int) -> None:
        assert len({backoff(LocalStep(), attempts) for _ in range(20)}) > 1

    def test_begins_with_the_steps_own_delay(self) -> None:
        assert timedelta(seconds=1) <= backoff(LocalStep(), 1) <= timedelta(seconds=1.25)

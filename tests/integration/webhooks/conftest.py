"""Every test's merchants have servers of their own."""

from collections.abc import Iterator

import pytest

from tests.integration.webhooks.receiver import Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture(autouse=True)
def _nobody_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests send by themselves: losing every wake-up must lose nothing."""
    monkeypatch.setattr("apps.webhooks.wakeup._ask", lambda _endpoints: None)

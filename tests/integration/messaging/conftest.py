"""A broker on a script, and readers that are forgotten after the test."""

from collections.abc import Callable, Iterator

import pytest

from tests.integration.messaging.world import BackgroundTransport, Reader, ScriptedTransport


@pytest.fixture(params=[ScriptedTransport, BackgroundTransport])
def broker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ScriptedTransport:
    """The relay's broker, scripted: with a client that makes its caller wait, and with one that does not."""
    made: ScriptedTransport = request.param()
    monkeypatch.setattr("apps.messaging.relay.transport", lambda: made)
    return made


@pytest.fixture
def reader() -> Iterator[Callable[[str], Reader]]:
    """Make readers for groups."""
    made: list[Reader] = []

    def make(group: str) -> Reader:
        made.append(Reader(group))
        return made[-1]

    yield make
    for one in made:
        one.close()

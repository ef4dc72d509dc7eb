"""A flow starts from the demo's shop, with the sandbox authority running over mutual TLS."""

from collections.abc import Iterator

import pytest

from apps.fiscal_docs.public import RunningSandbox, start_sandbox
from config import demo
from tests import shop


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    running = start_sandbox(announce=False)
    yield running
    running.stop()


@pytest.fixture
def opened(transactional_db: None, authority: RunningSandbox, settings: object) -> demo.Demo:
    return shop.open_shop()

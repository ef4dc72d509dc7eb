"""A flow starts from the demo's shop, with the sandbox authority running over mutual TLS."""

from collections.abc import Iterator

import pytest

from apps.fiscal_docs.public import RunningSandbox
from config import demo
from tests import shop
from tests.saga_driver import server_world


@pytest.fixture
def opened(transactional_db: None, running_sandbox: RunningSandbox) -> demo.Demo:
    return shop.open_shop()


@pytest.fixture(autouse=True)
def own_topics() -> Iterator[None]:
    """On a real broker each test has topics of its own; on the local transport this does nothing."""
    with server_world():
        yield

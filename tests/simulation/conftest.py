"""A simulation starts from the demo's shop, with the sandbox authority running over mutual TLS."""

import pytest

from apps.fiscal_docs.public import RunningSandbox
from config import demo
from tests import shop


@pytest.fixture
def opened(transactional_db: None, running_sandbox: RunningSandbox) -> demo.Demo:
    return shop.open_shop()

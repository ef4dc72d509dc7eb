"""The SDK in pipes/ beside our own post office: what the one writes the other reads. Its own tests are in pipes/tests."""

import os
import sys
from pathlib import Path

import pytest

PIPES = Path(__file__).resolve().parent.parent.parent / "pipes"
if str(PIPES) not in sys.path:
    sys.path.append(str(PIPES))  # at the end: its tests are called tests too

NEEDS = {"kafka": "KAFKA_BOOTSTRAP_SERVERS", "rabbitmq": "RABBITMQ_URL"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whatever ``-m`` says: without the server there is nothing to run."""
    absent = [marker for marker, name in NEEDS.items() if not os.environ.get(name)]
    ours = [item for item in items if "tests/pipes" in str(item.path)]
    out = {item for item in ours if any(item.get_closest_marker(marker) for marker in absent)}
    if out:
        config.hook.pytest_deselected(items=list(out))
        items[:] = [item for item in items if item not in out]

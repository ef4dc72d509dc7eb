"""A failure starts from a deployment of many processes, on PostgreSQL alone or on the servers of MESSAGING_TRANSPORT."""

import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from pytest_django import DjangoDbBlocker

from tests.deployment import Deployment

Tell = Callable[[str, object], None]


def mode() -> str:
    """Which transport the deployment runs on; the tests that take minutes run only where it is said."""
    return os.environ.get("MESSAGING_TRANSPORT", "")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, visibly, what this mode cannot show, and what takes long unless a mode was asked for."""
    out = [item for item in items if _is_out(item)]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in set(out)]


def _is_out(item: pytest.Item) -> bool:
    if item.get_closest_marker("distributed") and not mode():
        return True
    if wanted := item.get_closest_marker("on_servers"):
        return mode() not in (wanted.args or ("kafka", "rabbitmq"))
    return False


class Deployments:
    """One for all tests: each says with ``scale`` which processes it wants, and has keys and orders of its own."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._made: Deployment | None = None

    def get(self) -> Deployment:
        """The one that runs, or a new one."""
        if self._made is None:
            # Not in pytest's own folder: PostgreSQL's user may not enter that one.
            self._folder = tempfile.TemporaryDirectory(prefix="lastro-deployment-", ignore_cleanup_errors=True)
            self._made = Deployment(Path(self._folder.name), mode() or "local")
        return self._made

    def rest(self) -> None:
        """Stop its processes until a test wants some: those that have nothing to do ask the database all the time."""
        if self._made is not None:
            self._made.scale()

    def end(self) -> None:
        """Stop it. After a test that failed too: what it left behind is nobody else's trouble."""
        if self._made is not None and self._folder is not None:
            self._made.close()
            self._folder.cleanup()
            self._made = self._folder = None


@pytest.fixture(scope="session")
def deployments() -> Iterator[Deployments]:
    made = Deployments()
    yield made
    made.end()


@pytest.fixture
def deployed(
    deployments: Deployments, django_db_blocker: DjangoDbBlocker, request: pytest.FixtureRequest
) -> Iterator[Deployment]:
    """The deployment, whose database this process's models and verbs see."""
    failed = request.session.testsfailed
    deployment = deployments.get()
    with django_db_blocker.unblock(), deployment.database():
        yield deployment
    if request.session.testsfailed > failed:
        deployments.end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """Behind the last of a group of tests that have it, the deployment rests."""
    deployments = getattr(item, "funcargs", {}).get("deployments")
    yield
    if deployments is not None and "deployed" not in getattr(nextitem, "fixturenames", ()):
        deployments.rest()


@pytest.fixture
def tell(record_property: Tell) -> Tell:
    """Say something in the summary, also when all is well."""
    return record_property


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the processes said."""
    report = yield
    deployment = getattr(item, "funcargs", {}).get("deployed")
    if report.failed and report.when == "call" and isinstance(deployment, Deployment):
        report.sections.append(("processes", deployment.tails()))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests told."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid.split('::', 1)[1]}: {name}: {value}")

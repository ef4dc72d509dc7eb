"""Celery's settings, without a broker: routes, limits, errbacks, and wake-ups that may come at any time and twice."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, Task
from celery.utils.functional import arity_greater
from django.test.utils import override_settings

from apps.saga.definition import CallStep, registered
from config.celery import app as project
from config.celery_settings import QUEUES
from tests.brokers.celery_world import sender

APPS = Path(__file__).resolve().parents[2] / "apps"


@pytest.fixture(scope="module", autouse=True)
def tasks() -> dict[str, Task]:
    """Our tasks, by name."""
    project.loader.import_default_modules()
    return {name: task for name, task in project.tasks.items() if task.__module__.startswith("apps.")}


class _At:
    ca_file = ""

    def __init__(self, url: str) -> None:
        self.url = url

    def waiting(self, queue: str) -> int:
        raise NotImplementedError

    taken = waiting


def configured(url: str) -> Celery:
    with override_settings(CELERY_BROKER_URL=url):
        return sender(_At(url))


class TestRoutes:
    def test_every_task_goes_to_the_queue_of_its_app(self, tasks: dict[str, Task]) -> None:
        for name in tasks:
            route = project.amqp.router.route({}, name)
            assert route["queue"].name == name.split(".")[0]

    def test_every_queue_is_declared_and_no_other_can_be_read(self) -> None:
        assert set(project.amqp.queues) == set(QUEUES)
        with pytest.raises(KeyError):
            project.amqp.queues["ledgr"]


class TestLimits:
    def test_a_task_may_take_longer_than_any_call_of_a_step_and_redis_waits_longer_than_any_task(self) -> None:
        app = configured("redis://:x@127.0.0.1:1/0")
        steps = [step for definition in registered() for step in definition.steps]
        leases = [step.lease.total_seconds() for step in steps if isinstance(step, CallStep)]
        assert max(leases) < app.conf.task_time_limit
        assert app.conf.task_time_limit < app.conf.broker_transport_options["visibility_timeout"]

    def test_a_lost_process_is_answered_by_few_and_quick_retries(self, tasks: dict[str, Task]) -> None:
        assert {task.max_retries for task in tasks.values()} == {2}
        assert {task.default_retry_delay for task in tasks.values()} == {2}

    def test_the_stop_of_a_worker_fits_into_ten_seconds(self) -> None:
        from config.celery_settings import WARM_STOP_S

        assert WARM_STOP_S + project.conf.worker_soft_shutdown_timeout < 10

    def test_amqps_verifies_the_name_in_the_certificate(self) -> None:
        assert configured("amqps://a:b@rabbit.example/v").conf.broker_use_ssl["server_hostname"] == "rabbit.example"


class TestErrbacks:
    """Unbound with two or more parameters, an errback runs inside the failing process, once, and nobody hears of it."""

    @staticmethod
    def found() -> Iterator[tuple[Path, ast.expr]]:
        for path in sorted(APPS.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                if isinstance(node.func, ast.Attribute) and node.func.attr == "on_error":
                    yield from ((path, argument) for argument in node.args)
                yield from ((path, word.value) for word in node.keywords if word.arg == "link_error")

    @staticmethod
    def task_of(path: Path, signature: ast.expr) -> Any:
        """``tasks.<name>.si(…)`` in a file of apps/<app>/."""
        assert isinstance(signature, ast.Call), ast.unparse(signature)
        function = signature.func
        assert isinstance(function, ast.Attribute)
        assert function.attr == "si", f"{ast.unparse(signature)}: .s() would put the failed task's id before its arguments"
        assert isinstance(function.value, ast.Attribute)
        module = importlib.import_module(f"apps.{path.relative_to(APPS).parts[0]}.tasks")
        return project.tasks[getattr(module, function.value.attr).name]

    def test_all_are_bound_tasks_which_celery_sends_as_tasks(self) -> None:
        errbacks = [self.task_of(path, signature) for path, signature in self.found()]
        assert errbacks, "the sagas have one at least"
        for errback in errbacks:
            assert not isinstance(inspect.getattr_static(type(errback), "run"), staticmethod), f"{errback.name} is unbound"
            # What celery.backends.base asks before it calls an errback by itself.
            header = errback.__header__
            assert isinstance(header, partial) or not arity_greater(header, 1), f"{errback.name} would be called in place"


class TestWakeUps:
    def test_nothing_hangs_on_a_message_that_is_sent_after_the_commit_only(self) -> None:
        """delay_on_commit is lost with the process; a run's row is due in the database in the same commit."""
        used = [
            path for path in APPS.rglob("*.py") if "_on_commit(" in path.read_text().replace("transaction.on_commit(", "")
        ]
        assert [path for path in used if "delay_on_commit" in path.read_text()] == []

    def test_every_wake_up_of_beat_is_a_task_of_ours_and_expires(self, tasks: dict[str, Task]) -> None:
        for entry in project.conf.beat_schedule.values():
            assert entry["task"] in tasks
            assert entry["options"]["expires"] > 0

    @pytest.mark.django_db(transaction=True)
    def test_every_wake_up_of_beat_may_come_twice(self, tasks: dict[str, Task]) -> None:
        for entry in project.conf.beat_schedule.values():
            for _ in range(2):
                tasks[entry["task"]]()

"""Celery on Redis, with a password and over TLS."""

import json
import os
import urllib.request
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import redis
from django.db import connection
from django.test.utils import override_settings

from config import celery_broker
from config.services.certificates import Certificates
from config.services.daemon import free_ports, is_free
from tests.brokers import celery_tasks
from tests.brokers.celery_tasks import lines
from tests.brokers.celery_world import (
    START_S_MAX,
    CeleryContract,
    CeleryProcess,
    notes,
    sender,
    told,
    worker,
)
from tests.brokers.world import eventually
from tests.integration.messaging.world import TOPIC, post
from tests.process import database_url

pytestmark = [pytest.mark.redis, pytest.mark.xdist_group("celery-redis"), pytest.mark.timeout(600)]

DATABASE = 7  # of the server's sixteen: these tests' own


class RedisBroker:
    """A database of the server of REDIS_TLS_URL."""

    def __init__(self, url: str) -> None:
        self.url = f"{url.rsplit('/', 1)[0]}/{DATABASE}"
        self.ca_file = os.environ["SERVICES_CA_FILE"]
        self.client = redis.Redis.from_url(self.url, ssl_ca_certs=self.ca_file, decode_responses=True)

    def waiting(self, queue: str) -> int:
        return int(self.client.llen(queue))

    def taken(self, queue: str) -> int:
        kept = [json.loads(value) for value in self.client.hvals("unacked")]
        return sum(1 for _, _, routing_key in kept if routing_key == queue)


@pytest.fixture
def broker() -> Iterator[RedisBroker]:
    made = RedisBroker(os.environ["REDIS_TLS_URL"])
    made.client.flushdb()
    yield made
    made.client.flushdb()
    made.client.close()


def changed(url: str, *, user: str = "", password: str | None = None, scheme: str | None = None) -> str:
    parts = urlsplit(url)
    secret = parts.password if password is None else password
    return parts._replace(netloc=f"{user}:{secret}@{parts.hostname}:{parts.port}", scheme=scheme or parts.scheme).geturl()


def _listeners(pid: int, ports: Collection[int]) -> set[int]:
    """The processes of a worker that serve one of these ports."""
    parent = psutil.Process(pid)
    return {
        each.pid
        for each in [parent, *parent.children(recursive=True)]
        for found in each.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN and found.laddr.port in ports
    }


def _metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


class TestCeleryOnRedis(CeleryContract):
    def test_no_result_is_kept(self, broker: RedisBroker, tmp_path: Path) -> None:
        app = sender(broker)
        app.tasks[celery_tasks.write.name].apply_async(("a",))
        with worker(broker, tmp_path):
            eventually(lambda: told(tmp_path, "ran", "a") == 1, what="the task")
            eventually(lambda: broker.taken("ledger") == 0, what="its acknowledgement")
        assert [key for key in broker.client.scan_iter() if not key.startswith(("_kombu.", "unacked"))] == []

    def test_no_message_outlives_an_hour(self, broker: RedisBroker) -> None:
        app = sender(broker)
        app.tasks[celery_tasks.write.name].apply_async(("a",))
        (message,) = broker.client.lrange("ledger", 0, -1)
        expires = datetime.fromisoformat(json.loads(message)["headers"]["expires"])
        assert 3500 < (expires - datetime.now(UTC)).total_seconds() <= 3600

    def test_what_was_taken_comes_again_only_after_the_longest_task(self, broker: RedisBroker) -> None:
        app = sender(broker)
        with app.connection_for_write() as connection:
            assert connection.default_channel.visibility_timeout > app.conf.task_time_limit


@pytest.mark.django_db(transaction=True)
class TestDatabaseConnections:
    @pytest.mark.parametrize("pool", ["0", "24"])
    def test_a_process_has_one_and_a_broken_one_is_replaced(self, broker: RedisBroker, tmp_path: Path, pool: str) -> None:
        app = sender(broker)
        tell = app.tasks[celery_tasks.tell_connection.name]
        with worker(broker, tmp_path, DATABASE_URL=database_url(), DATABASE_POOL_MAX=pool):
            for name in ("a", "b"):
                tell.apply_async((name,))
                eventually(lambda name=name: name in self.backends(tmp_path), what=name)
            assert len(self.connections()) <= 1
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", [self.connections()])
            tell.apply_async(("c",))
            eventually(lambda: "c" in self.backends(tmp_path), what="the task after the break")
        found = self.backends(tmp_path)
        assert found["c"] != found["b"]
        assert pool != "0" or found["a"] == found["b"], "without a pool a process keeps its connection"

    @pytest.mark.parametrize("pool", ["prefork", "threads"])
    def test_a_worker_that_relays_tells_what_it_relays(self, broker: RedisBroker, tmp_path: Path, pool: str) -> None:
        """Each process has a port: of a prefork worker one for each child, in their order."""
        port = next(each for each in free_ports(50) if is_free(each + 1))
        outbox = {"DATABASE_URL": database_url(), "MESSAGING_TRANSPORT": "local"}
        ports = [port, port + 1] if pool == "prefork" else [port]
        options = ["--metrics-port", str(port)]
        with worker(broker, tmp_path, *options, queues="messaging", pool=pool, processes=2, **outbox) as running:
            # A worker says that it is ready as soon as its children were made: they may still be on their way.
            eventually(lambda: len(_listeners(running.process.pid, ports)) == len(ports), what="a port of each process")
            assert all("process_resident_memory_bytes" in _metrics(each) for each in ports)
            post(1)
            sender(broker).send_task("messaging.relay")
            told = f'lastro_relay_messages_total{{outcome="acknowledged",topic="{TOPIC}"}} 1.0'
            eventually(lambda: any(told in _metrics(each) for each in ports), what="what was relayed")
            if pool == "threads":
                second = CeleryProcess(broker, tmp_path, "worker", "-P", pool, "-Q", "messaging", *options)
                assert second.process.wait(START_S_MAX) == 1
                assert f"The metrics cannot be served on 127.0.0.1:{port}" in second.log.read_text()
            assert running.process.poll() is None

    def test_threads_share_a_pool(self, broker: RedisBroker, tmp_path: Path) -> None:
        """A worker with threads was taken for one with children: each of its threads kept a connection of its own."""
        app = sender(broker)
        with worker(broker, tmp_path, pool="threads", processes=4, DATABASE_URL=database_url(), DATABASE_POOL_MAX="1"):
            for number in range(12):
                app.tasks[celery_tasks.tell_connection.name].apply_async((str(number),))
            eventually(lambda: len(self.backends(tmp_path)) == 12, what="all tasks")
        assert len(set(self.backends(tmp_path).values())) == 1

    @staticmethod
    def backends(folder: Path) -> dict[str, str]:
        return {name: word for word, name, _ in lines(notes(folder))}

    @staticmethod
    def connections() -> list[int]:
        with connection.cursor() as cursor:
            cursor.execute(
                # The server's own vacuum may be at work here, too.
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
                "AND backend_type = 'client backend'"
            )
            return [pid for (pid,) in cursor.fetchall()]


class TestRefusals:
    def refusal(self, url: str, ca_file: str = "") -> str:
        with override_settings(CELERY_BROKER_URL=url, CELERY_BROKER_CA_FILE=ca_file):
            return celery_broker.refusal(sender(_At(url, ca_file)))

    def test_the_right_login_over_tls_is_taken(self, broker: RedisBroker) -> None:
        assert self.refusal(broker.url, broker.ca_file) == ""

    def test_a_wrong_password_and_an_unknown_user(self, broker: RedisBroker) -> None:
        said = self.refusal(changed(broker.url, password="wrong-and-secret"), broker.ca_file)
        assert "refuses the password. Check user, password" in said
        assert "CELERY_BROKER_URL" in said
        assert "wrong-and-secret" not in said
        assert "refuses the login of 'bob'" in self.refusal(changed(broker.url, user="bob"), broker.ca_file)

    def test_a_certificate_of_an_authority_that_we_do_not_trust(self, broker: RedisBroker, tmp_path: Path) -> None:
        foreign = str(Certificates(tmp_path).make().authority)
        for ca_file in (foreign, ""):
            said = self.refusal(broker.url, ca_file)
            assert "is not trusted. Set CELERY_BROKER_CA_FILE" in said

    def test_an_authority_file_that_is_none(self, broker: RedisBroker, tmp_path: Path) -> None:
        empty = tmp_path / "empty.pem"
        empty.touch()
        for ca_file in (str(tmp_path / "missing.pem"), str(empty)):
            assert f"CELERY_BROKER_CA_FILE is {ca_file!r}" in self.refusal(broker.url, ca_file)

    def test_a_database_that_there_is_not(self, broker: RedisBroker) -> None:
        assert "has no database /99" in self.refusal(broker.url.rsplit("/", 1)[0] + "/99", broker.ca_file)

    def test_a_server_that_is_away_is_no_refusal(self) -> None:
        assert self.refusal("redis://:x@127.0.0.1:1/0") == ""

    @pytest.mark.parametrize("words", [["worker", "-P", "solo"], ["beat"]])
    def test_a_process_ends_with_the_sentence(self, broker: RedisBroker, tmp_path: Path, words: list[str]) -> None:
        wrong = _At(changed(broker.url, password="wrong"), broker.ca_file)
        process = CeleryProcess(wrong, tmp_path, *words).process
        assert process.wait(START_S_MAX) == 1
        text = "".join(path.read_text() for path in tmp_path.glob("*.log"))
        assert "refuses the password. Check user, password and virtual host in CELERY_BROKER_URL." in text
        assert "Traceback" not in text


class _At:
    """An address, for those who only connect."""

    def __init__(self, url: str, ca_file: str) -> None:
        self.url, self.ca_file = url, ca_file

    def waiting(self, queue: str) -> int:
        raise NotImplementedError

    def taken(self, queue: str) -> int:
        raise NotImplementedError


class TestBeat:
    def test_two_beats_send_the_same_wake_ups_and_one_goes_on_when_the_other_is_killed(
        self, broker: RedisBroker, tmp_path: Path
    ) -> None:
        first, second = (CeleryProcess(broker, tmp_path, "beat") for _ in range(2))
        try:
            eventually(lambda: broker.waiting("saga") >= 4 and broker.waiting("messaging") >= 4, what="wake-ups")
            first.kill()
            broker.client.delete("saga")
            eventually(lambda: "saga.sweep" in self.tasks(broker), what="wake-ups of the other beat")
        finally:
            first.kill()
            second.kill()
        assert all(self.tasks(broker).values()), "a periodic task that comes late is worth nothing"

    @staticmethod
    def tasks(broker: RedisBroker) -> dict[str, str]:
        """What waits in the sagas' queue, and until when it is worth something."""
        headers = [json.loads(message)["headers"] for message in broker.client.lrange("saga", 0, -1)]
        return {header["task"]: header["expires"] for header in headers}

"""The command: its answers, its sentences, its exit codes."""

import json
import os
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastro_pipes import cli, process, transports
from lastro_pipes.health import SILENT_S_MAX, health, serve
from lastro_pipes.settings import from_environment
from lastro_pipes.worker import Status
from tests.chain import _clean
from tests.world import settings

ROOT = Path(__file__).resolve().parent.parent
TARGET = "tests.chain_steps:First"


def pipes(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "lastro_pipes", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore", **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


class TestWithoutBroker:
    @pytest.fixture(autouse=True)
    def _nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in os.environ if name.startswith(("PIPES_", "KAFKA_", "RABBITMQ_", "MESSAGING_"))]:
            monkeypatch.delenv(name)

    def test_says_which_settings_are_missing(self) -> None:
        done = pipes("check")
        assert done.returncode == 2
        assert "PIPES_SERVICE" in done.stderr
        assert "PIPES_KAFKA_BOOTSTRAP_SERVERS" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(("target", "words"), [("nonsense", "module:Class"), ("no.module:X", "cannot be imported")])
    def test_says_what_is_wrong_with_the_class(self, target: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["run", target]) == 2
        assert words in capsys.readouterr().err

    def test_says_that_nobody_answers(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setenv("PIPES_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
        assert cli.main(["check", TARGET]) == 1
        assert "does not answer" in capsys.readouterr().err

    def test_refuses_a_body_that_is_no_json(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["start", "--steps", "a.b.c", "--body", "{"]) == 2
        assert "--body" in capsys.readouterr().err


class CommandContract:
    broker = ""

    @pytest.fixture
    def environment(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, str]]:
        values = {
            "PIPES_BROKER": self.broker,
            "PIPES_PREFIX": f"t{secrets.token_hex(4)}.",
            "PIPES_PARTITIONS": "2",
            "PIPES_STORE": f"sqlite:///{tmp_path}/store.sqlite3",
        }
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        yield values
        made = from_environment(os.environ, service="shop.test.first")
        transport = transports.make(made)
        try:
            _clean(transport, made, [topic.name for topic in process.topics_of(made)])
        except Exception as error:
            assert "UnknownTopic" in repr(error)  # noqa: PT017  # none was made
        transport.close()

    def test_from_nothing_to_a_saga_on_its_way(
        self, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["check", TARGET]) == 2
        assert "pipes topics --apply" in capsys.readouterr().err
        assert cli.main(["topics", TARGET]) == 1
        assert capsys.readouterr().out.count("missing") == 4
        assert cli.main(["topics", "--apply", TARGET]) == 0
        capsys.readouterr()
        assert cli.main(["topics", TARGET]) == 0
        assert cli.main(["check", TARGET]) == 0
        said = capsys.readouterr().out
        assert "reachable" in said
        assert "A file is for one node" in said
        begin = ["start", "--steps", "shop.test.first", "--body", '{"n": 1}', "--use-case", "shop.buy"]
        assert cli.main(begin) == 0
        sent = json.loads(capsys.readouterr().out)
        assert (sent["topic"], sent["meta"]["use-case"]) == ("shop.test.first.in", "shop.buy")
        undo = ["compensate", "--steps", "shop.test.first", "--global-id", sent["key"], "--reason", "a test"]
        assert cli.main(undo) == 0
        assert json.loads(capsys.readouterr().out)["meta"]["seek-end"] is True
        assert cli.main(["lag", TARGET]) == 0
        assert json.loads(capsys.readouterr().out)["lag"] == 2

    def test_run_refuses_to_start_without_its_topics(self, environment: dict[str, str]) -> None:
        done = pipes("run", TARGET)
        assert done.returncode == 2
        assert "pipes topics --apply" in done.stderr


@pytest.mark.kafka
@pytest.mark.xdist_group("pipes-kafka")
class TestKafka(CommandContract):
    broker = "kafka"


@pytest.mark.rabbitmq
@pytest.mark.xdist_group("pipes-rabbitmq")
class TestRabbitMQ(CommandContract):
    broker = "rabbitmq"


class TestHealth:
    def test_answers_over_http(self) -> None:
        status = Status()
        status.count("DONE")
        server = serve(status, settings(PIPES_HEALTH_PORT="0"))
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/health", timeout=60) as answer:
                found = json.load(answer)
            assert (found["status"], found["outcomes"]) == ("ok", {"DONE": 1})
            status.polled_at = 1e-9  # so long ago as this machine runs
            if health(status, settings())[1]["seconds_since_poll"] > SILENT_S_MAX:
                with pytest.raises(urllib.error.HTTPError) as refusal:
                    urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/health", timeout=10)
                assert refusal.value.code == 503
                refusal.value.close()
        finally:
            server.shutdown()
            server.server_close()

    def test_a_broker_that_is_away_is_no_reason_to_be_restarted(self) -> None:
        is_well, found = health(Status(trouble="Kafka does not answer"), settings())
        assert is_well
        assert found["status"] == "waiting"

"""The registry's client against a server on a script: what a real registry says only on its bad days."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test.utils import override_settings

from apps.common.transactions import TransactionMisuse
from apps.messaging import wire
from apps.messaging.contracts import releases
from apps.messaging.contracts.base import InvalidMessage
from apps.messaging.transports import registry as registries
from apps.messaging.transports.base import TransportDown
from apps.messaging.transports.registry import COMPATIBILITY, Registry
from tests.integration.test_settings import start

SCHEMA = '{"type":"string"}'
NO_SUBJECT = (404, {"error_code": 40401, "message": "Subject not found."})
NO_SCHEMA = (404, {"error_code": 40403, "message": "Schema not found."})
INCOMPATIBLE = (409, {"error_code": 409, "message": "text was text"})


class Script(ThreadingHTTPServer):
    """A registry that answers as it is told, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []
        self.sent: list[Any] = []
        self.headers: dict[str, str] = {}
        self.stuck = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api"

    def end(self) -> None:
        self.stuck.set()
        self.shutdown()
        self.server_close()
        self._thread.join(60)


class _Handler(BaseHTTPRequestHandler):
    server: Script

    def _answer(self) -> None:
        asked = f"{self.command} {self.path}"
        self.server.asked.append(asked)
        self.server.headers = dict(self.headers)
        length = int(self.headers.get("Content-Length") or 0)
        self.server.sent.append(json.loads(self.rfile.read(length)) if length else None)
        status, body = self.server.answers[asked]
        if status == 0:
            self.server.stuck.wait(20)
            return
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""


@pytest.fixture
def script() -> Iterator[Script]:
    made = Script()
    yield made
    made.end()


@pytest.fixture
def registry(script: Script) -> Registry:
    return Registry(f"{script.url}/", username="lastro", password="pass:word")


LOOK, REGISTER, CONFIGURE = (
    "POST /api/subjects/a%2Fb-value",
    "POST /api/subjects/a%2Fb-value/versions",
    "PUT /api/config/a%2Fb-value",
)


class TestIds:
    def test_are_asked_for_once(self, script: Script, registry: Registry) -> None:
        script.answers[LOOK] = (200, {"id": 7})
        assert [registry.id_of("a/b-value", SCHEMA) for _ in range(3)] == [7, 7, 7]
        assert script.asked == [LOOK], "a login that may only read will do"
        assert script.sent == [{"schema": SCHEMA}]

    def test_are_asked_for_once_by_many_threads(self, script: Script, registry: Registry) -> None:
        script.answers[LOOK] = (200, {"id": 7})
        found: list[int] = []
        threads = [threading.Thread(target=lambda: found.append(registry.id_of("a/b-value", SCHEMA))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == [7] * 8
        assert script.asked == [LOOK]

    def test_of_a_new_subject_come_with_its_compatibility(self, script: Script, registry: Registry) -> None:
        script.answers |= {LOOK: NO_SUBJECT, CONFIGURE: (200, {"compatibility": "x"}), REGISTER: (200, {"id": 8})}
        assert registry.id_of("a/b-value", SCHEMA) == 8
        assert script.asked == [LOOK, CONFIGURE, REGISTER]
        assert script.sent[1] == {"compatibility": COMPATIBILITY}

    def test_of_a_known_subject_leave_its_compatibility_to_its_operator(self, script: Script, registry: Registry) -> None:
        script.answers |= {LOOK: NO_SCHEMA, REGISTER: (200, {"id": 9})}
        assert registry.id_of("a/b-value", SCHEMA) == 9
        assert script.asked == [LOOK, REGISTER]

    def test_are_forgotten_together_when_there_are_too_many(
        self, script: Script, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(registries, "REMEMBERED_MAX", 2)
        script.answers[LOOK] = (200, {"id": 7})
        for schema in ("1", "2", "3", "1"):
            registry.id_of("a/b-value", schema)
        assert len(script.asked) == 4

    def test_are_asked_for_with_the_login(self, script: Script, registry: Registry) -> None:
        script.answers[LOOK] = (200, {"id": 7})
        registry.id_of("a/b-value", SCHEMA)
        assert script.headers["Authorization"] == f"Basic {base64.b64encode(b'lastro:pass:word').decode()}"


class TestRefusals:
    def test_of_a_schema_say_what_to_do_and_are_remembered(self, script: Script, registry: Registry) -> None:
        script.answers |= {LOOK: NO_SCHEMA, REGISTER: INCOMPATIBLE}
        for _ in range(3):
            with pytest.raises(
                InvalidMessage, match=r"refuses the schema for a/b-value: text was text\. .*verify_contracts"
            ):
                registry.id_of("a/b-value", SCHEMA)
        assert script.asked == [LOOK, REGISTER], "a relay asks for every row of its batch"

    def test_are_asked_again_after_a_while(
        self, script: Script, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(registries, "REFUSED_S", 0.0)
        script.answers |= {LOOK: NO_SCHEMA, REGISTER: INCOMPATIBLE}
        with pytest.raises(InvalidMessage):
            registry.id_of("a/b-value", SCHEMA)
        script.answers[LOOK] = (200, {"id": 7})
        assert registry.id_of("a/b-value", SCHEMA) == 7

    def test_of_an_unknown_id_name_the_registry_as_a_suspect(self, script: Script, registry: Registry) -> None:
        script.answers["GET /api/schemas/ids/5"] = NO_SCHEMA
        with pytest.raises(InvalidMessage, match="knows no schema 5"):
            registry.schema_of(5)

    def test_of_another_kind_of_schema(self, script: Script, registry: Registry) -> None:
        script.answers["GET /api/schemas/ids/5"] = (200, {"schema": "syntax", "schemaType": "PROTOBUF"})
        with pytest.raises(InvalidMessage, match="PROTOBUF, not Avro"):
            registry.schema_of(5)


class TestAway:
    @pytest.mark.parametrize(
        ("answer", "says"),
        [
            ((401, {"message": "who are you?"}), "refuses our login .*SCHEMA_REGISTRY_USERNAME"),
            ((403, b"<html>"), "verify_contracts --register"),
            ((404, b"<html>not here</html>"), "Does SCHEMA_REGISTRY_URL lead to its API"),
            ((404, {"message": "no such page"}), "answers 404"),
            ((500, {"message": "oh"}), "answers 500: oh"),
            ((302, {}), "answers 302"),
            ((200, []), "answers 200"),
            ((200, b"\xff"), "no JSON"),
            ((200, {"text": SCHEMA}), "without the schema 5"),
        ],
    )
    def test_is_what_no_message_is_to_blame_for(self, script: Script, registry: Registry, answer: Any, says: str) -> None:
        script.answers["GET /api/schemas/ids/5"] = answer
        with pytest.raises(TransportDown, match=says):
            registry.schema_of(5)

    def test_is_an_answer_without_an_id(self, script: Script, registry: Registry) -> None:
        script.answers[LOOK] = (200, {"id": "seven"})
        with pytest.raises(TransportDown, match="without an id"):
            registry.id_of("a/b-value", SCHEMA)

    def test_is_remembered_for_a_moment_so_that_it_costs_each_record_nothing(
        self, script: Script, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        script.answers["GET /api/schemas/ids/5"] = (503, {"message": "starting"})
        for schema_id in (5, 5, 6):
            with pytest.raises(TransportDown, match="answers 503: starting"):
                registry.schema_of(schema_id)
        assert len(script.asked) == 1
        monkeypatch.setattr(registry, "_away_until", 0.0)
        script.answers["GET /api/schemas/ids/5"] = (200, {"schema": SCHEMA})
        assert registry.schema_of(5) == SCHEMA

    def test_is_a_server_that_says_nothing(
        self, script: Script, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(registries, "TIMEOUT_S", 0.2)
        script.answers["GET /api/schemas/ids/5"] = (0, None)
        with pytest.raises(TransportDown, match="timed out"):
            registry.schema_of(5)

    def test_is_a_port_where_nobody_listens(self) -> None:
        with pytest.raises(TransportDown, match="refused"):
            Registry("http://127.0.0.1:1").id_of("a-value", SCHEMA)

    @pytest.mark.django_db
    def test_is_never_waited_for_inside_a_transaction(self, registry: Registry) -> None:
        with transaction.atomic(), pytest.raises(TransactionMisuse, match="waits for the network"):
            registry.schema_of(5)


class TestForeignSchemas:
    @pytest.mark.parametrize("schema", ["no JSON", '{"type":"record"}', '"lastro.Elsewhere"', "[" * 5000])
    def test_that_cannot_be_used_are_the_records_fault(self, script: Script, schema: str) -> None:
        script.answers["GET /api/schemas/ids/1"] = (200, {"schema": schema})
        with override_settings(SCHEMA_REGISTRY_URL=script.url), pytest.raises(InvalidMessage, match="cannot be used"):
            wire.from_wire(b"\x00\x00\x00\x00\x01abc")


class TestCommand:
    def test_says_that_all_is_well(self, capsys: pytest.CaptureFixture[str]) -> None:
        call_command("verify_contracts")
        assert "agree with their files" in capsys.readouterr().out

    def test_lists_what_is_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = releases.declared()
        found["payments.void.v1"] = {**found["payments.void.v1"], "fields": []}
        monkeypatch.setattr(releases, "declared", lambda: found)
        with pytest.raises(CommandError, match=r"payments\.void\.v1 is released, and its class has changed"):
            call_command("verify_contracts", write=True, release=True)

    @override_settings(SCHEMA_REGISTRY_URL="")
    def test_cannot_register_nowhere(self) -> None:
        with pytest.raises(CommandError, match="SCHEMA_REGISTRY_URL is empty"):
            call_command("verify_contracts", register=True)

    @override_settings(SCHEMA_REGISTRY_URL="http://127.0.0.1:1")
    def test_says_that_the_registry_is_away(self) -> None:
        with pytest.raises(CommandError, match="cannot be used"):
            call_command("verify_contracts", register=True)


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"SCHEMA_REGISTRY_URL": "registry:8081"}, "SCHEMA_REGISTRY_URL begins with http"),
            ({"SCHEMA_REGISTRY_URL": "https://me:secret@registry/"}, "carries no login"),
            ({"SCHEMA_REGISTRY_PASSWORD": "admin"}, "SCHEMA_REGISTRY_PASSWORD is a default password"),
        ],
    )
    def test_stop_the_start_when_they_cannot_be_meant(self, changes: dict[str, str], says: str) -> None:
        code, last = start(**changes)
        assert code != 0
        assert says in last

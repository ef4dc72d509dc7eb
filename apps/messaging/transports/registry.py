"""A schema registry with Confluent's API (Confluent, Apicurio, Karapace, Redpanda): an id for a schema, and back.

Ids never change, so each is asked for once per process. The network is waited for outside any transaction, with a timeout;
a registry that does not answer is left alone for a moment, so that its absence does not cost each record a timeout.
"""

import base64
import functools
import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

from django.conf import settings

from apps.common.transactions import durable
from apps.messaging.contracts.base import InvalidMessage
from apps.messaging.transports.base import TransportDown

TIMEOUT_S = 3.0  # of one connection and of one answer
ANSWER_BYTES_MAX = 1_000_000  # a schema is a few kB
LEAVE_ALONE_S = 1.0  # a registry that is away
REFUSED_S = 10.0  # how long an answer of "no" is remembered: a relay may ask for each row of a batch
REMEMBERED_MAX = 10_000  # schemas and refusals; then all are forgotten and asked for again
COMPATIBILITY = "FULL_TRANSITIVE"  # see Note [Full compatibility] in contracts/releases.py
CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
SUBJECT_UNKNOWN, VERSION_UNKNOWN, SCHEMA_UNKNOWN = 40401, 40402, 40403


class _Unknown(Exception):
    """The registry answered that there is no such thing."""

    def __init__(self, error_code: int) -> None:
        self.error_code = error_code
        super().__init__(str(error_code))


class Registry:
    """The registry at one address. Safe to share between threads."""

    def __init__(self, url: str, *, username: str = "", password: str = "", ca_file: str = "") -> None:
        self._parts = urlsplit(url.rstrip("/"))
        self._headers = {"Accept": CONTENT_TYPE, "Content-Type": CONTENT_TYPE}
        if username:
            login = base64.b64encode(f"{username}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {login}"
        self._context = ssl.create_default_context(cafile=ca_file or None) if self._parts.scheme == "https" else None
        self._lock = threading.Lock()
        self._known: dict[Any, Any] = {}
        self._refused: dict[Any, tuple[float, str]] = {}
        self._away_until, self._away_reason = 0.0, ""

    def id_of(self, subject: str, schema: str) -> int:
        """The id of a schema, registered when it is new to the subject.

        Raises InvalidMessage when the registry refuses the schema, TransportDown when it cannot be asked.
        """
        found: int = self._remember((subject, schema), lambda: self._find_or_register(subject, schema))
        return found

    def schema_of(self, schema_id: int) -> str:
        """The Avro schema of an id. Raises InvalidMessage when there is none, TransportDown when nobody can say."""
        found: str = self._remember(schema_id, lambda: self._fetch(schema_id))
        return found

    def _remember(self, key: Any, ask: Callable[[], Any]) -> Any:
        found = self._known.get(key)
        if found is not None:
            return found
        with self._lock:  # one asks, the others wait for the answer
            found = self._known.get(key)
            if found is None:
                found = self._ask_unless_refused(key, ask)
                _bound(self._known)
                self._known[key] = found
        return found

    def _ask_unless_refused(self, key: Any, ask: Callable[[], Any]) -> Any:
        until, reason = self._refused.get(key, (0.0, ""))
        if time.monotonic() < until:
            raise InvalidMessage(reason)
        try:
            return ask()
        except InvalidMessage as refusal:
            _bound(self._refused)
            self._refused[key] = (time.monotonic() + REFUSED_S, refusal.detail)
            raise

    def _find_or_register(self, subject: str, schema: str) -> int:
        # Look first: a login that may only read will do where the schemas were registered by the deployment.
        path, sent = f"/subjects/{quote(subject, safe='')}", {"schema": schema}
        try:
            return _whole(self._ask("POST", path, sent))
        except _Unknown as unknown:
            if unknown.error_code == SUBJECT_UNKNOWN:  # an operator's own choice is left as it is
                self._ask("PUT", f"/config/{quote(subject, safe='')}", {"compatibility": COMPATIBILITY})
        try:
            return _whole(self._ask("POST", f"{path}/versions", sent))
        except InvalidMessage as refusal:
            raise InvalidMessage(
                f"The schema registry refuses the schema for {subject}: {refusal.detail}. A version must be compatible "
                "with those before it: run manage.py verify_contracts and do what it says."
            ) from None

    def _fetch(self, schema_id: int) -> str:
        try:
            answer = self._ask("GET", f"/schemas/ids/{schema_id}")
        except _Unknown:
            raise InvalidMessage(
                f"The schema registry knows no schema {schema_id}. Was the record written with another registry? "
                "Set SCHEMA_REGISTRY_URL to that one, then replay."
            ) from None
        if answer.get("schemaType", "AVRO") != "AVRO":
            raise InvalidMessage(f"Schema {schema_id} of the registry is {answer['schemaType']}, not Avro.")
        if not isinstance(answer.get("schema"), str):
            raise TransportDown(f"The schema registry answers without the schema {schema_id}.")
        return str(answer["schema"])

    @durable
    def _ask(self, method: str, path: str, sent: Any = None) -> Any:
        if time.monotonic() < self._away_until:
            raise TransportDown(self._away_reason)
        try:
            status, answer = self._exchange(method, path, None if sent is None else json.dumps(sent).encode())
            return _read(status, answer)
        except (OSError, http.client.HTTPException, ValueError, TransportDown) as error:
            self._away_reason = f"The schema registry at {self._parts.hostname}:{self._parts.port} cannot be used: {error}"
            self._away_until = time.monotonic() + LEAVE_ALONE_S
            raise TransportDown(self._away_reason) from error

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        host, port = self._parts.hostname or "", self._parts.port
        if self._context is None:
            connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        else:
            connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=self._context)
        try:
            connection.request(method, self._parts.path + path, body, self._headers)
            response = connection.getresponse()
            return response.status, response.read(ANSWER_BYTES_MAX)
        finally:
            connection.close()


def _read(status: int, answer: bytes) -> Any:
    if status in (401, 403):
        raise TransportDown(
            f"it refuses our login ({status}). Set SCHEMA_REGISTRY_USERNAME and SCHEMA_REGISTRY_PASSWORD. A login that may "
            "not register needs: manage.py verify_contracts --register, with one that may"
        )
    try:
        found = json.loads(answer)
    except ValueError:
        raise TransportDown(f"it answers {status}, and no JSON. Does SCHEMA_REGISTRY_URL lead to its API?") from None
    if 200 <= status < 300 and isinstance(found, dict):
        return found
    code, reason = (found.get("error_code"), found.get("message")) if isinstance(found, dict) else (None, found)
    if status == 404 and code in (SUBJECT_UNKNOWN, VERSION_UNKNOWN, SCHEMA_UNKNOWN):
        raise _Unknown(code)
    if status in (409, 422):
        raise InvalidMessage(str(reason)[:1000])
    raise TransportDown(f"it answers {status}: {str(reason)[:200]}")


def _whole(answer: dict[str, Any]) -> int:
    found = answer.get("id")
    if not isinstance(found, int):
        raise TransportDown("The schema registry answers without an id.")
    return found


def _bound(memory: dict[Any, Any]) -> None:
    if len(memory) >= REMEMBERED_MAX:
        memory.clear()


@functools.lru_cache(maxsize=8)  # tests change the settings
def _registry(url: str, username: str, password: str, ca_file: str) -> Registry:
    return Registry(url, username=username, password=password, ca_file=ca_file)


def registry() -> Registry | None:
    """The registry of the settings, one per process; None without SCHEMA_REGISTRY_URL."""
    url = settings.SCHEMA_REGISTRY_URL
    if not url:
        return None
    return _registry(
        url, settings.SCHEMA_REGISTRY_USERNAME, settings.SCHEMA_REGISTRY_PASSWORD, settings.SCHEMA_REGISTRY_CA_FILE
    )

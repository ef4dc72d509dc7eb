"""The merchants' side of the REST API, over HTTP to the web server that runs."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlencode

TIMEOUT_S = 30
LOOK_S_MIN, LOOK_S_MAX = 0.05, 0.5  # between two questions for what is not over yet
PAGE_ROWS = 500
OK = 200


class NobodyThere(Exception):
    """No web server of ours answers there."""


class Refused(Exception):
    """The API said no. ``code`` of the problem document."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status, self.code = status, str(problem.get("code", ""))
        super().__init__(f"{status} {self.code} {problem.get('detail', '')}")


def check_answers(port: int) -> None:
    """Raises NobodyThere unless a web server of ours is ready there."""
    http = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        http.request("GET", "/readyz")
        status = http.getresponse().status
    except (OSError, HTTPException) as error:
        raise NobodyThere(f"{type(error).__name__}: {error}") from error
    finally:
        http.close()
    if status != OK:
        raise NobodyThere(f"it is not ready: {status}")


class Api:
    """One merchant's way in. Not for several threads: it keeps its connection."""

    def __init__(self, port: int, account: str, secret: str) -> None:
        self.account = account
        self._http = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        login = base64.b64encode(f"{account}:{secret}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}

    def post(self, path: str, body: Any, *, key: str = "", waits: bool = True) -> dict[str, Any]:
        """POST, under an Idempotency-Key: repeated it has the same effect and answer. Raises Refused, NobodyThere."""
        headers = {"Idempotency-Key": key} if key else {}
        return self._ask("POST", path, body, headers if waits else {**headers, "Prefer": "respond-async"})

    def get(self, path: str, **query: object) -> dict[str, Any]:
        """GET. Raises Refused, NobodyThere."""
        return self._ask("GET", f"{path}?{urlencode(query)}" if query else path, None, {})

    def patch(self, path: str, body: Any) -> dict[str, Any]:
        """PATCH. Raises Refused, NobodyThere."""
        return self._ask("PATCH", path, body, {})

    def rows(self, path: str, name: str, cursor: str, **query: object) -> Iterator[dict[str, Any]]:
        """All rows of a list, page after page. ``cursor``: what the answer calls the next one."""
        page: dict[str, Any] = {cursor: ""}
        while page[cursor] is not None:
            more = {"cursor": page[cursor]} if page[cursor] else {}
            page = self.get(path, limit=PAGE_ROWS, **query, **more)
            yield from page[name]

    def _ask(self, method: str, path: str, body: Any, headers: dict[str, str]) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        try:
            self._http.request(method, path, data, {**self._headers, **headers})
            answer = self._http.getresponse()
            found: dict[str, Any] = json.loads(answer.read() or b"{}")
        except (OSError, HTTPException, ValueError) as error:
            self._http.close()  # the next question begins with a new one
            raise NobodyThere(f"{type(error).__name__}: {error}") from error
        if answer.status >= 400:
            raise Refused(answer.status, found)
        return found

    def close(self) -> None:
        self._http.close()


def until(question: Callable[[], bool], *, timeout_s: float) -> bool:
    """Ask until it is true; False when the time is over."""
    pause, end, wait_s = threading.Event(), time.monotonic() + timeout_s, LOOK_S_MIN
    while not question():
        if time.monotonic() >= end:
            return False
        pause.wait(wait_s)
        wait_s = min(wait_s * 2, LOOK_S_MAX)
    return True

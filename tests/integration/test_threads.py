"""Django behind an ASGI server: what reaches the caller, and which thread does the work."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.core.signals import request_finished
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import override_settings
from django.urls import path
from pytest_django import Settings

from config.threads import ThreadedHandler
from tests.asynchronous import LOOP_THREAD, run_apart

seen: dict[str, Any] = {}


def echo(request: HttpRequest) -> HttpResponse:
    seen["thread"] = threading.current_thread().name
    response = HttpResponse(request.body, headers={"X-Method": str(request.method)}, status=201)
    response.set_cookie("crumb", "1")
    return response


def broken(request: HttpRequest) -> HttpResponse:
    raise LookupError("a bug")


def parts(request: HttpRequest) -> StreamingHttpResponse:
    def made() -> Iterator[bytes]:
        for part in (b"one ", b"two"):
            seen["thread"] = threading.current_thread().name
            yield part

    return StreamingHttpResponse(made())


async def live(request: HttpRequest) -> StreamingHttpResponse:
    async def made() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        try:
            await asyncio.Event().wait()  # as long as somebody looks
        finally:
            seen["left"] = threading.current_thread().name.startswith(LOOP_THREAD)

    return StreamingHttpResponse(made(), content_type="text/event-stream")


urlpatterns = [path("echo", echo), path("broken", broken), path("parts", parts), path("live", live)]


def call(url: str, *bodies: bytes, leaves: bool = False) -> list[dict[str, Any]]:
    """Send one request through the handler; what it says to the server. ``leaves``: after the first part of the answer."""
    sent: list[dict[str, Any]] = []

    async def main() -> None:
        read = asyncio.Event()
        waiting = [
            {"type": "http.request", "body": body, "more_body": place < len(bodies)}
            for place, body in enumerate(bodies, start=1)
        ] or [{"type": "http.request"}]

        async def receive() -> dict[str, Any]:
            if waiting:
                return waiting.pop(0)
            await (read.wait() if leaves else asyncio.Event().wait())
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            if message.get("body"):
                read.set()

        scope = {"type": "http", "method": "POST", "path": url, "headers": [(b"content-type", b"text/plain")]}
        await asyncio.wait_for(ThreadedHandler(2)(scope, receive, send), 30)

    run_apart(main())
    return sent


def body_of(sent: list[dict[str, Any]]) -> bytes:
    return b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture(autouse=True)
def urls() -> Iterator[None]:
    seen.clear()
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=["apps.observability.middleware.RequestIdMiddleware"]):
        yield


class TestAnAnswer:
    def test_has_status_headers_cookies_and_body(self) -> None:
        start, *rest = call("/echo", b"a ", b"body")
        assert start["status"] == 201
        headers = {name.lower(): value for name, value in start["headers"]}
        assert headers[b"x-method"] == b"POST"
        assert headers[b"set-cookie"].startswith(b"crumb=1")
        assert b"x-request-id" in headers  # the middleware took part
        assert body_of([start, *rest]) == b"a body"
        assert not rest[-1].get("more_body")

    def test_is_made_by_a_thread_of_the_pool_which_is_told_that_it_ended(self) -> None:
        ended: list[str] = []

        def note(**_: Any) -> None:
            ended.append(threading.current_thread().name)

        request_finished.connect(note)
        try:
            call("/echo", b"x")
        finally:
            request_finished.disconnect(note)
        assert seen["thread"].startswith("web")
        assert ended == [seen["thread"]]  # where the connection is

    @pytest.mark.filterwarnings("ignore")
    def test_of_a_bug_is_an_error_like_any_other(self) -> None:
        assert call("/broken")[0]["status"] == 500

    def test_of_a_caller_who_left_before_he_had_asked_is_none(self) -> None:
        async def main() -> list[Any]:
            sent: list[Any] = []

            async def receive() -> dict[str, Any]:
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                sent.append(message)

            await ThreadedHandler(1)({"type": "http", "method": "GET", "path": "/echo", "headers": []}, receive, send)
            return sent

        assert run_apart(main()) == []


class TestABody:
    """Anybody may send one, so no more of it is kept than anybody may say."""

    @pytest.mark.parametrize("declared", [[], [(b"content-length", b"1000000000000")]], ids=["in chunks", "declared"])
    @pytest.mark.parametrize(("url", "most"), [("/echo", 64 * 1024), ("/ledger/transactions/batch", 8 * 1024 * 1024)])
    def test_that_never_ends_is_refused_at_its_limit(
        self, settings: Settings, url: str, most: int, declared: list[tuple[bytes, bytes]]
    ) -> None:
        settings.MIDDLEWARE = ["apps.observability.middleware.BodyLimitMiddleware"]
        taken, part = 0, b"x" * 60_000

        async def main() -> list[Any]:
            sent: list[Any] = []

            async def receive() -> dict[str, Any]:
                nonlocal taken
                taken += len(part)
                assert taken < most + 2 * len(part), "it is read on and on"
                return {"type": "http.request", "body": part, "more_body": True}

            async def send(message: Any) -> None:
                sent.append(message)

            scope = {"type": "http", "method": "POST", "path": url, "headers": declared}
            await asyncio.wait_for(ThreadedHandler(1)(scope, receive, send), 30)
            return sent

        assert run_apart(main())[0]["status"] == 413


class TestAStream:
    def test_of_a_view_is_sent_part_by_part_from_its_thread(self) -> None:
        sent = call("/parts")
        assert [message.get("body") for message in sent[1:]] == [b"one ", b"two", None]
        assert seen["thread"].startswith("web")

    def test_that_never_ends_is_sent_by_the_event_loop_until_its_reader_leaves(self) -> None:
        sent = call("/live", leaves=True)
        assert body_of(sent) == b"data: 1\n\n"
        assert seen["left"]

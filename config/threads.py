"""Django behind an ASGI server, in threads that stay: a request costs half of what it costs Django's own ASGI handler.

Note [Threads that stay]
    Our views are synchronous. Django's handler makes a thread for each such request, and with it a connection of its own,
    and crosses between thread and event loop at every step. Here a request is one job of a pool's thread, as under a WSGI
    server: the event loop reads the body, a thread does everything from the first middleware to the last, the event loop
    sends the answer. So slow callers hold no thread, whether they send or read.

Note [Streams]
    What a synchronous view streams is sent from its thread. An asynchronous stream (server-sent events) is sent by the
    event loop for as long as its reader stays, and holds no thread meanwhile.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.core.handlers.base import BaseHandler
from django.urls import set_script_prefix

from apps.observability.middleware import body_bytes_max

SEND_S_MAX = 60.0  # a reader who takes no part of a synchronous stream for so long loses it: it holds one of our threads


class ThreadedHandler(ASGIHandler):
    """An ASGI application. ``threads``: requests that are worked on at a time; the others wait, in their order."""

    def __init__(self, threads: int) -> None:
        BaseHandler.__init__(self)  # not ASGIHandler's, which adapts every middleware to the event loop
        self.load_middleware(is_async=False)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="web")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise ValueError(f"only HTTP is served here, not {scope['type']}")
        try:
            body = await self.read_body(receive, body_bytes_max(scope["path"]))
        except RequestAborted:
            return
        loop = asyncio.get_running_loop()

        def tell(message: dict[str, Any]) -> None:
            asyncio.run_coroutine_threadsafe(send(message), loop).result(SEND_S_MAX)

        response = await loop.run_in_executor(self._threads, self._work, scope, body, tell)
        if response is None:
            return
        if not response.streaming:
            await self.send_response(response, send)
            return
        await self._send_while_read(response, receive, send)
        await loop.run_in_executor(self._threads, response.close)

    async def read_body(self, receive: Any, most: int = 0) -> Any:
        """The body, or so much of it as shows that it is longer than ``most`` bytes. Django would keep all of it."""
        taken = 0

        async def receive_some() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            return {**message, "more_body": False} if taken > most else message

        return await super().read_body(receive_some)

    def _work(self, scope: Any, body: Any, tell: Any) -> Any:
        """What a thread does of a request; the response that is still to be sent, or None."""
        set_script_prefix(get_script_prefix(scope))
        signals.request_started.send(sender=self.__class__, scope=scope)
        try:
            request, wrong = self.create_request(scope, body)
            response: Any = wrong if request is None else self.get_response(request)
        except BaseException:
            signals.request_finished.send(sender=self.__class__)  # which gives the connection back
            raise
        finally:
            body.close()
        response._handler_class = self.__class__  # whoever listens to the request's end is told who ended it
        if not response.streaming:
            response.close()  # its bytes stay; the thread's connection is free before a slow reader has them
            return response
        if response.is_async:
            return response
        with suppress(TimeoutError), closing(response):
            self._stream(response, tell)
        return None

    def _stream(self, response: Any, tell: Any) -> None:
        """Send a synchronous stream. See Note [Streams]."""
        headers = [(name.encode("ascii"), value.encode("latin1")) for name, value in response.items()]
        headers += [(b"Set-Cookie", one.output(header="").encode("ascii").strip()) for one in response.cookies.values()]
        tell({"type": "http.response.start", "status": response.status_code, "headers": headers})
        for part in response:
            for chunk, _ in self.chunk_bytes(part):
                tell({"type": "http.response.body", "body": chunk, "more_body": True})
        tell({"type": "http.response.body"})

    async def _send_while_read(self, response: Any, receive: Any, send: Any) -> None:
        """Send an asynchronous stream until it ends or its reader leaves."""
        gone = asyncio.ensure_future(self.listen_for_disconnect(receive))
        sent = asyncio.ensure_future(self.send_response(response, send))
        await asyncio.wait((gone, sent), return_when=asyncio.FIRST_COMPLETED)
        for task in (gone, sent):
            task.cancel()
            with suppress(asyncio.CancelledError, RequestAborted):
                await task

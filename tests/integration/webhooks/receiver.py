"""A merchant's server: real, over HTTP or HTTPS, that remembers what it was told and answers as the test says."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from apps.fiscal_docs.sandbox.certificates import server_context

WAIT_S = 90  # for what a test waits for: a limit for a broken build, it decides nothing


@dataclass
class Told:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """``answers`` are used up one by one, then ``usual`` holds: a status, or what to do with the connection."""

    url: str = ""
    told: list[Told] = field(default_factory=list)
    usual: Any = 204
    answers: list[Any] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    arrived: threading.Event = field(default_factory=threading.Event)
    free: threading.Event = field(default_factory=threading.Event)
    together: int = 0
    together_most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def ids(self) -> list[str]:
        """The webhook-ids, in the order of their coming."""
        return [told.headers["webhook-id"] for told in self.told]

    def hold(self, handler: BaseHTTPRequestHandler) -> None:
        """An answer that comes when the test lets it: ``free``."""
        self.free.wait(WAIT_S)
        handler.send_response(200)
        handler.end_headers()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_POST(self) -> None:
        receiver = self.server.receiver
        with receiver.lock:
            receiver.together += 1
            receiver.together_most = max(receiver.together, receiver.together_most)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.told.append(Told(self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            answer = receiver.answers.pop(0) if receiver.answers else receiver.usual
        receiver.arrived.set()
        try:
            if callable(answer):
                answer(self)
                self.close_connection = True
            else:
                self._say(answer, receiver)
        finally:
            with receiver.lock:
                receiver.together -= 1

    def _say(self, status: int, receiver: Receiver) -> None:
        self.send_response(status)
        for name, value in receiver.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(receiver.body)))
        self.end_headers()
        self.wfile.write(receiver.body)

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    receiver: Receiver
    context: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(WAIT_S)
        if self.context is None:
            self.RequestHandlerClass(request, client_address, self)  # type: ignore[arg-type]
            return
        with self.context.wrap_socket(request, server_side=True) as secured:
            self.RequestHandlerClass(secured, client_address, self)  # type: ignore[arg-type]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client hung up, or did not like our certificate: that is what tests do."""


@contextmanager
def receiving(*, names: list[str] | None = None) -> Iterator[Receiver]:
    """A receiver; over TLS, certified for these names, when there are any."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.receiver = receiver = Receiver()
    if names:
        server.context = server_context(names=names, now=datetime.now(UTC))
        server.context.verify_mode = ssl.CERT_NONE  # that of the authority's sandbox wants certificates of its clients
    receiver.url = f"{'https' if names else 'http'}://localhost:{server.server_port}/hooks?shop=1"
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.free.set()
        server.shutdown()
        server.server_close()
        thread.join(WAIT_S)


@contextmanager
def raw(say: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """A server that knows no HTTP: ``say`` has the connection, until the event. Its URL."""
    end = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_S)

        def serve() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    say(connection, end)
                except OSError:
                    return  # the client hung up

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        end.set()
        thread.join(WAIT_S)

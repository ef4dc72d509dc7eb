"""The sandbox authority on the wire: SOAP 1.2 over HTTPS with mutual TLS, on loopback, in a daemon thread."""

import contextlib
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography import x509
from django.db import connections

from apps.fiscal_docs.sandbox import certificates, discovery
from apps.fiscal_docs.sandbox.faults import Action, Faults
from apps.fiscal_docs.sandbox.services import SERVICES, Desk, stopped

logger = logging.getLogger(__name__)

MESSAGE_BYTES_MAX = 500 * 1024  # the limit that the real services publish
CONNECTION_TIMEOUT_S = 15  # a client that connects and says nothing must not keep a thread for ever
STOP_TIMEOUT_S = 5
SOAP = "http://www.w3.org/2003/05/soap-envelope"
WSDL = "http://www.portalfiscal.inf.br/nfe/wsdl/"

Clock = Callable[[], datetime]


def _system_clock() -> datetime:
    return datetime.now(UTC)


class _Hangup(Exception):
    """Close the connection without an answer: a scripted fault."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, authority: x509.Certificate) -> None:
        self.context = context
        self.authority = authority
        self.faults = Faults()
        self.clock: Clock = _system_clock
        super().__init__(address, _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in the connection's own thread: a slow client must not keep the others waiting."""
        if self.faults.take("", Action.REFUSE_CONNECTION):
            return
        request.settimeout(CONNECTION_TIMEOUT_S)
        with self.context.wrap_socket(request, server_side=True) as secured:
            self.RequestHandlerClass(secured, client_address, self)  # type: ignore[arg-type]
            with contextlib.suppress(OSError):  # the client was quicker
                secured.shutdown(socket.SHUT_RDWR)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            connections.close_all()  # a thread's database connections are its own to close

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up or show no certificate are everyday things."""
        logger.info("sandbox authority: a connection ended badly", exc_info=True)  # noqa: LOG014  (called inside a handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = CONNECTION_TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:
        logger.debug("sandbox authority: %s", format % args)

    def do_POST(self) -> None:
        service = self.path.rpartition("/")[2].removesuffix(".asmx")
        length = self.headers.get("Content-Length", "")
        if service not in SERVICES:
            return self.send_error(404)
        if not length.isdigit() or int(length) > MESSAGE_BYTES_MAX:
            return self.send_error(413)
        message = self.rfile.read(int(length))
        try:
            answer = self._answer(service, message)
        except _Hangup:
            self.close_connection = True
            return None
        return self._send(service, answer)

    def _answer(self, service: str, message: bytes) -> bytes:
        faults, desk = self.server.faults, Desk(self.server.authority, self.server.clock())
        scripted = faults.take(service, Action.LOSE_REQUEST, Action.STATUS)
        if scripted and scripted.action is Action.LOSE_REQUEST:
            raise _Hangup
        if scripted:
            return stopped(service, scripted.status, desk)
        decided = SERVICES[service][1](_body(message), desk)
        after = faults.take(service, Action.LOSE_ANSWER, Action.DELAY)
        if after and after.action is Action.LOSE_ANSWER:
            raise _Hangup
        if after:
            time.sleep(after.seconds)
        return decided

    def _send(self, service: str, answer: bytes) -> None:
        envelope = (
            f'<?xml version="1.0" encoding="UTF-8"?><soap:Envelope xmlns:soap="{SOAP}"><soap:Body>'
            f'<nfeResultMsg xmlns="{WSDL}{service}">'.encode()
            + answer
            + b"</nfeResultMsg></soap:Body></soap:Envelope>"
        )
        self.send_response(200)
        self.send_header("Content-Type", "application/soap+xml; charset=utf-8")
        self.send_header("Content-Length", str(len(envelope)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(envelope)


def _body(message: bytes) -> bytes:
    """The exact bytes inside nfeDadosMsg: they carry signatures, so they are cut out and not written again."""
    found = re.search(rb"<nfeDadosMsg[^>]*>(.*)</nfeDadosMsg>", message, re.DOTALL)
    return found[1].strip() if found else b"<nothing/>"


class Running:
    """A sandbox authority that runs. ``faults`` scripts trouble; ``set_clock`` moves its time."""

    def __init__(self, server: _Server, url: str) -> None:
        self._server = server
        self.url = url
        self.faults = server.faults
        self._thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="fiscal-sandbox", daemon=True)
        self._thread.start()

    def set_clock(self, clock: Clock | None = None) -> None:
        """Give the authority another clock; None is the system's."""
        self._server.clock = clock or _system_clock

    def stop(self) -> None:
        """Stop listening. Safe to repeat."""
        discovery.withdraw(self.url)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(STOP_TIMEOUT_S)


def start(port: int = 0, *, host: str = "127.0.0.1", names: tuple[str, ...] = (), announce: bool = True) -> Running:
    """Start the sandbox authority. Port 0 takes a free one. ``names``: further host names of its TLS certificate.

    ``announce`` writes the address for other processes under DATA_DIR; this process knows it anyway.
    """
    now = _system_clock()
    context = certificates.server_context(names=("localhost", "127.0.0.1", *names), now=now)
    server = _Server((host, port), context, certificates.certificate_of_authority())
    own_name = "127.0.0.1" if host in ("127.0.0.1", "0.0.0.0") else host  # noqa: S104  (compared, not bound)
    running = Running(server, f"https://{own_name}:{server.server_address[1]}")
    discovery.announce(running.url, to_other_processes=announce)
    return running

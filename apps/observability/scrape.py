"""Where Prometheus scrapes: ``/metrics`` of the web server, and a port of a process that has no web server."""

import hmac
import logging
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, make_wsgi_app
from prometheus_client.exposition import choose_encoder

from apps.observability.metrics import FACTS, WORK

logger = logging.getLogger(__name__)

# `make run` is one process: what its relay and its consumers count is told there too.
_EVERYTHING = CollectorRegistry(auto_describe=False)
for _part in (FACTS, WORK):
    _EVERYTHING.register(_part)  # it has a collector's only method
REQUEST_TIMEOUT_S = 10  # a scraper that hangs does not hold its thread for ever


def is_allowed(authorization: str) -> bool:
    """With METRICS_TOKEN set, whoever brings it; without, everybody in the embedded mode, which serves loopback only."""
    if settings.METRICS_TOKEN:
        return hmac.compare_digest(authorization.encode(), f"Bearer {settings.METRICS_TOKEN}".encode())
    return bool(settings.EMBEDDED)


def metrics(request: HttpRequest) -> HttpResponse:
    """What the rows and the broker say now, for all processes together. 401 without the token, 404 when none is set."""
    if not is_allowed(request.headers.get("Authorization", "")):
        if not settings.METRICS_TOKEN:
            return HttpResponse("Set METRICS_TOKEN to have metrics.\n", status=404, content_type="text/plain")
        return HttpResponse(status=401, headers={"WWW-Authenticate": 'Bearer realm="metrics"'})
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(_EVERYTHING if settings.EMBEDDED else FACTS), content_type=content_type)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape every few seconds is no news."""


def serve(port: int, *, host: str) -> Callable[[], None]:
    """Serve this process's own metrics (its work, processor, memory, files) from a thread. Returns what ends it.

    The facts of all processes are at the web server; twenty consumers would only tell the same twenty times.
    Raises OSError when the port is taken.
    """
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(WORK)  # it has a collector's only method
    server = make_server(host, port, _guarded(make_wsgi_app(registry)), server_class=_Server, handler_class=_Handler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()

    def end() -> None:
        server.shutdown()
        server.server_close()

    return end


def _guarded(inner: Any) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if is_allowed(environ.get("HTTP_AUTHORIZATION", "")):
            answer: Iterable[bytes] = inner(environ, start_response)
            return answer
        start_response("401 Unauthorized", [("WWW-Authenticate", 'Bearer realm="metrics"')])
        return [b""]

    return app

"""A merchant's own server, for as long as the demo works: it takes every webhook."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY_BYTES_MAX = 64 * 1024
CONNECTION_TIMEOUT_S = 5


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = CONNECTION_TIMEOUT_S

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        self.rfile.read(min(int(length), BODY_BYTES_MAX) if length.isdigit() else 0)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silent: what was delivered stands in the back office."""


@contextmanager
def listening() -> Iterator[str]:
    """Listen on a free port of loopback; the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="demo-listener", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/hooks"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(CONNECTION_TIMEOUT_S)

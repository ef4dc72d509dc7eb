"""Is the process well? ``GET /health`` on PIPES_HEALTH_PORT answers 200 or 503 with JSON, for Kubernetes and people."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lastro_pipes.settings import Settings
from lastro_pipes.worker import Status

SILENT_S_MAX = 330.0  # a process that has not polled for so long has lost its partitions: it hangs in a handle


def health(status: Status, settings: Settings) -> tuple[bool, dict[str, Any]]:
    """Whether the process is well, and what there is to know. A broker that is away is no reason to be restarted."""
    silent_s = round(time.monotonic() - status.polled_at, 1) if status.polled_at else None
    is_well = silent_s is None or silent_s < SILENT_S_MAX
    return is_well, {
        "status": "ok" if is_well and not status.trouble else ("waiting" if is_well else "stuck"),
        "service": settings.service,
        "group": settings.group,
        "trouble": status.trouble,
        "seconds_since_poll": silent_s,
        "waiting_in_memory": status.waiting,
        "outcomes": dict(status.outcomes),
    }


def serve(status: Status, settings: Settings) -> ThreadingHTTPServer:
    """Answer on PIPES_HEALTH_PORT from a daemon thread. Raises OSError when the port is taken."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_well, found = health(status, settings)
            body = json.dumps(found).encode()
            self.send_response(200 if is_well else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """A probe every few seconds is no news."""

    server = ThreadingHTTPServer(("", settings.health_port), Handler)
    threading.Thread(target=server.serve_forever, name="pipes-health", daemon=True).start()
    return server

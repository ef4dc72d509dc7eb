"""The web server as a process of its own, for a server's mode: ``python -m config.web``; WEB_PROCESSES share PORT.

``uvicorn --workers`` would do the same, but its shared socket does not name TCP as its protocol, so asyncio leaves Nagle's
algorithm on: every second answer on a kept connection then waits 40 ms for the caller's delayed acknowledgement.
"""

import os
import socket
from functools import partial
from typing import Any

import uvicorn
from uvicorn.importer import import_from_string
from uvicorn.supervisors import Multiprocess

from apps.common.processes import YOUNG_OF_REQUESTS_MAX, settle_down

BACKLOG = 2048  # connections that wait to be accepted; uvicorn's own default


def serve(application: str = "config.asgi:application") -> None:
    """Serve until SIGTERM or SIGINT."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    # Its threads stay, and each keeps a connection: nothing is lent and given back for every request.
    os.environ.setdefault("DATABASE_POOL_MAX", "0")
    from django.conf import settings

    config = uvicorn.Config(
        partial(_load, application),
        factory=True,
        host=settings.WEB_HOST,
        port=settings.PORT,
        workers=settings.WEB_PROCESSES,
        lifespan="off",
        proxy_headers=False,  # whom to believe about the caller's address is TRUSTED_PROXIES's to say, and only its
        log_level="warning",
        backlog=BACKLOG,
    )
    if config.workers == 1:
        uvicorn.Server(config).run()
        return
    with _listen(config.host, config.port) as shared:
        Multiprocess(config, sockets=[shared]).run()


def _load(application: str) -> Any:
    """What a process does before it serves: everything that the first request would wait for."""
    loaded = import_from_string(application)
    from django.urls import get_resolver

    _ = get_resolver().url_patterns  # imports every view
    settle_down(young_max=YOUNG_OF_REQUESTS_MAX)
    return loaded


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)[
        0
    ]
    shared = socket.socket(family, kind, protocol)
    shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    shared.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by every accepted connection
    shared.bind(address)
    shared.set_inheritable(True)
    return shared


if __name__ == "__main__":
    serve()

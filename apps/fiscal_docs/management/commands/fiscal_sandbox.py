"""Run the sandbox tax authority as a process of its own."""

import signal
import threading
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from apps.fiscal_docs.sandbox import server


class Command(BaseCommand):
    help = "Run the local sandbox tax authority (SOAP over mutual TLS) until it is interrupted."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, default=0, help="0 takes a free port.")
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--name", action="append", default=[], help="A further host name of its TLS certificate.")

    def handle(self, *args: Any, port: int, host: str, name: list[str], **options: Any) -> None:
        running = server.start(port, host=host, names=tuple(name))
        self.stdout.write(f"Sandbox authority at {running.url} (no fiscal value)")
        done = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: done.set())
        done.wait()
        running.stop()

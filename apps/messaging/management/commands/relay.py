"""``manage.py relay``: the relay without Celery, until the process is told to stop."""

import logging
import threading
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.db import Error as DatabaseError
from django.db import connection

from apps.messaging.management.commands.consume import stop_on_signals
from apps.messaging.relay import relay_all

logger = logging.getLogger(__name__)

POLL_S = 0.1  # between two looks; the pending table is empty or short, so a look costs a fraction of a millisecond
PAUSE_S = 2.0  # when the database or the broker is away
ROUNDS_MAX = 5  # batches between two looks at the signals: about a second's work


class Command(BaseCommand):
    """Send what is due, look again soon. Several may run, also beside the Celery task."""

    help = "Relay the outbox to the broker until SIGTERM or SIGINT."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--once", action="store_true", help="send what is due, and exit")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["once"]:
            self.stdout.write(f"relayed: {relay_all().acknowledged}")
            return
        stop = threading.Event()
        stop_on_signals(stop)
        self.stdout.write("relaying")
        while not stop.is_set():
            stop.wait(_round())


def _round() -> float:
    """Send what is due; how long to wait before the next look, in seconds."""
    try:
        return PAUSE_S if relay_all(rounds_max=ROUNDS_MAX).broker_down else POLL_S
    except DatabaseError:
        logger.warning("the relay pauses for %.0f s", PAUSE_S, exc_info=True)
        connection.close()
        return PAUSE_S

"""``manage.py relay``: the relay without Celery, until the process is told to stop."""

import logging
import threading
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.db import Error as DatabaseError
from django.db import connection

from apps.common.processes import settle_down
from apps.messaging.management.commands.consume import add_metrics_port, ready_to_work, stop_on_signals
from apps.messaging.relay import relay_all

logger = logging.getLogger(__name__)

# Between two looks. The pending table is empty or short, so a look costs a fraction of a millisecond; after work it looks
# again at once, and when nothing comes ever more rarely.
POLL_S_MIN, POLL_S_MAX = 0.002, 0.05
PAUSE_S = 0.5  # when the database or the broker is away
ROUNDS_MAX = 5  # batches between two looks at the signals: about a second's work


class Command(BaseCommand):
    """Send what is due, look again soon. Several may run, also beside the Celery task."""

    help = "Relay the outbox to the broker until SIGTERM or SIGINT."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--once", action="store_true", help="send what is due, and exit")
        add_metrics_port(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        if options["once"]:
            self.stdout.write(f"relayed: {relay_all().acknowledged}")
            return
        stop = threading.Event()
        stop_on_signals(stop)
        if not ready_to_work(stop, options["metrics_port"]):
            return
        settle_down()
        self.stdout.write("relaying")
        poll_s = POLL_S_MIN
        while not stop.wait(poll_s):
            poll_s = _round(poll_s)


def _round(poll_s: float) -> float:
    """Send what is due; how long to wait before the next look, in seconds."""
    try:
        relayed = relay_all(rounds_max=ROUNDS_MAX)
    except DatabaseError:
        logger.warning("the relay pauses for %.1f s", PAUSE_S, exc_info=True)
        connection.close()
        return PAUSE_S
    if relayed.broker_down:
        return PAUSE_S
    return POLL_S_MIN if relayed.acknowledged else min(poll_s * 2, POLL_S_MAX)

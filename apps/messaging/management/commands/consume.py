"""``manage.py consume``: members of consumer groups, until the process is told to stop."""

import signal
import threading
import time
from argparse import ArgumentParser
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apps.common.processes import settle_down
from apps.messaging import topics
from apps.messaging.consumer import ConsumerThread
from apps.messaging.inbox import groups
from apps.messaging.transports.base import TransportMisconfigured
from apps.observability import scrape

STOP_S_MAX = 8.0  # for the message at hand; orchestrators kill after ten seconds, and killing loses nothing
WATCH_S = 1.0  # how often it looks whether its members live


class Command(BaseCommand):
    """Run one member of each group; SIGTERM or SIGINT lets each finish its message and leave."""

    help = "Consume messages until SIGTERM or SIGINT."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--groups", default="all", help="consumer groups, comma separated (default: all)")
        add_metrics_port(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        chosen = _chosen(options["groups"])
        if 0 < settings.DATABASE_POOL_MAX < len(chosen):
            raise CommandError(
                f"{len(chosen)} groups want a database connection each: set DATABASE_POOL_MAX to {len(chosen)} or more "
                f"(it is {settings.DATABASE_POOL_MAX}), or divide them by --groups."
            )
        stop = threading.Event()
        stop_on_signals(stop)
        if not ready_to_work(stop, options["metrics_port"]):
            return
        settle_down()
        members = [ConsumerThread(group, stop) for group in chosen]
        for member in members:
            member.start()
        self.stdout.write(f"consuming: {', '.join(chosen)}")
        while not stop.wait(WATCH_S):
            if not all(member.is_alive() for member in members):
                stop.set()
                raise CommandError("A consumer died; its error is in the log.")
        _join(members)


def _chosen(names: str) -> list[str]:
    known = groups()
    if names == "all":
        return list(known)
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if not chosen or (unknown := [name for name in chosen if name not in known]):
        raise CommandError(f"No such group: {', '.join(unknown) if chosen else names!r}. Known: {', '.join(known)}.")
    return chosen


def add_metrics_port(parser: ArgumentParser) -> None:
    """The option of a process that has no web server."""
    parser.add_argument("--metrics-port", type=int, help="serve this process's own metrics there, on METRICS_HOST")


def ready_to_work(stop: threading.Event, metrics_port: int | None) -> bool:
    """Serve metrics and wait for the broker. False when asked to stop; CommandError when waiting would not help."""
    if metrics_port is not None:
        try:
            scrape.serve(metrics_port, host=settings.METRICS_HOST)
        except (OSError, OverflowError) as error:
            where = f"{settings.METRICS_HOST}:{metrics_port}"
            raise CommandError(f"The metrics cannot be served on {where}: {error}") from error
    try:
        return topics.wait_for_broker(stop)
    except TransportMisconfigured as error:
        raise CommandError(str(error)) from error


def stop_on_signals(stop: threading.Event) -> None:
    """Set the event on SIGTERM and SIGINT instead of dying."""

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)


def _join(members: list[ConsumerThread]) -> None:
    deadline = time.monotonic() + STOP_S_MAX
    for member in members:
        member.join(max(0.0, deadline - time.monotonic()))

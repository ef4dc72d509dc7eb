"""A process of one service: put together, started, and stopped by SIGTERM within STOP_S."""

import logging
import os
import signal
import threading
from types import FrameType

from lastro_pipes import addresses, stores, transports
from lastro_pipes.errors import BrokerDown, Misconfigured
from lastro_pipes.health import serve
from lastro_pipes.settings import Settings
from lastro_pipes.step import Loaded
from lastro_pipes.stores.base import Store
from lastro_pipes.transports.base import Topic, Transport
from lastro_pipes.worker import Worker

logger = logging.getLogger(__name__)

STOP_S = 9.0  # then a handle that goes on and on is left alone; orchestrators kill after 10 s
UNFINISHED = 1


def topics_of(settings: Settings) -> list[Topic]:
    """The service's own four topics."""
    own = [Topic(name=topic, retention_days=settings.retention_days_in, group=settings.group) for topic in settings.reads]
    own.append(Topic(name=addresses.topic(settings.service, addresses.ERROR), retention_days=settings.retention_days_error))
    if settings.sends_reports:
        own.append(Topic(name=settings.reports_to, retention_days=settings.retention_days_event))
    return own


def store_of(step: Loaded, settings: Settings) -> Store:
    """The step's own store, or that of PIPES_STORE. Raises Misconfigured."""
    return step.store(settings) or stores.make(settings)


def check_topics(transport: Transport, settings: Settings) -> None:
    """Raises Misconfigured when a topic of the service is missing, BrokerDown when nobody answers."""
    transport.check()
    if missing := transport.missing(topics_of(settings)):
        names = ", ".join(f"{settings.prefix}{name}" for name in missing)
        raise Misconfigured(f"Topics are missing: {names}. Run: pipes topics --apply")


def run(step: Loaded, settings: Settings) -> None:
    """Work until SIGTERM or SIGINT. Raises Misconfigured for what somebody must mend first."""
    stop = threading.Event()
    _stop_on_signals(stop)
    transport = transports.make(settings)
    try:
        check_topics(transport, settings)
    except BrokerDown as error:
        logger.warning("%s", error)  # It may come back: the worker waits for it.
    store = store_of(step, settings)
    worker = Worker(step, settings, transport, store)
    server = serve(worker.status, settings) if settings.health_port else None
    logger.info("%s reads %s in group %s; its store is %s", step.name, settings.reads, settings.group, store.describe())
    try:
        worker.run(stop)
    finally:
        if server is not None:
            server.shutdown()
            server.server_close()
        transport.close()
        store.close()
        step.close()
        logger.info("stopped: %s", worker.status.outcomes)


def _stop_on_signals(stop: threading.Event) -> None:
    def give_up() -> None:
        logger.error("a handle did not end within %s s; its message is read again by whoever comes next", STOP_S)
        os._exit(UNFINISHED)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if not stop.is_set():
            stop.set()
            timer = threading.Timer(STOP_S, give_up)
            timer.daemon = True
            timer.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)

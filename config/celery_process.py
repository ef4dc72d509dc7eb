"""What a worker or a beat does when it starts and ends as a process of its own: ``celery -A config worker|beat``."""

import logging
import os
import signal
import threading
from typing import Any

import billiard.pool
from billiard import current_process
from billiard.util import get_logger as get_billiard_logger
from celery import signals
from celery.concurrency import get_implementation
from celery.worker import state
from django.conf import settings
from django.db import connections

from apps.common.processes import settle_down
from apps.observability import scrape
from config import celery_broker
from config.celery_settings import WARM_STOP_S

CONNECTION_AGE_S = 60
logger = logging.getLogger(__name__)

# A child that ends waits until its parent has taken note of all its results, up to 30 s (300 looks). When the broker's
# connection broke meanwhile the parent never will, and nothing is lost by it: what was not acknowledged comes again.
LOOKS_FOR_RESULTS = 30  # a tenth of a second each


def connect() -> None:
    """Answer Celery's signals. Safe to repeat."""
    signals.setup_logging.connect(keep_our_logging)
    signals.celeryd_init.connect(start_worker)
    signals.beat_init.connect(start_beat)
    signals.task_prerun.connect(drop_dead_connections)
    signals.worker_shutting_down.connect(end_in_time)


def keep_our_logging(**_: Any) -> None:
    """Django has set up logging: JSON, masked. The pool's own logger joins it."""
    pool_logger = get_billiard_logger()
    pool_logger.propagate = True
    pool_logger.setLevel(logging.WARNING)


def start_worker(*, instance: Any, conf: Any, options: dict[str, Any], **_: Any) -> None:
    """Stop a worker that could never work, and give the others the database connections that fit their pool."""
    _refuse_a_wrong_broker(instance.app)
    celery_broker.declare_queues(instance.app)
    billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = LOOKS_FOR_RESULTS
    settle_down()  # before the children are made, who then share what is there
    # The command line calls it pool; the other name is that of a worker that a program makes.
    pool = get_implementation(options.get("pool") or options.get("pool_cls") or conf.worker_pool)
    is_prefork, port = "prefork" in pool.__module__, options.get("metrics_port")
    if is_prefork:
        _one_connection_a_process()
    if port is not None:
        _serve_metrics(port, is_prefork=is_prefork)


def _serve_metrics(port: int, *, is_prefork: bool) -> None:
    """What a process counts is in its own memory: of a prefork worker each child has a port, in their order."""
    if is_prefork:

        def serve_child(**_: Any) -> None:
            own = port + current_process().index
            try:
                scrape.serve(own, host=settings.METRICS_HOST)
            except (OSError, OverflowError):  # not the end of a child, whose parent would make another one at once
                logger.exception("the metrics of this process cannot be served on %s:%d", settings.METRICS_HOST, own)

        signals.worker_process_init.connect(serve_child, weak=False)
        return
    try:
        scrape.serve(port, host=settings.METRICS_HOST)
    except (OSError, OverflowError) as error:
        raise SystemExit(f"The metrics cannot be served on {settings.METRICS_HOST}:{port}: {error}") from error


def start_beat(*, sender: Any, **_: Any) -> None:
    """Stop a beat that could never send anything."""
    _refuse_a_wrong_broker(sender.app)


def _refuse_a_wrong_broker(app: Any) -> None:
    if why := celery_broker.refusal(app):
        raise SystemExit(why)


def _one_connection_a_process() -> None:
    """In a prefork child Celery's fix-up would make and close a pool of connections for each task (celery#10554)."""
    database = settings.DATABASES["default"]
    database["OPTIONS"].pop("pool", None)
    database |= {"CONN_MAX_AGE": CONNECTION_AGE_S, "CONN_HEALTH_CHECKS": True}


def drop_dead_connections(**_: Any) -> None:
    """A connection that broke, or is too old, is not for the next task: what a request does in the web process."""
    for connection in connections.all(initialized_only=True):
        connection.close_if_unusable_or_obsolete()


def end_in_time(*, how: str, **_: Any) -> None:
    """Celery's soft shutdown answers SIGQUIT only, and sleeps its whole time even when nothing runs.

    So SIGTERM begins as Celery's warm shutdown, which waits for running tasks without an end; if some still run after
    WARM_STOP_S, SIGQUIT follows: a little more time, then what is not done goes back to the broker at once.
    """
    if how == "Warm":
        timer = threading.Timer(WARM_STOP_S, _quit_if_busy)
        timer.daemon = True
        timer.start()


def _quit_if_busy() -> None:
    if state.active_requests:
        os.kill(os.getpid(), signal.SIGQUIT)

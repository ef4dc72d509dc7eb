"""What a worker or a beat does when it starts and ends as a process of its own: ``celery -A config worker|beat``."""

import logging
import os
import signal
import threading
from typing import Any

import billiard.pool
from billiard.util import get_logger as get_billiard_logger
from celery import signals
from celery.concurrency import get_implementation
from celery.worker import state
from django.conf import settings
from django.db import connections

from apps.common.processes import settle_down
from config import celery_broker
from config.celery_settings import WARM_STOP_S

CONNECTION_AGE_S = 60
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
    pool = get_implementation(options.get("pool_cls") or conf.worker_pool)
    if "prefork" in pool.__module__:
        _one_connection_a_process()


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

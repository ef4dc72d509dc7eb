"""The in-process Celery worker and beat of ``make run``: threads of the one process, on a durable broker."""

import logging
import threading
import time
from typing import Any

from celery.beat import EmbeddedService, Scheduler
from celery.platforms import EX_OK
from celery.worker import WorkController, state
from kombu.exceptions import OperationalError

from config import celery_broker
from config.celery import app
from config.celery_settings import QUEUES

logger = logging.getLogger(__name__)

CONCURRENCY = 4  # threads; a call to the fiscal authority holds one of them for its length
READY_TIMEOUT_S = 120
STOP_TIMEOUT_S = 10
LOOK_S = 0.25  # between two messages that wake the worker to its end


class InProcessWorker:
    """A worker and a beat in threads. Not for production: there they are processes of their own."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        app.loader.import_default_modules()  # a task that the worker does not know when it starts is unknown to it for ever
        self._worker = WorkController(
            app=app,
            pool_cls="threads",
            concurrency=CONCURRENCY,
            queues=QUEUES,
            hostname="inprocess@localhost",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            ready_callback=self._set_ready,
        )
        self._thread = threading.Thread(target=self._worker.start, name="celery-worker", daemon=True)
        # Celery's Scheduler keeps the schedule in memory; the default one writes a file.
        self._beat: Any = EmbeddedService(app, thread=True, scheduler_cls=Scheduler)

    def _set_ready(self, _worker: WorkController) -> None:
        self._ready.set()

    def start(self) -> None:
        """Start both, and wait until the worker takes tasks. Ends the process when the broker refuses us."""
        if why := celery_broker.refusal(app):
            raise SystemExit(why)
        self._thread.start()
        if not self._ready.wait(READY_TIMEOUT_S):
            raise RuntimeError(f"the worker was not ready within {READY_TIMEOUT_S} s")
        self._beat.start()

    def stop(self) -> None:
        """Let running tasks finish and stop. What was not begun stays in the broker and in the database."""
        # The worker's own loop looks at this flag and leaves; `stop()` would close the broker under the loop's feet.
        state.should_stop = EX_OK
        end = time.monotonic() + STOP_TIMEOUT_S
        while self._thread.is_alive() and time.monotonic() < end:
            _wake()
            self._thread.join(LOOK_S)
        if self._thread.is_alive():
            logger.error(
                "the worker did not stop within %s s; what it has not finished is taken up at the next start",
                STOP_TIMEOUT_S,
            )
        self._beat.stop()


def _wake() -> None:
    """Send a message. Celery's loop looks at its flag after one, or after two seconds, and then waits for one more.

    A sweep more or less changes nothing.
    """
    try:
        app.send_task("saga.sweep", retry=False, expires=STOP_TIMEOUT_S)
    except OperationalError:
        logger.info("the broker is away: the worker stops when it looks next")


def install_pgmq(database: dict[str, Any]) -> None:
    """Make the broker's database and install pgmq's SQL into it, once."""
    import pgmq
    import psycopg

    from config import embedded

    embedded.ensure_database(database, "lastro_broker")
    with psycopg.connect(
        host=database["HOST"], port=database["PORT"], user=database["USER"], dbname="lastro_broker", autocommit=True
    ) as connection:
        if connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'pgmq'").fetchone() is None:
            pgmq.install_pgmq_from_sql(conn=connection)

"""Celery's settings: the broker, the queue routes and the whole beat schedule."""

import ssl
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

# Redis hands a message out again when nobody acknowledged it in this time, "again, and again in a loop": it is longer than
# any step (a call's lease is a minute at most), and long waits are rows in the database, never Celery's countdowns.
VISIBILITY_TIMEOUT_S = 3600


def _pgmq_options(database: dict[str, Any]) -> dict[str, Any]:
    # Keyword form on purpose: of a URI the transport ignores ?host=, and without conn_string an environment
    # DATABASE_URL would silently replace the server.
    return {
        "conn_string": f"host={database['HOST']} port={database['PORT']} user={database['USER']} dbname=lastro_broker",
        "init_extension": False,  # config/worker.py installs pgmq once
        "visibility_timeout": 60,  # seconds; longer than any task
        "wait_time_seconds": 0,
        "polling_interval": 1,  # seconds; only the fall-back of NOTIFY
        "use_notify": True,
        "notify_throttle_interval_ms": 0,
    }


def _tls() -> dict[str, Any]:
    """Verify the broker's certificate, by CELERY_BROKER_CA_FILE or the system's authorities."""
    authorities = settings.CELERY_BROKER_CA_FILE or None
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": authorities}


broker_transport_options: dict[str, Any] = {}
if settings.CELERY_BROKER_URL:
    broker_url = settings.CELERY_BROKER_URL
    _scheme = urlsplit(broker_url).scheme
    if _scheme in {"redis", "rediss"}:
        broker_transport_options = {"visibility_timeout": VISIBILITY_TIMEOUT_S, "socket_keepalive": True}
        if _scheme == "rediss":
            broker_use_ssl = _tls()
    elif _scheme in {"amqp", "amqps"}:
        # Quorum queues: replicated, and an unconfirmed publish is an error instead of a loss.
        task_default_queue_type = "quorum"
        broker_transport_options = {"confirm_publish": True}
        if _scheme == "amqps":
            broker_use_ssl = {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": settings.CELERY_BROKER_CA_FILE or None}
else:
    broker_url = "pgmq://localhost"  # which server is in the options; without a host Kombu warns
    broker_transport_options = _pgmq_options(settings.DATABASES["default"])

# Results are rows in our own tables; nobody reads Celery's.
result_backend = None
task_ignore_result = True
# A message is done when its task is done. Tasks are wake-ups and may be repeated, and a worker that dies takes up to
# two more tries of one message with it before the sweeper alone is left to find the run.
task_acks_late = True
task_retry_on_worker_lost = True
task_annotations = {"*": {"max_retries": 2}}
worker_prefetch_multiplier = 1
worker_soft_shutdown_timeout = 10  # seconds that running tasks are given at SIGTERM
worker_enable_soft_shutdown_on_idle = True
worker_redirect_stdouts = False
worker_hijack_root_logger = False
worker_cancel_long_running_tasks_on_connection_loss = False
broker_connection_retry_on_startup = True
task_publish_retry_policy = {"max_retries": 2, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.2}
beat_max_loop_interval = 0.5

task_default_queue = "default"
task_routes = {
    "saga.*": {"queue": "saga"},
    "messaging.*": {"queue": "messaging"},
    "payments.*": {"queue": "payments"},
    "ledger.*": {"queue": "ledger"},
}
QUEUES = ["default", "saga", "messaging", "payments", "ledger"]


def _every(seconds: float, task: str) -> dict[str, Any]:
    # A periodic wake-up that nobody took before the next one is due has lost its meaning.
    return {"task": task, "schedule": seconds, "options": {"expires": max(seconds * 2, 5.0)}}


beat_schedule: dict[str, dict[str, Any]] = {
    # The guarantee behind every lost wake-up; see apps/saga/sweeper.py and apps/messaging/relay.py.
    "sweep-sagas": _every(1.0, "saga.sweep"),
    "relay-outbox": _every(1.0, "messaging.relay"),
    # Merchants' own payments whose answer is lost; sagas ask for theirs themselves.
    "ask-overdue-payments": _every(30.0, "payments.ask_overdue"),
    "expire-holds": _every(30.0, "ledger.expire_holds"),
    "forget-messages": _every(3600.0, "messaging.forget"),
    "forget-idempotency-keys": _every(3600.0, "idempotency.purge"),
}

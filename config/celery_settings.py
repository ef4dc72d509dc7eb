"""Celery's settings: the broker, the queue routes and the whole beat schedule."""

from typing import Any

from django.conf import settings


def _pgmq_options(database: dict[str, Any]) -> dict[str, Any]:
    # Keyword form on purpose: of a URI the transport ignores ?host=, and without conn_string an environment
    # DATABASE_URL would silently replace the server.
    return {
        "conn_string": f"host={database['HOST']} port={database['PORT']} user={database['USER']} dbname=lastro_broker",
        "init_extension": False,  # config/embedded.py installs pgmq once
        "visibility_timeout": 60,  # seconds; longer than any task
        "wait_time_seconds": 0,
        "polling_interval": 1,  # seconds; only the fall-back of NOTIFY
        "use_notify": True,
        "notify_throttle_interval_ms": 0,
    }


if settings.CELERY_BROKER_URL:
    broker_url = settings.CELERY_BROKER_URL
    broker_transport_options: dict[str, Any] = {"visibility_timeout": 3600} if "redis" in broker_url else {}
else:
    broker_url = "pgmq://localhost"  # which server is in the options; without a host Kombu warns
    broker_transport_options = _pgmq_options(settings.DATABASES["default"])

# Results are rows in our own tables; nobody reads Celery's.
result_backend = None
task_ignore_result = True
task_acks_late = True
worker_prefetch_multiplier = 1
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
}
beat_schedule: dict[str, dict[str, Any]] = {
    # The guarantee behind every lost wake-up; see apps/saga/sweeper.py and apps/messaging/relay.py.
    "sweep-sagas": {"task": "saga.sweep", "schedule": 1.0},
    "relay-outbox": {"task": "messaging.relay", "schedule": 1.0},
    # Merchants' own payments whose answer is lost; sagas ask for theirs themselves.
    "ask-overdue-payments": {"task": "payments.ask_overdue", "schedule": 30.0},
    "expire-holds": {"task": "ledger.expire_holds", "schedule": 30.0},
    "forget-idempotency-keys": {"task": "idempotency.purge", "schedule": 3600.0},
}

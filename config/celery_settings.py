"""Celery's settings: the broker, the queues and their routes, what a worker may do, and the whole beat schedule."""

import ssl
from typing import Any
from urllib.parse import urlsplit

from celery.schedules import crontab
from django.conf import settings

# A task that takes longer hangs: its process is killed, and the row in the database says what is left to do. The longest
# honest one is a step's call to the outside (a minute) or a relay that a slow broker holds up.
task_time_limit = settings.CELERY_TASK_TIME_LIMIT_S
# Redis hands a message out again when nobody acknowledged it in this time, "again, and again in a loop": so it is longer
# than any task may take. Long waits are rows in the database, never Celery's countdowns.
VISIBILITY_TIMEOUT_S = 3 * task_time_limit
# A wake-up that nobody took in an hour has been replaced by the sweeper's and beat's many times over. So a message that
# kills each worker's main process ends too: on Redis after EXPIRES_S / VISIBILITY_TIMEOUT_S deliveries.
EXPIRES_S = 3600
DELIVERIES_MAX = 5  # the same bound on RabbitMQ, which counts them
RETRIES_MAX = 2  # of a task whose process was killed under it
RETRY_S = 2  # after that; Celery's own default is three minutes
CONNECT_TIMEOUT_S = 3
ANSWER_TIMEOUT_S = 10  # without it a command waits for ever on a connection that died silently


def _pgmq_options(database: dict[str, Any]) -> dict[str, Any]:
    # Keyword form on purpose: of a URI the transport ignores ?host=, and without conn_string an environment
    # DATABASE_URL would silently replace the server.
    return {
        "conn_string": f"host={database['HOST']} port={database['PORT']} user={database['USER']} dbname=lastro_broker",
        "init_extension": False,  # config/worker.py installs pgmq once
        "visibility_timeout": VISIBILITY_TIMEOUT_S,
        "wait_time_seconds": 0,
        "polling_interval": 1,  # seconds; only the fall-back of NOTIFY
        "use_notify": True,
        "notify_throttle_interval_ms": 0,
    }


broker_transport_options: dict[str, Any] = {}
# One queue an app, so that each may have workers of its own and one app's flood does not delay another's tasks.
APPS = ("saga", "messaging", "payments", "ledger", "idempotency", "identity", "webhooks")
task_default_queue = "default"
QUEUES = [task_default_queue, *APPS]
task_routes = {f"{app}.*": {"queue": app} for app in APPS}
task_create_missing_queues = False  # `worker -Q ledgr` is an error, not a queue that nobody fills


def _queues(*, exchange: str = "", **arguments: Any) -> dict[str, dict[str, Any]]:
    """Every queue behind one topic exchange, or each behind a direct one of its own."""
    kind = "topic" if exchange else "direct"
    return {
        name: {"exchange": exchange or name, "exchange_type": kind, "routing_key": name, "queue_arguments": arguments}
        for name in QUEUES
    }


task_queues = _queues()
if settings.CELERY_BROKER_URL:
    broker_url = settings.CELERY_BROKER_URL
    _parts = urlsplit(broker_url)
    _authorities = settings.CELERY_BROKER_CA_FILE or None  # None: the system's
    if _parts.scheme in {"redis", "rediss"}:
        broker_transport_options = {
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "unacked_restore_throttle": 1,  # look for such messages every 10 s; by default every 100 s
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_timeout": ANSWER_TIMEOUT_S,
            "socket_keepalive": True,
        }
        if _parts.scheme == "rediss":
            broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": _authorities}
    elif _parts.scheme in {"amqp", "amqps"}:
        # Quorum queues: replicated. A topic exchange, because a delayed retry on quorum queues travels through topic
        # exchanges and would block a worker otherwise.
        task_queues = _queues(exchange="lastro", **{"x-queue-type": "quorum", "x-delivery-limit": DELIVERIES_MAX})
        broker_transport_options = {"confirm_publish": True}  # what was not confirmed is an error, not a loss
        if _parts.scheme == "amqps":
            # Without the name py-amqp takes any host's certificate of the same authority.
            broker_use_ssl = {
                "cert_reqs": ssl.CERT_REQUIRED,
                "ca_certs": _authorities,
                "server_hostname": _parts.hostname,
            }
else:
    broker_url = "pgmq://localhost"  # which server is in the options; without a host Kombu warns
    broker_transport_options = _pgmq_options(settings.DATABASES["default"])

broker_connection_timeout = CONNECT_TIMEOUT_S
broker_connection_retry_on_startup = True
broker_connection_max_retries = None  # brokers come back; a wrong password ends the process at its start
broker_heartbeat = 30  # seconds; RabbitMQ's connections
# A wake-up is sent after a commit, maybe in a request: three quick attempts, then beat and the sweeper find the work.
task_publish_retry_policy = {"max_retries": 2, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.2}

# Results are rows in our own tables; nobody reads Celery's.
result_backend = None
task_ignore_result = True
# A message is done when its task is done. Tasks are wake-ups and may be repeated. A process that dies under its task costs
# a new message with one more in `retries`, until max_retries; only when that message cannot be sent is the old one put
# back. Both are acknowledged otherwise, so nothing goes round for ever.
task_acks_late = True
task_retry_on_worker_lost = True
task_reject_on_worker_lost = True
task_annotations = {"*": {"max_retries": RETRIES_MAX, "default_retry_delay": RETRY_S, "expires": EXPIRES_S}}
# One message a process, with acks_late the running one: a long task holds up nobody behind it.
worker_prefetch_multiplier = 1
# At SIGTERM: no new task, WARM_STOP_S for those that run, then Celery's soft shutdown with so much more, then what is
# left goes back to the broker at once (config/celery_process.py). With the pool's own end, below the ten seconds that
# orchestrators give.
WARM_STOP_S = 3
worker_soft_shutdown_timeout = 2
worker_enable_soft_shutdown_on_idle = False
worker_redirect_stdouts = False
worker_hijack_root_logger = False
worker_cancel_long_running_tasks_on_connection_loss = False  # the work is safe to finish, and safe to repeat
if not settings.DATABASE_POOL_MAX:
    # Celery's fix-up for Django closes a process's connection before and after every task; so it does every so many tasks.
    # (A pool needs none of that, and a prefork worker no pool: see config/celery_process.py.)
    CELERY_DB_REUSE_MAX = 1000
beat_max_loop_interval = 0.5
# In memory: a schedule of intervals has nothing to remember, and a file would be one more thing to lock and to break.
beat_scheduler = "celery.beat:Scheduler"


def _every(seconds: float, task: str) -> dict[str, Any]:
    # A periodic wake-up that nobody took before the next one is due has lost its meaning.
    return {"task": task, "schedule": seconds, "options": {"expires": max(seconds * 2, 5.0)}}


def _hourly(minute: int, task: str) -> dict[str, Any]:
    # By the clock: a beat that is restarted more often than once an hour would never come to the end of an interval.
    return {"task": task, "schedule": crontab(minute=minute), "options": {"expires": EXPIRES_S}}


def _nightly(hour: int, minute: int, task: str) -> dict[str, Any]:
    return {"task": task, "schedule": crontab(hour=hour, minute=minute), "options": {"expires": EXPIRES_S}}


beat_schedule: dict[str, dict[str, Any]] = {
    # The guarantee behind every lost wake-up; see apps/saga/sweeper.py and apps/messaging/relay.py.
    "sweep-sagas": _every(1.0, "saga.sweep"),
    "triage-sagas": _every(1.0, "saga.triage"),
    "tidy-incidents": _every(60.0, "saga.tidy_incidents"),
    "relay-outbox": _every(1.0, "messaging.relay"),
    # Merchants' own payments whose answer is lost; sagas ask for theirs themselves.
    "ask-overdue-payments": _every(30.0, "payments.ask_overdue"),
    "send-webhooks": _every(1.0, "webhooks.sweep"),
    "forget-webhooks": _hourly(43, "webhooks.forget"),
    "void-stale-payments": _every(300.0, "payments.void_stale"),
    "expire-holds": _every(30.0, "ledger.expire_holds"),
    "roll-up-ledger": _every(1.0, "ledger.roll_up"),
    "chain-ledger": _every(30.0, "ledger.chain"),
    "prove-ledger-chain": _every(300.0, "ledger.patrol"),
    "archive-ledger-months": _hourly(37, "ledger.archive_months"),
    "tell-ledger-head": {
        "task": "ledger.tell_head",
        "schedule": crontab(minute=3, hour=0),
        "options": {"expires": EXPIRES_S},
    },
    "open-ledger-months": _hourly(27, "ledger.open_months"),
    # A difference is known after ten minutes; where nobody posts, the next morning (03:13 in São Paulo).
    "check-ledger-changes": _every(600.0, "ledger.check_changes"),
    "check-ledger": _nightly(6, 13, "ledger.check_all"),
    # Works two thirds of the time until the whole ledger is proven, however large it is.
    "go-on-with-ledger-check": _every(30.0, "ledger.check_on"),
    "archive-runs": _hourly(7, "saga.archive"),
    "forget-messages": _hourly(17, "messaging.forget"),
    "forget-idempotency-keys": _hourly(47, "idempotency.purge"),
    "forget-failed-logins": _hourly(57, "identity.forget_failed_logins"),
    "forget-ledger-batches": _hourly(57, "ledger.forget_batches"),
    "forget-ledger-refusals": _hourly(53, "ledger.forget_refusals"),
}

"""Every setting, read from the environment once, with its default and unit.

Two modes. *Embedded* (no DATABASE_URL, or LASTRO_EMBEDDED=1): a laptop's demo; PostgreSQL comes from a wheel, secrets
are generated into DATA_DIR, orders need no credentials. *Server* (DATABASE_URL is set): nothing has a default that
could be guessed, and what is missing stops the start.
"""

import re
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from config import connect, embedded, env, secret

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(env.text("DATA_DIR", str(BASE_DIR / ".data"))).resolve()

EMBEDDED, DEFAULT_PASSWORDS = secret.EMBEDDED, secret.DEFAULT_PASSWORDS
PORT = env.whole("PORT", 8080, least=1)
# Of the web server as a process of its own (config/web.py): where it listens, and how many processes share the port.
WEB_HOST = env.text("WEB_HOST", "127.0.0.1")
WEB_PROCESSES = env.whole("WEB_PROCESSES", 1, least=1)
# Requests that a web process works on at a time: each holds a thread and a connection (PostgreSQL's own limit is 100), also
# while it waits for an outcome (Prefer: wait). More would wait for the one interpreter, with locks in hand (decision 32).
WEB_THREADS = env.whole("WEB_THREADS", 8, least=1)
DEBUG = False

# --- Secrets --------------------------------------------------------------------------------------------------------
SECRET_KEY = secret.hard_to_guess("SECRET_KEY", secret.required("SECRET_KEY", DATA_DIR / "secret_key"))
# Keys that it replaced, comma separated: sessions, Idempotency-Keys and sealed certificates of their time are still known.
SECRET_KEY_FALLBACKS = [secret.hard_to_guess("SECRET_KEY_FALLBACKS", word) for word in env.words("SECRET_KEY_FALLBACKS")]
# Keys of the card vault, newest first, comma separated; the newest encrypts, the others still decrypt.
VAULT_KEYS = secret.keys("VAULT_KEYS", DATA_DIR / "vault_key")

# --- Database -------------------------------------------------------------------------------------------------------
# Connections of one process: its threads share the pool (PostgreSQL's own limit is 100). 0: no pool, a connection per
# thread: what config/web.py takes, and a prefork Celery worker, which closes the pool around every task.
DATABASE_POOL_MAX = env.whole("DATABASE_POOL_MAX", 24)
DATABASE_POOL_TIMEOUT_S = env.whole("DATABASE_POOL_TIMEOUT_S", 10, least=1)
# How long a statement waits for a row that somebody else has locked, in milliseconds: then it is a technical failure, which
# is tried again. 0: for ever, for a pooler that takes no start-up options.
DATABASE_LOCK_TIMEOUT_MS = env.whole("DATABASE_LOCK_TIMEOUT_MS", 10_000)
# How long a transaction may do nothing, in milliseconds, before the server ends it: a process that stalls within one holds
# its locks, and others would wait for as long as it does. Ours never wait for anybody outside the database. 0: for ever.
DATABASE_IDLE_TRANSACTION_TIMEOUT_MS = env.whole("DATABASE_IDLE_TRANSACTION_TIMEOUT_MS", 30_000)
# The hot statements (apps/common/prepared.py) are prepared once per connection. Off behind a pooler that gives each
# transaction another connection and does not follow prepared statements.
DATABASE_PREPARE = env.flag("DATABASE_PREPARE", default=True)


def _database() -> dict[str, Any]:
    url = env.text("DATABASE_URL")
    base = connect.how(
        pool_max=DATABASE_POOL_MAX,
        pool_timeout_s=DATABASE_POOL_TIMEOUT_S,
        prepare=DATABASE_PREPARE,
        lock_timeout=DATABASE_LOCK_TIMEOUT_MS,
        idle_in_transaction_session_timeout=DATABASE_IDLE_TRANSACTION_TIMEOUT_MS,
    )
    if not url:
        if not EMBEDDED:
            raise ImproperlyConfigured("DATABASE_URL is missing. Outside the embedded mode it has no default.")
        server = embedded.start_postgres(DATA_DIR / env.text("EMBEDDED_POSTGRES_DIR", "postgres"))
        embedded.ensure_database(server, "lastro")
        return {**base, **server, "NAME": "lastro"}
    secret.refuse_default_password("DATABASE_URL", url)
    server = connect.where("DATABASE_URL", url)
    return {**base, **server, "OPTIONS": {**server["OPTIONS"], **base["OPTIONS"]}}


# A streaming replica for questions to the ledger whose callers can bear an answer that is a moment old (see
# docs/ledger-questions.md). Empty: the primary answers everything.
DATABASE_REPLICA_URL = env.text("DATABASE_REPLICA_URL")
# A replica whose last commit is older than this, in seconds, is asked nothing, unless there was none since.
DATABASE_REPLICA_LAG_MAX_S = env.whole("DATABASE_REPLICA_LAG_MAX_S", 60, least=1)


def _replica() -> dict[str, Any]:
    # The primary answers when the replica does not, so nobody waits long for it.
    base = connect.how(
        pool_min=0,  # nothing is to be kept open to a server that may be away
        pool_max=DATABASE_POOL_MAX,
        pool_timeout_s=1,
        prepare=DATABASE_PREPARE,
        idle_in_transaction_session_timeout=DATABASE_IDLE_TRANSACTION_TIMEOUT_MS,
    )
    secret.refuse_default_password("DATABASE_REPLICA_URL", DATABASE_REPLICA_URL)
    server = connect.where("DATABASE_REPLICA_URL", DATABASE_REPLICA_URL)
    options = {"connect_timeout": "2", **connect.VANISHED, **server["OPTIONS"], **base["OPTIONS"]}
    return {**base, **server, "OPTIONS": options, "TEST": {"MIRROR": "default"}}


DATABASES = {"default": _database(), **({"replica": _replica()} if DATABASE_REPLICA_URL else {})}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Celery: see config/celery.py for routes and the beat schedule -------------------------------------------------
# Empty: Kombu's pgmq transport on the embedded PostgreSQL (durable, no server of its own).
CELERY_BROKER_URL = env.text("CELERY_BROKER_URL")
if CELERY_BROKER_URL:
    secret.refuse_default_password("CELERY_BROKER_URL", CELERY_BROKER_URL)
CELERY_BROKER_CA_FILE = env.text("CELERY_BROKER_CA_FILE")  # of rediss:// or amqps://; empty: the system's authorities
# A task that runs longer hangs, and its process is killed (prefork). Redis redelivers what nobody acknowledged in three
# times as long.
CELERY_TASK_TIME_LIMIT_S = env.whole("CELERY_TASK_TIME_LIMIT_S", 300, least=1)
if not CELERY_BROKER_URL and not EMBEDDED:
    raise ImproperlyConfigured("CELERY_BROKER_URL is missing. Outside the embedded mode it has no default.")

# --- Messaging ------------------------------------------------------------------------------------------------------
KAFKA_BOOTSTRAP_SERVERS = env.text("KAFKA_BOOTSTRAP_SERVERS")
# The local transport is a log in PostgreSQL: durable and ordered, for one machine.
MESSAGING_TRANSPORT = env.text("MESSAGING_TRANSPORT", "kafka" if KAFKA_BOOTSTRAP_SERVERS else "local")
# Kafka's security: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL; the mechanism is PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
KAFKA_SECURITY_PROTOCOL = env.text("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT")
KAFKA_SASL_MECHANISM = env.text("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512")
KAFKA_SASL_USERNAME = env.text("KAFKA_SASL_USERNAME")
KAFKA_SASL_PASSWORD = env.text("KAFKA_SASL_PASSWORD")
if not EMBEDDED and KAFKA_SASL_PASSWORD in DEFAULT_PASSWORDS:
    raise ImproperlyConfigured("KAFKA_SASL_PASSWORD is a default password. Set one of your own.")
KAFKA_SSL_CAFILE = env.text("KAFKA_SSL_CAFILE")  # PEM; empty: the system's authorities
KAFKA_SSL_CERTFILE = env.text("KAFKA_SSL_CERTFILE")  # PEM; for brokers that ask clients for a certificate
KAFKA_SSL_KEYFILE = env.text("KAFKA_SSL_KEYFILE")
# Put before every topic and group, so that several environments may share a broker.
MESSAGING_PREFIX = env.text("MESSAGING_PREFIX")
# Who sends what is published: our relay, or Debezium, which reads the log of messages itself (docs/outbox.md).
OUTBOX_READER = env.text("OUTBOX_READER", "relay")
if OUTBOX_READER not in {"relay", "debezium"}:
    raise ImproperlyConfigured(f"OUTBOX_READER is {OUTBOX_READER!r}; it is relay or debezium.")
if OUTBOX_READER == "debezium" and MESSAGING_TRANSPORT != "kafka":
    raise ImproperlyConfigured("OUTBOX_READER is debezium, which writes to Kafka: set KAFKA_BOOTSTRAP_SERVERS.")
# Days for which the log of all messages is kept, whole days at a time; 0: for ever.
MESSAGE_LOG_DAYS = env.whole("MESSAGE_LOG_DAYS", 90)
# Days for which a finished run of a saga is kept unless its use case says otherwise; 0: for ever. Then it is exported to
# Parquet files in this folder, which all workers share, and deleted. Empty: nothing is exported, so nothing is deleted.
SAGA_KEEP_DAYS = env.whole("SAGA_KEEP_DAYS", 365)
SAGA_ARCHIVE_DIR = env.text("SAGA_ARCHIVE_DIR", str(DATA_DIR / "archive") if EMBEDDED else "")
# Actions on runs that a second person must approve: names of actions (retry, compensate, skip, handle), and an amount at
# risk above which any action needs it, for example compensate,skip,10000.00. Empty: none does.
_ACTION = r"retry|compensate|skip|handle|[0-9]{1,20}([.][0-9]{2})?"
SAGA_FOUR_EYES = env.words("SAGA_FOUR_EYES", each=_ACTION, what="an action or an amount")
# A schema registry with Confluent's API, for example https://registry.example.com/apis/ccompat/v7. With it, event topics
# carry Avro; without it, everything is JSON.
SCHEMA_REGISTRY_URL = env.text("SCHEMA_REGISTRY_URL")
SCHEMA_REGISTRY_USERNAME = env.text("SCHEMA_REGISTRY_USERNAME")
SCHEMA_REGISTRY_PASSWORD = env.text("SCHEMA_REGISTRY_PASSWORD")
SCHEMA_REGISTRY_CA_FILE = env.text("SCHEMA_REGISTRY_CA_FILE")  # PEM; empty: the system's authorities
if SCHEMA_REGISTRY_URL and not re.fullmatch(r"https?://[^@/]+(/[^@]*)?", SCHEMA_REGISTRY_URL):
    raise ImproperlyConfigured("SCHEMA_REGISTRY_URL begins with http:// or https:// and carries no login.")
if SCHEMA_REGISTRY_URL and OUTBOX_READER == "debezium":
    raise ImproperlyConfigured("SCHEMA_REGISTRY_URL wants OUTBOX_READER=relay: Debezium sends the log's JSON as it is.")
if not EMBEDDED and SCHEMA_REGISTRY_PASSWORD in DEFAULT_PASSWORDS:
    raise ImproperlyConfigured("SCHEMA_REGISTRY_PASSWORD is a default password. Set one of your own.")
RABBITMQ_URL = env.text("RABBITMQ_URL")
if RABBITMQ_URL:
    secret.refuse_default_password("RABBITMQ_URL", RABBITMQ_URL)
RABBITMQ_CA_FILE = env.text("RABBITMQ_CA_FILE")  # PEM, for amqps://; empty: the system's authorities
# Topics are made by `manage.py topics --apply`. Retention in days, by the last word of the topic's name.
TOPIC_PARTITIONS = env.whole("TOPIC_PARTITIONS", 12, least=1)
TOPIC_REPLICATION_FACTOR = env.whole("TOPIC_REPLICATION_FACTOR", 1, least=1)
TOPIC_RETENTION_DAYS = {
    "in": env.whole("TOPIC_RETENTION_DAYS_IN", 7, least=1),
    "compensate": env.whole("TOPIC_RETENTION_DAYS_IN", 7, least=1),
    "event": env.whole("TOPIC_RETENTION_DAYS_EVENT", 30, least=1),
    "error": env.whole("TOPIC_RETENTION_DAYS_ERROR", 90, least=1),
}
TOPICS_COMPACTED = env.words("TOPICS_COMPACTED")  # of these Kafka keeps the newest message of every key for ever

# --- What the API lets in -------------------------------------------------------------------------------------------
# Orders without credentials: the seed's curl has none. Never on by default outside the embedded mode.
ORDERS_ALLOW_ANONYMOUS = env.flag("ORDERS_ALLOW_ANONYMOUS", default=EMBEDDED)
# Returns of orders. A customer may give a purchase back within so many days (seven by Brazilian law); one above this amount
# needs a person's approval, and then so many seconds pass, in which it can still be stopped, before it is accepted.
ORDERS_RETURN_DAYS = env.whole("ORDERS_RETURN_DAYS", 7)
ORDERS_RETURN_APPROVAL_ABOVE = env.amount("ORDERS_RETURN_APPROVAL_ABOVE", "200.00")
ORDERS_RETURN_COOLING_OFF_S = env.whole("ORDERS_RETURN_COOLING_OFF_S", 60)
# Failed logins, before whoever failed has to wait until the first of them is so many seconds old: of one name or one known
# device at the back office, and of one address there and at the API (a whole office may stand behind one). What succeeds
# does not count. A person errs a few times; ten guesses a quarter of an hour find no password.
LOGIN_FAILURES_MAX = env.whole("LOGIN_FAILURES_MAX", 10, least=1)
LOGIN_FAILURES_OF_ADDRESS_MAX = env.whole("LOGIN_FAILURES_OF_ADDRESS_MAX", 50, least=1)
LOGIN_FAILURES_WINDOW_S = env.whole("LOGIN_FAILURES_WINDOW_S", 900, least=1)
# Our own proxies, addresses or networks (10.0.0.0/8), comma separated: they alone are believed about the address of the
# caller (X-Forwarded-For). Empty: whoever is connected to us is the caller.
TRUSTED_PROXIES = env.networks("TRUSTED_PROXIES")
REQUEST_BODY_BYTES_MAX = 64 * 1024
# Addresses with a limit of their own. A batch has up to 10,000 lines of some 300 bytes, 800 with details. It takes 50 MB of
# memory while it is posted, and the worst that can be said in so much JSON 260 MB; its caller is known by then.
REQUEST_BODY_BYTES_MAX_AT = {"/ledger/transactions/batch": 8 * 1024 * 1024}
# How long POST /orders may wait for the outcome when the caller does not say (RFC 7240, Prefer: wait), in milliseconds.
INLINE_BUDGET_MS = env.whole("INLINE_BUDGET_MS", 100)

# --- Card testing: see apps/payments/card_testing.py --------------------------------------------------------------------
# How many card payments the processor may refuse within so many seconds before others are not tried: of one card (its
# holder tries two or three times), of one customer's saved cards, and of one account, when that was half of its last
# payments: a good shop has some twenty in a hundred refused, so half of a hundred is no accident. 0: no limit, as in the
# embedded mode, whose sandbox has one card that is refused, which everybody tries.
PAYMENTS_REFUSED_WINDOW_S = env.whole("PAYMENTS_REFUSED_WINDOW_S", 3600, least=1)
PAYMENTS_REFUSED_OF_CARD_MAX = env.whole("PAYMENTS_REFUSED_OF_CARD_MAX", 0 if EMBEDDED else 5)
PAYMENTS_REFUSED_OF_CUSTOMER_MAX = env.whole("PAYMENTS_REFUSED_OF_CUSTOMER_MAX", 0 if EMBEDDED else 10)
PAYMENTS_REFUSED_OF_ACCOUNT_MAX = env.whole("PAYMENTS_REFUSED_OF_ACCOUNT_MAX", 0 if EMBEDDED else 50)

# --- Webhooks: what merchants' own servers are told -----------------------------------------------------------------
# Lets endpoints be http://, on any port and at any address, also private ones: for development. Elsewhere a merchant could
# have us talk to our own network.
WEBHOOKS_ALLOW_LOCAL = env.flag("WEBHOOKS_ALLOW_LOCAL", default=EMBEDDED)
WEBHOOKS_CA_FILE = env.text("WEBHOOKS_CA_FILE")  # PEM; by whom endpoints are certified; empty: the system's authorities
WEBHOOKS_ENDPOINTS_MAX = env.whole("WEBHOOKS_ENDPOINTS_MAX", 10, least=1)  # of one account
# Requests to one endpoint at a time, to all of one account, so that a merchant whose servers are slow does not take all
# senders, and of one worker process to all of them. The embedded worker has four threads, and one of them at least is for
# everything else.
WEBHOOKS_IN_FLIGHT_MAX = env.whole("WEBHOOKS_IN_FLIGHT_MAX", 2 if EMBEDDED else 4, least=1)
WEBHOOKS_IN_FLIGHT_OF_ACCOUNT_MAX = env.whole("WEBHOOKS_IN_FLIGHT_OF_ACCOUNT_MAX", 8, least=1)
WEBHOOKS_SENDERS_MAX = env.whole("WEBHOOKS_SENDERS_MAX", 3 if EMBEDDED else 50, least=1)
# Days for which events, their deliveries and attempts are kept, and can be sent again.
WEBHOOKS_KEEP_DAYS = env.whole("WEBHOOKS_KEEP_DAYS", 30, least=7)

# --- Metrics ----------------------------------------------------------------------------------------------------------
# What a scraper shows as "Authorization: Bearer …". Empty: no metrics, save in the embedded mode, which is on loopback.
METRICS_TOKEN = env.text("METRICS_TOKEN")
if METRICS_TOKEN:
    secret.hard_to_guess("METRICS_TOKEN", METRICS_TOKEN)
# Where `--metrics-port` of consume, relay and Celery workers listens; 0.0.0.0 in a container that is scraped from outside.
METRICS_HOST = env.text("METRICS_HOST", "127.0.0.1")

# --- Ledger: where the journeys post to (branch and account are text) ---------------------------------------------------
LEDGER_BRANCH = env.text("LEDGER_BRANCH", "0001")
# Days before today that a posting's dateref may lie. It bounds the day rows that one posting can shift.
LEDGER_BACKDATE_DAYS_MAX = env.whole("LEDGER_BACKDATE_DAYS_MAX", 7)
# Days after which the key of a batch is forgotten; 0: never. Tracekeys are kept for ever, so nothing is posted twice after
# it, but what was refused may then be posted. As long as a refusal of the queue is kept; a client that repeats after a week
# (Idempotency-Key) has given up long before.
LEDGER_BATCH_KEYS_DAYS = env.whole("LEDGER_BATCH_KEYS_DAYS", 30)
# Is an account opened, without money and with the floor zero, by the first posting that names it in a known branch?
LEDGER_OPEN_ON_FIRST_USE = env.flag("LEDGER_OPEN_ON_FIRST_USE", False)
# Whole months behind the present one whose lines stay in the table: older ones are exported to Parquet files in this
# folder, which all workers share, and detached; months that are over are sealed before. 0: no month is sealed by itself.
LEDGER_MONTHS_ONLINE = env.whole("LEDGER_MONTHS_ONLINE", 0)
LEDGER_ARCHIVE_DIR = env.text("LEDGER_ARCHIVE_DIR", str(DATA_DIR / "archive") if EMBEDDED else "")
# How an exported statement (OFX) names the bank: its number (COMPE or ISPB), at most nine characters.
LEDGER_BANK_ID = env.matching("LEDGER_BANK_ID", "0000", r"[0-9A-Za-z]{1,9}", "one to nine letters and digits")
# Reversals by hand of more than this amount wait for a second person, for example 1000.00; 0.00: all do; empty: none.
LEDGER_FOUR_EYES = env.amount("LEDGER_FOUR_EYES", "0.00") if env.text("LEDGER_FOUR_EYES") else None
LEDGER_SALES_ACCOUNT = env.text("LEDGER_SALES_ACCOUNT", "sales")
LEDGER_CARD_CLEARING_ACCOUNT = env.text("LEDGER_CARD_CLEARING_ACCOUNT", "card-clearing")
# What we owe the merchants for their own payments, credited by captures and debited by refunds. Empty: they are not
# posted. Open the account and the events 103 and 104 before (docs/merchants.md); the embedded mode does.
LEDGER_MERCHANTS_ACCOUNT = env.text("LEDGER_MERCHANTS_ACCOUNT", "merchants" if EMBEDDED else "")

# --- Fiscal authority -----------------------------------------------------------------------------------------------
# "sandbox": the local sandbox authority, on a loopback port of its own. It has no fiscal value, so only the embedded mode
# takes it without being told.
_authority = env.text("FISCAL_AUTHORITY_URL", "sandbox" if EMBEDDED else "")
if not _authority:
    raise ImproperlyConfigured("FISCAL_AUTHORITY_URL is missing: the authority's address, or the word sandbox.")
FISCAL_AUTHORITY_URL = "" if _authority == "sandbox" else _authority
# The certificate authority that a sandbox in another container is trusted by (PEM); empty: the system's.
FISCAL_AUTHORITY_CA_FILE = env.text("FISCAL_AUTHORITY_CA_FILE")
FISCAL_SANDBOX_PORT = env.whole("FISCAL_SANDBOX_PORT", 0)
# CNPJ of the company that sells, whose certificate signs the documents.
FISCAL_ISSUER_CNPJ = env.text("FISCAL_ISSUER_CNPJ", "11222333000181" if EMBEDDED else "")
FISCAL_AUTHORITY_TIMEOUT_S = env.whole("FISCAL_AUTHORITY_TIMEOUT_S", 10, least=1)

# --- Django ---------------------------------------------------------------------------------------------------------
ALLOWED_HOSTS = env.words("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]" if EMBEDDED else "")
CSRF_TRUSTED_ORIGINS = env.words("CSRF_TRUSTED_ORIGINS")
CSRF_FAILURE_VIEW = "apps.backoffice.pages.errors.form_refused"
ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
WSGI_APPLICATION = None

INSTALLED_APPS = [
    "apps.backoffice",
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "apps.observability",
    "apps.messaging",
    "apps.idempotency",
    "apps.identity",
    "apps.saga",
    "apps.customers",
    "apps.payments",
    "apps.ledger",
    "apps.fiscal_docs",
    "apps.webhooks",
    "apps.orders",
    "config",  # no tables: for its command, manage.py demo
]

MIDDLEWARE = [
    "apps.observability.middleware.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "apps.observability.middleware.BodyLimitMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "apps.common.known_parameters.KnownParametersMiddleware",
    "apps.backoffice.middleware.BusinessZoneMiddleware",
    "apps.backoffice.middleware.DoorsMiddleware",
    "apps.backoffice.middleware.PolicyMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True
STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
WHITENOISE_USE_FINDERS = EMBEDDED
if EMBEDDED:
    STATIC_ROOT.mkdir(parents=True, exist_ok=True)
APPEND_SLASH = False
LOGIN_REDIRECT_URL = "admin:index"

# A real deployment stands behind TLS; the embedded mode is plain HTTP on loopback.
TLS = env.flag("TLS", default=not EMBEDDED)
SECURE_SSL_REDIRECT = TLS
# Probes and scrapers ask the process itself, behind the proxy that ends TLS.
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$"]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if TLS else None
SECURE_HSTS_SECONDS = 31_536_000 if TLS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = TLS
SECURE_HSTS_PRELOAD = TLS
SESSION_COOKIE_SECURE = TLS
CSRF_COOKIE_SECURE = TLS
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["apps.identity.authentication.AccountBasicAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["apps.common.parsers.StrictJSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "apps.common.problems.exception_handler",
    "UNAUTHENTICATED_USER": None,
    "COERCE_DECIMAL_TO_STRING": True,
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"masked": {"()": "apps.observability.logs.MaskFilter"}},
    "formatters": {"json": {"()": "apps.observability.logs.JsonFormatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "filters": ["masked"]}},
    # Celery tells every task at INFO, and two wake-ups a second would hide everything else.
    "loggers": {
        "celery": {"level": env.text("CELERY_LOG_LEVEL", "WARNING")},
        # A database that is away is told by whoever needs it; a replica's pool would tell it all the time.
        "psycopg.pool": {"level": "ERROR"},
        # A broker that is away is told once by the relay and the consumers; the client tells it for every connection.
        "kafka.net.selector": {"level": "ERROR"},
        "kafka.net.sasl.plain": {"level": "ERROR"},
    },
    "root": {"handlers": ["stderr"], "level": env.text("LOG_LEVEL", "WARNING" if EMBEDDED else "INFO")},
}

from config.spectacular import SPECTACULAR_SETTINGS  # noqa: E402, F401  # the OpenAPI document
from config.unfold import UNFOLD  # noqa: E402, F401  # the back office's shell

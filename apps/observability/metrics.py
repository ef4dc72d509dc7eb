"""Every metric of the project: its name, what it means and its labels. The values come from the apps above.

An app registers a source, a function that is asked at each scrape, in its ``AppConfig.ready``. Almost all our numbers are
rows, so every process would tell the same ones: one process is scraped (``/metrics`` of the web server, any of its
workers), and prometheus_client's multi-process files are not needed. Only what no row tells, how often and how fast a
relay and a consumer do their work, is counted in memory: each of these processes tells its own on its ``--metrics-port``,
also a Celery worker that relays.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from django.db import connection, transaction
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

logger = logging.getLogger(__name__)

STATEMENT_TIMEOUT = "2s"  # of one source's queries; a scraper gives up after ten seconds


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number that goes up and down."""

    name: str
    text: str
    labels: tuple[str, ...] = ()


MESSAGES_TO_RELAY = Gauge(
    "lastro_messages_to_relay", "Messages that the broker has not acknowledged; counted up to 100,000."
)
MESSAGES_OLDEST = Gauge(
    "lastro_messages_to_relay_oldest_seconds", "Age of the oldest message to relay; 0 when there is none."
)
MESSAGES_PARKED = Gauge("lastro_messages_parked", "Messages that the broker refuses by themselves: an operator decides.")
REDELIVERIES = Gauge("lastro_redeliveries", "Messages that a group's handler failed on, and those behind them.", ("group",))
DEAD_LETTERS = Gauge("lastro_dead_letters_day", "Dead letters of the last 24 hours; counted up to 1,000.")
DEAD_LETTERS_BY_TOPIC = Gauge(
    "lastro_dead_letters_topic_day", "The same by the topic that they lie on; absent where there is none.", ("topic",)
)
CONSUMER_LAG = Gauge(
    "lastro_consumer_lag",
    "Records that a group has not handled yet, as the broker said in the last 15 s; absent while it does not answer.",
    ("group", "topic", "partition"),
)
BROKER_UP = Gauge("lastro_broker_up", "1 when the broker answered the question for the lag, else 0.")
SAGA_RUNS = Gauge("lastro_saga_runs", "Runs that are not over, and those that are stuck.", ("status",))
SAGA_RUNS_OVER = Gauge(
    "lastro_saga_runs_over_day", "Runs begun in the last 24 hours that are over; counted up to 100,000.", ("status",)
)
SAGA_INCIDENTS = Gauge(
    "lastro_saga_incidents", "Incidents: open; of those unowned and not silenced; of those silenced.", ("state",)
)
SAGA_AT_RISK = Gauge(
    "lastro_saga_amount_at_risk", "The amounts of the runs that are in error, in the currency of the orders; 100,000 runs."
)
SAGA_ACTION_ITEMS = Gauge("lastro_saga_action_items", "Runs of operators' actions that wait for their turn.", ("status",))
PAYMENTS_UNANSWERED = Gauge(
    "lastro_payments_unanswered",
    "What was asked of the payment processor more than half a minute ago and has no answer; counted up to 10,000.",
    ("kind",),
)
LEDGER_DIFFERENCES = Gauge(
    "lastro_ledger_differences", "What checks found to differ, by whether somebody has acknowledged it.", ("state",)
)
LEDGER_CHECK_AGE = Gauge(
    "lastro_ledger_check_age_seconds",
    "Since the moment that the last whole check of this kind saw; without one, since the first check began.",
    ("kind",),
)
LEDGER_CHECK_SECONDS = Gauge("lastro_ledger_check_seconds", "How long that check took.", ("kind",))
LEDGER_CHECK_PROGRESS = Gauge(
    "lastro_ledger_check_progress_ratio",
    "How much of the whole ledger the full check that runs has proven; absent without one.",
)
LEDGER_CHECK_TRIES = Gauge(
    "lastro_ledger_check_tries",
    "How often the next piece of that check was begun: above 1 it was killed; absent without one.",
)
LEDGER_UNPROVEN = Gauge(
    "lastro_ledger_unproven_accounts", "Accounts that no check had proved when the last one ended, or that differ."
)
LEDGER_SUSPENSIONS = Gauge("lastro_ledger_suspensions", "Suspensions of posting that hold now.")
LEDGER_UNCHAINED = Gauge(
    "lastro_ledger_unchained", "Numbers of lines that were drawn and are not in the chain of hashes yet."
)
LEDGER_UNCHAINED_OLDEST = Gauge(
    "lastro_ledger_unchained_oldest_seconds", "Age of the oldest line that is not in the chain yet; 0 when all are."
)
LEDGER_CHAIN_DAMAGES = Gauge(
    "lastro_ledger_chain_damages", "What was found changed in the ledger's chain, in this round of its proof or the last."
)
LEDGER_CHAIN_PROVED_AGE = Gauge(
    "lastro_ledger_chain_proved_seconds", "Age of the last whole round of the proof; absent before the first one."
)
LEDGER_REPLICA_UP = Gauge("lastro_ledger_replica_up", "1 when the replica answers and still is one, else 0.")
LEDGER_REPLICA_BEHIND = Gauge("lastro_ledger_replica_behind_bytes", "What the replica has not replayed of the log yet.")
WEBHOOK_ENDPOINTS = Gauge(
    "lastro_webhook_endpoints", "Merchants' endpoints: well; failing since their last success; disabled.", ("state",)
)
WEBHOOKS_WAITING = Gauge(
    "lastro_webhooks_waiting", "Deliveries that are due at endpoints that are well; counted up to 100,000."
)
WEBHOOKS_OLDEST = Gauge("lastro_webhooks_waiting_oldest_seconds", "How long the oldest of them is due; 0 without one.")
LOGINS_LIMITED = Gauge(
    "lastro_logins_limited",
    "Who has failed to log in too often and has to wait: addresses at the api, addresses (web), names and devices at the "
    "back office.",
    ("what",),
)
PAYMENTS_LIMITED = Gauge(
    "lastro_payments_limited",
    "Accounts of whose last card payments so many were refused that only cards that have paid before are tried; up to 20.",
)
SOURCE_UP = Gauge("lastro_metrics_source_up", "1 when this part of the metrics could be read, else 0.", ("source",))


# --- Counted in the process that does it --------------------------------------------------------------------------------
disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter, which nobody reads
WORK = CollectorRegistry()
# From one row on a local disk to a broker that answers after a connection's timeout.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
RELAY_MESSAGES = Counter(
    "lastro_relay_messages",
    "Messages about which the broker has said its last word in a batch: acknowledged, refused, not_sent.",
    ("topic", "outcome"),
    registry=WORK,
)
RELAY_BATCH_SECONDS = Histogram(
    "lastro_relay_batch_seconds", "From a batch's sending to the last word about it.", buckets=SECONDS, registry=WORK
)
RELAY_FAILURES = Counter(
    "lastro_relay_failures", "Rounds of the relay that ended early: broker_down, error.", ("cause",), registry=WORK
)
CONSUMER_MESSAGES = Counter(
    "lastro_consumer_messages",
    "Messages that a group has read: handled, copy (it took effect before), put_aside for a later attempt or behind one of "
    "its key, passed_over (not for this group), buried as a dead letter.",
    ("group", "topic", "outcome"),
    registry=WORK,
)
CONSUMER_FAILURES = Counter(
    "lastro_consumer_failures", "Attempts of a group's handler that failed.", ("group", "topic"), registry=WORK
)
CONSUMER_COMMIT_SECONDS = Histogram(
    "lastro_consumer_commit_seconds",
    "How long a unit of messages took that was handled in one commit.",
    ("group",),
    buckets=SECONDS,
    registry=WORK,
)


@dataclass(frozen=True, slots=True)
class Reading:
    """A gauge's value, for these values of its labels."""

    gauge: Gauge
    value: float
    labels: tuple[str, ...] = ()


Source = Callable[[], Iterable[Reading]]
_sources: dict[str, tuple[Source, bool]] = {}


def register(name: str, source: Source, *, queries: bool) -> None:
    """Ask this function at every scrape. ``queries``: it reads the database, and gets STATEMENT_TIMEOUT for each statement.

    It must not wait longer than about two seconds. What it raises is logged, and its readings are absent.
    """
    _sources[name] = (source, queries)


def _read(source: Source, queries: bool) -> list[Reading]:
    if not queries:
        return list(source())
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'")
        return list(source())


def readings() -> Iterator[Reading]:
    """What all sources say now. A source that fails takes only its own readings with it."""
    for name, (source, queries) in sorted(_sources.items()):
        try:
            found = _read(source, queries)
        except Exception:
            logger.exception("the metrics of %s could not be read", name)
            found = [Reading(SOURCE_UP, 0, (name,))]
        else:
            found.append(Reading(SOURCE_UP, 1, (name,)))
        yield from found


class _Facts(Collector):
    def collect(self) -> Iterator[GaugeMetricFamily]:
        families: dict[str, GaugeMetricFamily] = {}
        for reading in readings():
            gauge = reading.gauge
            family = families.setdefault(gauge.name, GaugeMetricFamily(gauge.name, gauge.text, labels=gauge.labels))
            family.add_metric(reading.labels, reading.value)
        yield from families.values()


FACTS = CollectorRegistry(auto_describe=False)
FACTS.register(_Facts())

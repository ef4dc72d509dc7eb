"""The post office in numbers. What they are called is in apps/observability/metrics.py."""

from collections import Counter
from collections.abc import Iterator

from django.db import connection
from django.utils import timezone

from apps.messaging.dead_letters import error_topics
from apps.messaging.lag import LagWatch
from apps.messaging.models import Message
from apps.messaging.overview import DEAD_LETTERS_MAX, DEAD_LETTERS_SINCE
from apps.messaging.partitions import first_message_id
from apps.observability import metrics
from apps.observability.metrics import Reading

# A broker that was away for hours leaves millions of rows: that there are very many is all that a graph needs to say.
COUNT_MAX = 100_000

_TO_RELAY = "SELECT count(*) FROM (SELECT FROM messaging_pending WHERE parked_at IS NULL LIMIT %s) AS few"
_PARKED = "SELECT count(*) FROM (SELECT FROM messaging_pending WHERE parked_at IS NOT NULL LIMIT %s) AS few"
# An id begins with the time at which it was made, in milliseconds.
_OLDEST = "SELECT message_id FROM messaging_pending WHERE parked_at IS NULL ORDER BY seq LIMIT 1"
_REDELIVERIES = """
SELECT "group", count(*) FROM (SELECT "group" FROM messaging_redelivery LIMIT %s) AS few GROUP BY 1 ORDER BY 1
"""
_watch = LagWatch()


def register() -> None:
    """Tell the metrics where to ask."""
    metrics.register("messaging", _rows, queries=True)
    metrics.register("broker", _broker, queries=False)


def _rows() -> Iterator[Reading]:
    now = timezone.now()
    with connection.cursor() as cursor:
        for gauge, statement in ((metrics.MESSAGES_TO_RELAY, _TO_RELAY), (metrics.MESSAGES_PARKED, _PARKED)):
            cursor.execute(statement, [COUNT_MAX])
            yield Reading(gauge, cursor.fetchone()[0])
        cursor.execute(_OLDEST)
        oldest = cursor.fetchone()
        age_s = now.timestamp() - (oldest[0].int >> 80) / 1000 if oldest else 0
        yield Reading(metrics.MESSAGES_OLDEST, max(age_s, 0))
        cursor.execute(_REDELIVERIES, [COUNT_MAX])
        for group, count in cursor.fetchall():
            yield Reading(metrics.REDELIVERIES, count, (group,))
    dead = Message.objects.filter(topic__in=error_topics(), message_id__gte=first_message_id(now - DEAD_LETTERS_SINCE))
    by_topic = Counter(dead.order_by().values_list("topic", flat=True)[:DEAD_LETTERS_MAX])
    yield Reading(metrics.DEAD_LETTERS, by_topic.total())
    for topic, count in sorted(by_topic.items()):
        yield Reading(metrics.DEAD_LETTERS_BY_TOPIC, count, (topic,))


def _broker() -> Iterator[Reading]:
    lags = _watch.latest()
    yield Reading(metrics.BROKER_UP, 0 if lags is None else 1)
    for (group, topic, partition), behind in (lags or {}).items():
        yield Reading(metrics.CONSUMER_LAG, behind, (group, topic, str(partition)))

"""Topics as code: what the contracts want of the broker. ``manage.py topics`` compares and creates."""

import importlib
import logging
import pkgutil
import threading
from collections.abc import Sequence

from django.conf import settings

from apps.messaging import contracts
from apps.messaging.contracts.base import message_classes
from apps.messaging.dead_letters import error_topic
from apps.messaging.inbox import groups, readers_elsewhere
from apps.messaging.transports import transport
from apps.messaging.transports.base import DesiredTopic, TopicPlan, TransportDown, TransportMisconfigured

logger = logging.getLogger(__name__)

PAUSE_S_MIN, PAUSE_S_MAX = 1.0, 15.0  # between two attempts to reach a broker that is away


def desired_topics() -> list[DesiredTopic]:
    """Every topic of a message class or a handler, and the dead-letter topic beside each, by name."""
    for module in pkgutil.iter_modules(contracts.__path__, f"{contracts.__name__}."):
        importlib.import_module(module.name)  # a contract that nobody here imports has a topic all the same
    readers: dict[str, list[str]] = {}
    for group, topics in groups().items():
        for topic in topics:
            readers.setdefault(topic, []).append(group)
    for topic, elsewhere in readers_elsewhere().items():
        readers.setdefault(topic, []).extend(sorted(elsewhere))
    names = {message.topic for message in message_classes()} | set(readers)
    names |= {error_topic(name) for name in names}
    return [_desired(name, tuple(readers.get(name, ()))) for name in sorted(names)]


def _desired(name: str, readers: tuple[str, ...]) -> DesiredTopic:
    return DesiredTopic(
        name=name,
        partitions=settings.TOPIC_PARTITIONS,
        replication_factor=settings.TOPIC_REPLICATION_FACTOR,
        retention_days=settings.TOPIC_RETENTION_DAYS[name.rsplit(".", 1)[1]],
        compacted=name in settings.TOPICS_COMPACTED,
        groups=readers,
    )


def plan(topics: Sequence[DesiredTopic] | None = None) -> list[TopicPlan]:
    """What is there beside what should be there. Raises TransportDown."""
    return transport().plan_topics(desired_topics() if topics is None else topics)


def apply(topics: Sequence[DesiredTopic] | None = None) -> None:
    """Create what is missing; what exists is left as it is. Safe to repeat. Raises TransportDown."""
    transport().create_topics(desired_topics() if topics is None else topics)


def check_broker() -> None:
    """Stop a process at its start when it could not work with the broker.

    Raises TransportMisconfigured for a refused login or a missing topic, TransportDown when nobody answers (a broker
    may come back: the caller decides whether to wait for it).
    """
    transport().check()
    missing = [found.name for found in plan() if found.state == "create"]
    if missing:
        raise TransportMisconfigured(f"Topics are missing: {', '.join(missing)}. Run: manage.py topics --apply")


def wait_for_broker(stop: threading.Event) -> bool:
    """Wait until a process can work with the broker. False when it was asked to stop meanwhile.

    A broker that is away comes back, so that is waited for without an end, and told. Raises TransportMisconfigured for
    what waiting does not mend: a refused login, a missing topic.
    """
    pause_s = PAUSE_S_MIN
    while not stop.is_set():
        try:
            check_broker()
        except TransportDown as error:
            logger.warning("the broker is away; next attempt in %.0f s: %s", pause_s, error)
        else:
            return True
        stop.wait(pause_s)
        pause_s = min(pause_s * 2, PAUSE_S_MAX)
    return False

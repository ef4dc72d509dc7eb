"""RabbitMQ: names, the connection, and what is declared at the broker."""

import contextlib
import ssl
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import amqp  # type: ignore[import-untyped]  # it ships no types
from django.conf import settings
from kombu.connection import Connection

from apps.messaging.transports.base import DesiredTopic, TopicPlan, TransportDown, TransportMisconfigured

CONNECT_S = 3
WRITE_S = 2  # a broker that is short of memory or disk stops reading from those who publish: it counts as away
HEARTBEAT_S = 60  # a consumer that is in one handler for longer than two of these loses its connection
KEY = "key"  # the header that carries the key; the routing key is the number of its partition
LIMITS_DELIVERIES = 4  # since this major version a queue drops, unless told otherwise, what was delivered twenty times

DOWN = (OSError, amqp.exceptions.ConnectionError, amqp.exceptions.RecoverableChannelError)


def wire_name(name: str) -> str:
    """A topic's or group's name at the broker; also the name of the topic's exchange."""
    return f"{settings.MESSAGING_PREFIX}{name}"


def spread_name(topic: str, group: str) -> str:
    """The exchange that spreads a topic's records over a group's queues."""
    return f"{wire_name(topic)}@{wire_name(group)}"


def queue_names(topic: str, group: str) -> list[str]:
    """A group's queues of a topic, one per partition."""
    return [f"{spread_name(topic, group)}.{index}" for index in range(settings.TOPIC_PARTITIONS)]


def strangers_name(topic: str, group: str) -> str:
    """The exchange of the records that name no partition, since they are not ours: they go to the first queue."""
    return f"{spread_name(topic, group)}.strangers"


def members_name(group: str) -> str:
    """The exchange on which a group's members hear each other."""
    return f"@{wire_name(group)}"


@contextlib.contextmanager
def down() -> Iterator[None]:
    """Turn the client's errors into TransportDown, or TransportMisconfigured where somebody must do something."""
    try:
        yield
    except amqp.exceptions.AccessRefused as error:
        raise TransportMisconfigured(
            f"RabbitMQ refuses the login, or what this login wants to do: check RABBITMQ_URL and its permissions. ({error})"
        ) from error
    except amqp.exceptions.NotFound as error:
        raise TransportMisconfigured(
            f"RabbitMQ has no such exchange or queue. Run: manage.py topics --apply ({error})"
        ) from error
    except amqp.exceptions.PreconditionFailed as error:
        raise TransportMisconfigured(
            f"RabbitMQ has an exchange or queue of this name, but not as we make it: delete it while it is empty. ({error})"
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise TransportMisconfigured(
            "RabbitMQ's certificate is not trusted, or names another host: check RABBITMQ_CA_FILE and the host in "
            f"RABBITMQ_URL. ({error.verify_message})"
        ) from error
    except FileNotFoundError as error:
        raise TransportMisconfigured(f"RABBITMQ_CA_FILE is {settings.RABBITMQ_CA_FILE!r}, which is no file.") from error
    except DOWN as error:
        raise TransportDown(f"RabbitMQ does not answer: {error!r}") from error


def _tls(url: str) -> dict[str, Any] | bool:
    parts = urlsplit(url)
    if parts.scheme != "amqps":
        return False
    # Without the name py-amqp takes any host's certificate of the same authority.
    authorities = settings.RABBITMQ_CA_FILE or None
    return {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": authorities, "server_hostname": parts.hostname}


def connect() -> Any:
    """A connection. Raises TransportMisconfigured when the broker refuses us, TransportDown when nobody answers."""
    if not settings.RABBITMQ_URL:
        raise TransportMisconfigured("RABBITMQ_URL is empty. Set it to amqp://user:password@host:port/vhost.")
    with down():
        connection = Connection(  # type: ignore[no-untyped-call]
            settings.RABBITMQ_URL,
            ssl=_tls(settings.RABBITMQ_URL),
            connect_timeout=CONNECT_S,
            heartbeat=HEARTBEAT_S,
            transport_options={"write_timeout": WRITE_S},
        )
        connection.connect()  # type: ignore[no-untyped-call]
        return connection


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """A connection for a few questions."""
    connection = connect()
    try:
        with down():
            yield connection
    finally:
        with contextlib.suppress(*DOWN):
            connection.release()


def exists(connection: Any, kind: str, name: str) -> bool:
    """Ask without creating. A refusal closes its channel, so each question has one of its own."""
    channel = connection.channel()
    try:
        if kind == "exchange":
            channel.exchange_declare(name, "fanout", passive=True)
        else:
            channel.queue_declare(name, passive=True)
    except amqp.exceptions.NotFound:
        return False
    channel.close()
    return True


def _queue_arguments(connection: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-single-active-consumer": True}
    version = str(connection.connection.server_properties.get("version", "0"))
    if int(version.partition(".")[0]) >= LIMITS_DELIVERIES:
        arguments["x-delivery-limit"] = -1  # Each hand-over of a queue is a delivery more.
    return arguments


def declare_group(connection: Any, topic: str, group: str) -> None:
    """Make a group's queues of a topic and the exchanges before them, where any of it is missing.

    A queue that exists is not declared again: it may have been made on an older broker, with other arguments.
    """
    spread, strangers, queues = spread_name(topic, group), strangers_name(topic, group), queue_names(topic, group)
    missing = [queue for queue in queues if not exists(connection, "queue", queue)]
    if not missing and exists(connection, "exchange", spread):
        return
    channel = connection.channel()
    channel.exchange_declare(strangers, "fanout", durable=True, auto_delete=False)
    arguments = {"alternate-exchange": strangers}
    channel.exchange_declare(spread, "direct", durable=True, auto_delete=False, arguments=arguments)
    for queue in missing:
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments=_queue_arguments(connection))
    for index, queue in enumerate(queues):
        channel.queue_bind(queue, spread, str(index))
    channel.queue_bind(queues[0], strangers)
    channel.exchange_bind(spread, wire_name(topic))  # last: nothing comes in before all queues are there
    channel.close()


def create_topics(topics: Sequence[DesiredTopic]) -> None:
    """Declare exchanges and queues. Safe to repeat."""
    with connected() as connection:
        channel = connection.channel()
        for topic in topics:
            channel.exchange_declare(wire_name(topic.name), "fanout", durable=True, auto_delete=False)
            for group in topic.groups:
                declare_group(connection, topic.name, group)
            if not topic.groups:
                arguments = {"x-queue-type": "stream", "x-max-age": f"{topic.retention_days}D"}
                channel.queue_declare(_log_name(topic.name), durable=True, auto_delete=False, arguments=arguments)
                channel.queue_bind(_log_name(topic.name), wire_name(topic.name))


def _log_name(topic: str) -> str:
    return f"{wire_name(topic)}.log"


def plan_topics(topics: Sequence[DesiredTopic]) -> list[TopicPlan]:
    """Is every exchange and queue there, and no queue too many?"""
    with connected() as connection:
        return [_plan(connection, topic) for topic in topics]


def _plan(connection: Any, topic: DesiredTopic) -> TopicPlan:
    name = wire_name(topic.name)
    wanted = [queue for group in topic.groups for queue in queue_names(topic.name, group)] or [_log_name(topic.name)]
    missing = [queue for queue in wanted if not exists(connection, "queue", queue)]
    if missing or not exists(connection, "exchange", name):
        return TopicPlan(name, "create", f"{len(missing)} queues are missing")
    extra = [f"{spread_name(topic.name, group)}.{settings.TOPIC_PARTITIONS}" for group in topic.groups]
    if any(exists(connection, "queue", queue) for queue in extra):
        return TopicPlan(name, "differs", f"there are more than {settings.TOPIC_PARTITIONS} queues per group")
    return TopicPlan(name, "ok")


def lag(*, group: str, topics: Sequence[str]) -> dict[tuple[str, int], int]:
    """What waits in the group's queues; what a consumer has prefetched is not counted."""
    found = {}
    with connected() as connection:
        channel = connection.channel()
        for topic in topics:
            for index, queue in enumerate(queue_names(topic, group)):
                found[topic, index] = channel.queue_declare(queue, passive=True).message_count
    return found

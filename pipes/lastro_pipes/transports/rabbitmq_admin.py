"""RabbitMQ: names, the connection, and what is declared at the broker.

    <topic> (fanout) ─▶ <topic>@<group> (direct: the partition's number) ─▶ <topic>@<group>.0 … .N-1 (quorum queues)
                    └─▶ <topic>.log (a stream), where no group reads the topic: dead letters and reports are kept there

The publisher hashes the key (shares.py), so all services must have the same number of partitions. The broker's own
consistent-hash exchange is not used: RabbitMQ 3.10.8 was seen to move keys to other queues when it restarted under load.
The exchanges are the same as the state manager's, so either side may make them.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import amqp
from kombu.connection import Connection

from lastro_pipes.errors import BrokerDown, Misconfigured
from lastro_pipes.settings import Settings
from lastro_pipes.transports.base import Topic

CONNECT_S = 3
HEARTBEAT_S = 60  # a member that is in one handle for longer than two of these loses its connection
WRITE_S = 2  # a broker that is short of memory or disk stops reading from those who publish: it counts as away
KEY = "key"  # the header that carries the key; the routing key is the number of its partition
LIMITS_DELIVERIES = 4  # since this major version a queue drops, unless told otherwise, what was delivered twenty times

DOWN = (OSError, amqp.exceptions.ConnectionError, amqp.exceptions.RecoverableChannelError)


def spread_name(settings: Settings, topic: str, group: str) -> str:
    """The exchange that spreads a topic's records over a group's queues."""
    return f"{settings.prefix}{topic}@{settings.prefix}{group}"


def strangers_name(settings: Settings, topic: str, group: str) -> str:
    """The exchange of the records that name no partition, since they are not ours: they go to the first queue."""
    return f"{spread_name(settings, topic, group)}.strangers"


def queue_names(settings: Settings, topic: str, group: str) -> list[str]:
    """A group's queues of a topic, one per partition."""
    return [f"{spread_name(settings, topic, group)}.{index}" for index in range(settings.partitions)]


def members_name(settings: Settings, group: str) -> str:
    """The exchange on which a group's members hear each other."""
    return f"@{settings.prefix}{group}"


@contextlib.contextmanager
def down() -> Iterator[None]:
    """Turn the client's errors into BrokerDown, or Misconfigured where somebody must do something."""
    try:
        yield
    except amqp.exceptions.AccessRefused as error:
        raise Misconfigured(
            "RabbitMQ refuses the login, or what this login wants to do: check PIPES_RABBITMQ_URL and its permissions. "
            f"({error})"
        ) from error
    except amqp.exceptions.NotFound as error:
        raise Misconfigured(f"RabbitMQ has no such exchange or queue. Run: pipes topics --apply ({error})") from error
    except amqp.exceptions.PreconditionFailed as error:
        raise Misconfigured(
            f"RabbitMQ has an exchange or queue of this name, but not as we make it: delete it while it is empty. ({error})"
        ) from error
    except DOWN as error:
        raise BrokerDown(f"RabbitMQ does not answer: {error!r}") from error


def connect(settings: Settings, *, heartbeat_s: int = HEARTBEAT_S) -> Any:
    """A connection. Raises Misconfigured when the broker refuses us, BrokerDown when nobody answers."""
    with down():
        connection = Connection(  # type: ignore[no-untyped-call]
            settings.rabbitmq_url,
            connect_timeout=CONNECT_S,
            heartbeat=heartbeat_s,
            transport_options={"write_timeout": WRITE_S},
        )
        connection.connect()  # type: ignore[no-untyped-call]
        return connection


@contextlib.contextmanager
def connected(settings: Settings) -> Iterator[Any]:
    """A connection for a few questions."""
    connection = connect(settings)
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


def declare_group(connection: Any, settings: Settings, topic: str, group: str) -> None:
    """Make a group's queues of a topic and the exchanges before them, where any of it is missing.

    A queue that exists is not declared again: it may have been made on an older broker, with other arguments.
    """
    spread, strangers = spread_name(settings, topic, group), strangers_name(settings, topic, group)
    queues = queue_names(settings, topic, group)
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
    channel.exchange_bind(spread, f"{settings.prefix}{topic}")  # last: nothing comes in before all queues are there
    channel.close()


def create(settings: Settings, topics: Sequence[Topic]) -> None:
    """Declare exchanges and queues. Safe to repeat."""
    with connected(settings) as connection:
        channel = connection.channel()
        for topic in topics:
            name = f"{settings.prefix}{topic.name}"
            channel.exchange_declare(name, "fanout", durable=True, auto_delete=False)
            if topic.group:
                declare_group(connection, settings, topic.name, topic.group)
            else:
                arguments = {"x-queue-type": "stream", "x-max-age": f"{topic.retention_days}D"}
                channel.queue_declare(f"{name}.log", durable=True, auto_delete=False, arguments=arguments)
                channel.queue_bind(f"{name}.log", name)


def missing(settings: Settings, topics: Sequence[Topic]) -> list[str]:
    """The topics of which an exchange or a queue is not there."""
    with connected(settings) as connection:
        return [topic.name for topic in topics if not _is_whole(connection, settings, topic)]


def _is_whole(connection: Any, settings: Settings, topic: Topic) -> bool:
    name = f"{settings.prefix}{topic.name}"
    queues = queue_names(settings, topic.name, topic.group) if topic.group else []
    return exists(connection, "exchange", name) and all(exists(connection, "queue", queue) for queue in queues)


def lag(settings: Settings, *, group: str, topics: Sequence[str]) -> dict[tuple[str, int], int]:
    """What waits in the group's queues; what a member has prefetched is not counted."""
    found = {}
    with connected(settings) as connection:
        channel = connection.channel()
        for topic in topics:
            for index, queue in enumerate(queue_names(settings, topic, group)):
                found[topic, index] = channel.queue_declare(queue, passive=True).message_count
    return found

"""Somebody else at the broker: ``append`` records that are none of ours, ``delete`` a topic of Kafka."""

import base64
import json
import sys

import django

BYTES_MAX = 4_000_000


def append(topic: str) -> None:
    """Records from stdin, one JSON pair a line: the key or null, and the value in base64."""
    from django.conf import settings

    pairs = [json.loads(line) for line in sys.stdin]
    records = [(None if key is None else key.encode(), base64.b64decode(value)) for key, value in pairs]
    {"kafka": _append_to_kafka, "rabbitmq": _append_to_rabbitmq}[settings.MESSAGING_TRANSPORT](topic, records)


def _append_to_kafka(topic: str, records: list[tuple[bytes | None, bytes]]) -> None:
    """The topic's limit of bytes is no limit for the moment."""
    from kafka import KafkaProducer

    from apps.messaging.transports import kafka_admin, kafka_login

    name = kafka_admin.wire_name(topic)
    _limit(name, BYTES_MAX)
    producer = KafkaProducer(**kafka_login.client_settings(), max_request_size=BYTES_MAX)
    for key, value in records:
        producer.send(name, key=key, value=value).get(10)
    producer.close(5)
    _limit(name, kafka_admin.MESSAGE_BYTES_MAX)


def _limit(name: str, bytes_max: int) -> None:
    from kafka.admin import ConfigResource, ConfigResourceType

    from apps.messaging.transports import kafka_admin

    with kafka_admin.admin() as client:
        client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, {"max.message.bytes": str(bytes_max)})])


def _append_to_rabbitmq(topic: str, records: list[tuple[bytes | None, bytes]]) -> None:
    import amqp

    from apps.messaging.transports import rabbitmq_admin

    with rabbitmq_admin.connected() as connection:
        channel = connection.channel()
        for key, value in records:
            message = amqp.Message(value, application_headers={} if key is None else {rabbitmq_admin.KEY: key})
            channel.basic_publish(message, exchange=rabbitmq_admin.wire_name(topic), routing_key="")


def delete(topic: str) -> None:
    """The topic is gone."""
    from apps.messaging.transports import kafka_admin

    with kafka_admin.admin() as client:
        client.delete_topics([kafka_admin.wire_name(topic)])


if __name__ == "__main__":
    django.setup()
    {"append": append, "delete": delete}[sys.argv[1]](sys.argv[2])

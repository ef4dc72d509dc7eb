"""What each transport promises to the worker. Each broker's test file makes a class of it."""

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import pytest

from lastro_pipes import transports
from lastro_pipes.errors import BrokerDown
from lastro_pipes.process import topics_of
from lastro_pipes.settings import Settings, from_environment
from lastro_pipes.transports.base import Incoming, Member, Outgoing, Transport
from tests.chain import _clean

SERVICE = "shop.test.alone"
IN, COMPENSATE = f"{SERVICE}.in", f"{SERVICE}.compensate"
READ_S = 120.0


def read(member: Member, count: int) -> list[Incoming]:
    """So many records, without saying that they are done."""
    found: list[Incoming] = []
    deadline = time.monotonic() + READ_S
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} came"
        found += member.poll(records_max=100, timeout_s=0.2)
    return found


def numbers(records: Sequence[Incoming], key: str = "") -> list[int]:
    return [int(record.value) for record in records if key in ("", record.key)]


def record(number: int, key: str = "k", topic: str = IN, size: int = 0) -> Outgoing:
    return Outgoing(topic, key, str(number).rjust(size, "0"), (("traceparent", "é"),))


class TransportContract:
    broker: ClassVar[str]

    @pytest.fixture
    def settings(self) -> Settings:
        more = {
            "PIPES_BROKER": self.broker,
            "PIPES_PREFIX": f"t{secrets.token_hex(4)}.",
            "PIPES_PARTITIONS": "4",
            "PIPES_SERVICE": SERVICE,
        }
        return from_environment({**os.environ, **more})

    @pytest.fixture
    def transport(self, settings: Settings) -> Iterator[Transport]:
        made = transports.make(settings)
        made.create(topics_of(settings))
        yield made
        _clean(made, settings, [topic.name for topic in topics_of(settings)])
        made.close()

    @pytest.fixture
    def join(self, transport: Transport) -> Iterator[Callable[[], Member]]:
        """Members of the service's group, which leave at the end of the test."""
        made: list[Member] = []

        def one() -> Member:
            made.append(transport.member(group=SERVICE, topics=[IN, COMPENSATE]))
            return made[-1]

        yield one
        for member in made:
            member.close()

    def send(self, transport: Transport, records: Sequence[Outgoing]) -> None:
        for one in records:
            assert transport.send([one]) == [""]

    def test_a_record_arrives_as_it_was_sent(self, transport: Transport, join: Callable[[], Member]) -> None:
        self.send(transport, [Outgoing(IN, "clé", '{"a":"é"}', (("traceparent", "t"), ("id", "1")))])
        (found,) = read(join(), 1)
        assert (found.topic, found.key, found.value.decode()) == (IN, "clé", '{"a":"é"}')
        assert (found.headers["traceparent"], found.headers["id"]) == ("t", "1")
        assert found.sent_at is not None
        assert abs(found.sent_at.timestamp() - time.time()) < 60

    def test_topics_are_missing_until_they_are_made(self, transport: Transport, settings: Settings) -> None:
        wanted = topics_of(settings)
        assert transport.missing(wanted) == []
        transport.create(wanted)
        other = topics_of(from_environment({**os.environ, "PIPES_BROKER": self.broker, "PIPES_SERVICE": "no.such.service"}))
        assert transport.missing(other) == [topic.name for topic in other]

    def test_a_record_too_large_and_one_without_topic_are_refused_and_the_others_are_not(
        self, transport: Transport, join: Callable[[], Member]
    ) -> None:
        reasons = transport.send(
            [
                record(1, "a"),
                record(2, "big", size=2_000_000),
                record(3, "c", topic="no.such.topic.in"),
                record(4, "d"),
            ]
        )
        assert reasons[0] == reasons[3] == ""
        assert "larger" in reasons[1]
        assert "pipes topics --apply" in reasons[2]
        assert sorted(numbers(read(join(), 2))) == [1, 4]

    def test_what_is_done_is_not_read_again_and_what_is_not_is(
        self, transport: Transport, join: Callable[[], Member]
    ) -> None:
        self.send(transport, [record(n) for n in range(6)])
        first = join()
        found = read(first, 6)
        for one in (found[0], found[1], found[4]):
            first.done(one)
        first.close()
        again = numbers(read(join(), 3))
        assert again[:2] == [2, 3]
        assert again[2] in (4, 5), "what is behind the first that is not done may come again"

    def test_what_is_given_back_comes_again_in_order_and_after_its_time(
        self, transport: Transport, join: Callable[[], Member]
    ) -> None:
        self.send(transport, [record(n) for n in range(5)])
        member = join()
        found = read(member, 5)
        member.done(found[0])
        member.give_back([found[4], found[2], found[1], found[3]], after_s=0.6)
        began = time.monotonic()
        assert numbers(read(member, 4)) == [1, 2, 3, 4]
        assert time.monotonic() - began > 0.5
        self.send(transport, [record(5)])
        assert numbers(read(member, 1)) == [5]

    def test_a_member_that_leaves_hands_its_partitions_to_the_other(
        self, transport: Transport, join: Callable[[], Member]
    ) -> None:
        first, second = join(), join()
        deadline = time.monotonic() + READ_S
        held: list[Incoming] = []
        shares = False
        while not held:
            assert time.monotonic() < deadline, "they never share"
            self.send(transport, [record(1, f"k{n}") for n in range(30)])  # some in every partition
            rounds = [self._round(member) for member in (first, second)]
            shares = shares or bool(rounds[1])
            if shares:
                held = [one for one in rounds[0] if first.holds(one)]
            for member, records in zip((first, second), rounds, strict=True):
                for one in records if not held or member is second else ():
                    member.done(one)
        first.close()
        wanted = {(one.topic, one.key) for one in held}
        while wanted:
            assert time.monotonic() < deadline + READ_S, f"nobody reads {wanted}"
            wanted -= {(one.topic, one.key) for one in second.poll(records_max=100, timeout_s=0.2)}

    @staticmethod
    def _round(member: Member) -> list[Incoming]:
        return [one for _ in range(5) for one in member.poll(records_max=100, timeout_s=0.1)]

    def test_nobody_answers(self, settings: Settings) -> None:
        from dataclasses import replace

        away = transports.make(
            replace(settings, kafka_bootstrap_servers="127.0.0.1:1", rabbitmq_url="amqp://a:b@127.0.0.1:1//")
        )
        for act in (away.check, lambda: away.send([record(1)]), lambda: away.member(group="g", topics=[IN])):
            with pytest.raises(BrokerDown):
                act()
        away.close()

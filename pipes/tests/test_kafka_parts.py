"""The parts of the Kafka transport that need no broker."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import errors as kafka_errors
from kafka.structs import TopicPartition

from lastro_pipes import Misconfigured, from_environment
from lastro_pipes.errors import BrokerDown
from lastro_pipes.transports.kafka_assignor import EvenAssignor
from lastro_pipes.transports.kafka_login import first_cause
from lastro_pipes.transports.kafka_member import Partition
from lastro_pipes.transports.shares import share

TOPICS = ["a.b.c.compensate", "a.b.c.in"]


class Group:
    """The members of a group, and who holds what, from one rebalance to the next."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self.held: dict[str, set[Any]] = {}

    def rebalance(self) -> None:
        cluster = SimpleNamespace(partitions_for_topic=lambda _topic: set(range(self._partitions)))
        members = [SimpleNamespace(member_id=name, metadata=self._metadata(name)) for name in self.held]
        found = EvenAssignor().assign(cluster, members)
        before = {name: set(held) for name, held in self.held.items()}
        for name, assignment in found.items():
            self.held[name] = {
                TopicPartition(topic, partition)
                for topic, partitions in assignment.assigned_partitions
                for partition in partitions
            }
        for name, held in self.held.items():
            others = set().union(*(before[other] for other in before if other != name))
            assert not held & others, "somebody else still held it"

    def _metadata(self, name: str) -> Any:
        assignor = EvenAssignor()
        assignor.member_assignment = list(self.held[name])
        return assignor.metadata(TOPICS)

    def counts(self, topic: str) -> list[int]:
        return sorted(sum(1 for partition in held if partition.topic == topic) for held in self.held.values())


class TestEvenAssignor:
    def test_every_member_reads_as_much_of_each_topic_as_the_others(self) -> None:
        group = Group(partitions=12)
        for count in range(1, 6):
            group.held[f"member{count}"] = set()
            for _ in range(3):
                group.rebalance()
            for topic in TOPICS:
                counts = group.counts(topic)
                assert sum(counts) == 12
                assert max(counts) - min(counts) <= 1

    def test_what_moves_is_let_go_of_before_it_is_given(self) -> None:
        group = Group(partitions=4)
        group.held = {"one": set()}
        group.rebalance()
        group.held["two"] = set()
        group.rebalance()
        assert sum(map(len, group.held.values())) < 8, "the first round only lets go"
        group.rebalance()
        assert sum(map(len, group.held.values())) == 8

    def test_more_members_than_partitions(self) -> None:
        group = Group(partitions=2)
        group.held = {f"m{n}": set() for n in range(5)}
        for _ in range(3):
            group.rebalance()
        assert group.counts("a.b.c.in") == [0, 0, 0, 1, 1]


class TestShare:
    def test_nothing_for_a_stranger(self) -> None:
        assert share("t", partitions=4, members=["a"], member="b") == frozenset()


class TestPartition:
    def test_commits_up_to_the_first_that_is_not_done(self) -> None:
        partition = Partition(given={5: False, 6: False, 9: False})  # a log may have gaps
        partition.finish(6)
        assert partition.to_commit is None
        partition.finish(5)
        assert partition.to_commit == 7
        partition.finish(9)
        assert partition.to_commit == 10
        partition.finish(9)
        assert partition.given == {}

    def test_forgets_what_is_read_again(self) -> None:
        partition = Partition(given={5: False, 6: True, 7: False})
        partition.forget_from(6)
        partition.finish(5)
        assert partition.to_commit == 6


class TestLogin:
    """What Kafka's client tells its log in an order that a broker gives once in a hundred times."""

    HUNG_UP = "Bootstrap connection to bootstrap-0 failed: KafkaConnectionError: socket disconnected (backoff 0.04 secs)"
    GONE = "Bootstrap connection to bootstrap-0 failed: KafkaConnectionError: [Errno 111] ECONNREFUSED (backoff 0.04 secs)"
    OUT_OF_TIME = (
        "Bootstrap connection to bootstrap-0 failed: KafkaTimeoutError: SASL Authentication timed out (backoff 1 secs)",
        "Bootstrap connection to bootstrap-0 failed: KafkaTimeoutError: Timeout during ApiVersions check (backoff 1 secs)",
        "Bootstrap connection to bootstrap-0 failed: [Error 7] RequestTimedOutError: after 40 ms (backoff 1 secs)",
        "Bootstrap connection to bootstrap-0 failed: KafkaTimeoutError: I/O wait timed out (backoff 1 secs)",
    )

    @staticmethod
    def start(*lines: str) -> None:
        """A client that says this and has not reached its broker in time."""
        where = {"PIPES_SERVICE": "shop.test.alone", "PIPES_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
        with first_cause(from_environment(where)):
            for line in lines:
                logging.getLogger("kafka.net.manager").warning(line)
            raise kafka_errors.KafkaTimeoutError("Unable to bootstrap")

    @pytest.mark.parametrize("last", OUT_OF_TIME)
    def test_a_last_attempt_that_ran_out_of_time_does_not_speak_for_the_broker(self, last: str) -> None:
        with pytest.raises(Misconfigured, match="The broker hangs up on us"):
            self.start(self.HUNG_UP, self.HUNG_UP, last)

    @pytest.mark.parametrize("lines", [(), OUT_OF_TIME, (GONE,), (HUNG_UP, GONE), (HUNG_UP, GONE, OUT_OF_TIME[0])])
    def test_a_broker_that_goes_down_refuses_nobody(self, lines: tuple[str, ...]) -> None:
        with pytest.raises(BrokerDown, match="Is it running"):
            self.start(*lines)

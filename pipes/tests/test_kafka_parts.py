"""The parts of the Kafka transport that need no broker."""

from types import SimpleNamespace
from typing import Any

from kafka.structs import TopicPartition

from lastro_pipes.transports.kafka_assignor import EvenAssignor
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

"""A key goes where every other Kafka client would send it."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import DefaultPartitioner
from kafka.partitioner.default import murmur2 as their_murmur2

from apps.messaging.transports.kafka_partitioner import KeyPartitioner, murmur2


class Cluster:
    """What a partitioner asks of the client's metadata."""

    def __init__(self, *partitions: int) -> None:
        self._partitions = set(partitions)

    def topics(self) -> set[str]:
        return {"t"}

    def partitions_for_topic(self, _topic: str) -> set[int]:
        return self._partitions

    available_partitions_for_topic = partitions_for_topic


def place(partitioner: Any, key: bytes | None, cluster: Cluster) -> int:
    found: int = partitioner.partition("t", key, key, b"", b"", cluster)
    return found


class TestKeyPartitioner:
    @given(st.binary(max_size=80))
    def test_hashes_as_the_client_does(self, data: bytes) -> None:
        assert murmur2(data) == their_murmur2(data)

    @given(st.binary(min_size=1, max_size=80), st.integers(1, 50))
    def test_chooses_the_partition_that_the_client_would(self, key: bytes, count: int) -> None:
        cluster = Cluster(*range(count))
        assert place(KeyPartitioner(), key, cluster) == place(DefaultPartitioner(), key, cluster)

    def test_leaves_to_the_client_what_it_does_not_know(self) -> None:
        assert place(KeyPartitioner(), None, Cluster(0)) == 0
        assert place(KeyPartitioner(), b"k", Cluster(7)) == 7

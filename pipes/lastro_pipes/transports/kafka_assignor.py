"""Who of a group reads which partition of Kafka: of each topic as many as the others.

kafka-python's sticky assignor counts partitions over all topics together. A service reads two topics, of which one is
nearly always empty: of two members one could get all of ``.in`` and the other all of ``.compensate``.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment
from kafka.structs import TopicPartition

from lastro_pipes.transports.shares import share


class EvenAssignor(CooperativeStickyAssignor):  # type: ignore[misc]  # kafka-python ships no types
    """Cooperative, in two rounds: what moves is first let go of by the one, and then given to the other."""

    name = "pipes-even"

    def assign(self, cluster: Any, members: Sequence[Any]) -> dict[str, Any]:
        """The leader's part: for every member its partitions. What another still holds comes in the next round."""
        known = {member.member_id: self.parse_member_metadata(member.metadata) for member in members}
        owner = {partition: name for name, found in known.items() for partition in found.partitions}
        given: dict[str, dict[str, list[int]]] = {name: defaultdict(list) for name in known}
        for topic in sorted({topic for found in known.values() for topic in found.subscription}):
            readers = sorted(name for name, found in known.items() if topic in found.subscription)
            partitions = sorted(cluster.partitions_for_topic(topic) or ())
            for name in readers:
                for place in sorted(share(topic, partitions=len(partitions), members=readers, member=name)):
                    if owner.get(TopicPartition(topic, partitions[place]), name) == name:
                        given[name][topic].append(partitions[place])
        return {name: ConsumerProtocolAssignment(self.version, sorted(given[name].items()), b"") for name in known}

"""Which partition a key belongs to, and which member of a group reads it, where the broker does not decide it.

Pure functions: members that know of each other give the same answer, without a word to each other.
"""

import functools
import hashlib
import zlib
from collections.abc import Sequence

VIEWS_KEPT = 1_000  # answers that are remembered: topics, times the memberships of the last minutes


def partition_of(key: str, *, partitions: int) -> int:
    """The partition of a key, for ever: another answer for a key that is in use would break its order."""
    return zlib.crc32(key.encode()) % partitions


def _score(*words: object) -> bytes:
    return hashlib.blake2b("\0".join(map(str, words)).encode(), digest_size=8).digest()


@functools.lru_cache(maxsize=VIEWS_KEPT)
def _members_of(topic: str, partitions: int, members: tuple[str, ...]) -> tuple[str, ...]:
    least, more = divmod(partitions, len(members))
    # Who gets one more than the others differs from topic to topic, or one member would have it everywhere.
    ranked = sorted(members, key=lambda member: _score(topic, member))
    room = {member: least + (rank < more) for rank, member in enumerate(ranked)}
    found = []
    for partition in range(partitions):
        chosen = max((member for member in ranked if room[member]), key=lambda member: _score(topic, partition, member))
        room[chosen] -= 1
        found.append(chosen)
    return tuple(found)


def share(topic: str, *, partitions: int, members: Sequence[str], member: str) -> frozenset[int]:
    """The partitions of a topic that a member should own: as many as every other member, or one more or less.

    When a member comes or goes most partitions stay where they are. Nothing for one who is not among the members.
    """
    if member not in members:
        return frozenset()
    owners = _members_of(topic, partitions, tuple(sorted(members)))
    return frozenset(partition for partition, owner in enumerate(owners) if owner == member)

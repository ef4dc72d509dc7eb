"""Who reads what: fair, complete, the same answer everywhere, and few moves."""

from hypothesis import given
from hypothesis import strategies as st

from apps.messaging.transports.local_consumer import evenly
from apps.messaging.transports.shares import partition_of, share

MEMBERS = st.lists(st.uuids().map(str), min_size=1, max_size=15, unique=True)
PARTITIONS = st.integers(1, 60)


def shares(topic: str, partitions: int, members: list[str]) -> dict[str, frozenset[int]]:
    return {one: share(topic, partitions=partitions, members=members, member=one) for one in members}


class TestPartitionOf:
    def test_never_changes_for_a_key(self) -> None:
        assert [partition_of(key, partitions=12) for key in ("a", "b", "order-1", "ação")] == [3, 5, 7, 5]

    @given(st.text(max_size=50), PARTITIONS)
    def test_is_one_of_the_partitions(self, key: str, partitions: int) -> None:
        assert 0 <= partition_of(key, partitions=partitions) < partitions


class TestShare:
    @given(PARTITIONS, MEMBERS)
    def test_every_partition_has_one_owner_and_nobody_has_two_more_than_another(
        self, partitions: int, members: list[str]
    ) -> None:
        found = list(shares("a.b", partitions, members).values())
        assert sorted(partition for one in found for partition in one) == list(range(partitions))
        assert max(map(len, found)) - min(map(len, found)) <= 1

    @given(PARTITIONS, MEMBERS, st.randoms(use_true_random=False))
    def test_is_the_same_in_whatever_order_the_members_were_met(
        self, partitions: int, members: list[str], chance: object
    ) -> None:
        shuffled = list(members)
        chance.shuffle(shuffled)  # type: ignore[attr-defined]
        assert shares("a.b", partitions, members) == shares("a.b", partitions, shuffled)

    def test_is_nothing_for_one_who_is_not_a_member(self) -> None:
        assert share("a.b", partitions=4, members=["one"], member="two") == frozenset()

    def test_moves_few_partitions_when_a_member_comes(self) -> None:
        moved = 0
        for n in range(100):
            before = shares(f"topic{n}", 12, ["one", "two", "three"])
            after = shares(f"topic{n}", 12, ["one", "two", "three", "four"])
            moved += sum(len(before[one] - after[one]) for one in before)
        assert moved < 100 * 5, "3 of 12 must move; to deal all of them out again would move 9"

    def test_gives_the_odd_partition_to_another_member_in_another_topic(self) -> None:
        members = ["one", "two", "three"]
        lucky = {one for n in range(50) for one, found in shares(f"topic{n}", 4, members).items() if len(found) == 2}
        assert lucky == set(members)


class TestEvenly:
    @given(st.lists(st.integers(0, 50), max_size=10), st.integers(1, 100))
    def test_gives_out_as_much_as_there_is_and_fits(self, waiting: list[int], records_max: int) -> None:
        available = {("t", place): records for place, records in enumerate(waiting)}
        found = evenly(available, records_max)
        assert sum(found.values()) == min(sum(waiting), records_max)
        assert all(0 < records <= available[place] for place, records in found.items())

    def test_gives_a_busy_partition_what_the_others_leave(self) -> None:
        assert evenly({("t", 0): 1000, ("t", 1): 3, ("t", 2): 1000}, 100) == {("t", 1): 3, ("t", 0): 49, ("t", 2): 48}

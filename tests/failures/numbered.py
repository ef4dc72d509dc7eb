"""Publish numbered messages into a deployment, and look at what their handlers have written."""

import secrets
import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Self

from django.db import connection, connections, transaction

from apps.messaging.models import Pending, Redelivery
from apps.messaging.public import publish
from tests.deployment import Deployment
from tests.failures.deployed.numbers import GROUPS, Numbered

THREADS = 4
JOIN_S = 150
PAUSE_S = 0.04  # of each thread between two messages: about a hundred a second, which every group keeps up with
BEHIND_MAX = 1_000  # messages; on a machine where the groups do not keep up, nobody publishes faster than they read


class Keys:
    """Some keys of one test, and how far each was published. Numbers of a key are published one after another."""

    def __init__(self, count: int) -> None:
        name = secrets.token_hex(4)
        self.published = {f"{name}-{at}": 0 for at in range(count)}

    def publish(self, key: str) -> None:
        """The next number of a key, in a commit of its own."""
        n = self.published[key] + 1
        with transaction.atomic():
            publish(Numbered(key=key, n=n), key=key)
        self.published[key] = n

    def publish_rounds(self, rounds: int) -> None:
        """So many more numbers of every key, from several threads that each have keys of their own."""
        with Load(self, rounds=rounds) as load:
            load.join()

    def effects(self) -> dict[str, dict[str, list[tuple[int, int]]]]:
        """By group and key, in the order of their rows: each number, and the one before it that its handler saw."""
        with connection.cursor() as cursor:
            cursor.execute(
                'SELECT "group", key, n, previous FROM deployed_effect WHERE key = ANY(%s) ORDER BY id',
                [list(self.published)],
            )
            found: dict[str, dict[str, list[tuple[int, int]]]] = {group: defaultdict(list) for group in GROUPS}
            for group, key, n, previous in cursor.fetchall():
                found[group][key].append((n, previous))
        return {group: dict(keys) for group, keys in found.items()}

    def count(self) -> int:
        """How many effects there are, of all groups."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM deployed_effect WHERE key = ANY(%s)", [list(self.published)])
            (found,) = cursor.fetchone()
        return int(found)

    def behind(self) -> int:
        """How many messages no group, or not every group, has handled."""
        return sum(self.published.values()) - self.count() // len(GROUPS)

    def flow(self, deployed: Deployment) -> None:
        """Wait until what is published by now of every key has come through in every group: none is held up for ever."""
        wanted = {(group, key): n for group in GROUPS for key, n in self.published.items() if n}
        deployed.until(lambda: self._reach(wanted), what="every key flows")

    def _reach(self, wanted: dict[tuple[str, str], int]) -> bool:
        with connection.cursor() as cursor:
            cursor.execute(
                'SELECT "group", key, max(n) FROM deployed_effect WHERE key = ANY(%s) GROUP BY 1, 2', [list(self.published)]
            )
            found = {(group, key): n for group, key, n in cursor.fetchall()}
        return all(found.get(slot, 0) >= n for slot, n in wanted.items())

    def expected(self, groups: Sequence[str] = GROUPS) -> dict[str, dict[str, list[tuple[int, int]]]]:
        """Every number once, in order, and none while the one before it was under way."""
        numbers = {key: [(n, n - 1) for n in range(1, last + 1)] for key, last in self.published.items() if last}
        return {group: numbers if group in groups else {} for group in GROUPS}

    def all_arrive(self, deployed: Deployment, *, revive: bool = False, groups: Sequence[str] = GROUPS) -> None:
        """Wait for the last of them, and for the post office to be empty; then nothing may be missing, double or late."""
        wanted = sum(self.published.values()) * len(groups)
        deployed.until(
            lambda: self.count() >= wanted and not Pending.objects.exists() and not Redelivery.objects.exists(),
            what=f"{wanted} effects, and nothing waiting",
            revive=revive,
        )
        assert self.effects() == self.expected(groups)


class Load:
    """Threads that publish: for so many rounds, or until they are told to stop."""

    def __init__(self, keys: Keys, *, rounds: int = 0) -> None:
        self._keys, self._rounds = keys, rounds
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        names = list(keys.published)
        self._threads = [threading.Thread(target=self._run, args=(names[at::THREADS],)) for at in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, keys: Sequence[str]) -> None:
        try:
            done = 0
            while not self._stop.is_set() and (not self._rounds or done < self._rounds):
                for key in keys:
                    self._keys.publish(key)
                    if not self._rounds and self._stop.wait(PAUSE_S):
                        return
                done += 1
                while not self._rounds and self._keys.behind() > BEHIND_MAX and not self._stop.wait(PAUSE_S):
                    pass
        except BaseException as error:  # raised in join()
            self._errors.append(error)
        finally:
            connections.close_all()

    def stop(self) -> None:
        """Publish no more."""
        self._stop.set()
        self.join()

    def join(self) -> None:
        """Wait for the threads, and raise what they raised."""
        for thread in self._threads:
            thread.join(JOIN_S)
            assert not thread.is_alive(), "a publisher hangs"
        if self._errors:
            raise self._errors[0]

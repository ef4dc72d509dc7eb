"""The three words: who is the commit, who is part of one, who must hold none. (They need a connection.)"""

from contextlib import suppress

import pytest
from django.db import IntegrityError, connection
from django.db import transaction as django_transaction

from apps.common.transactions import (
    TransactionMisuse,
    durable,
    in_transaction,
    kept_savepoint,
    transaction,
    transaction_required,
)


@transaction
def commit(value: int, *, fail: bool = False) -> int:
    """A commit of its own."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS words (value int)")
        cursor.execute("INSERT INTO words VALUES (%s)", [value])
    if fail:
        raise IntegrityError("no")
    return value


@transaction_required
def part(value: int) -> int:
    """A part of a commit."""
    return value


@durable
def network(value: int) -> int:
    """A word with the outside."""
    return value


@transaction
def commit_with_network() -> None:
    network(1)


@transaction
def commit_with_commit() -> None:
    commit(1)


def stored() -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('words') IS NOT NULL")
        if not cursor.fetchone()[0]:
            return []
        cursor.execute("SELECT value FROM words")
        return [value for (value,) in cursor.fetchall()]


class Words:
    """What holds with and without a transaction that a TestCase wraps around the test."""

    def test_a_commit_gives_its_value_and_keeps_its_effect(self) -> None:
        assert commit(1) == 1
        assert stored() == [1]

    def test_a_commit_that_fails_keeps_nothing(self) -> None:
        with pytest.raises(IntegrityError):
            commit(1, fail=True)
        assert stored() == []
        assert not in_transaction()

    def test_a_commit_refuses_to_be_a_part(self) -> None:
        with pytest.raises(TransactionMisuse, match="commit is a commit of its own"), django_transaction.atomic():
            commit(1)
        with pytest.raises(TransactionMisuse):
            commit_with_commit()
        assert stored() == []

    def test_a_part_refuses_to_be_alone(self) -> None:
        with pytest.raises(TransactionMisuse, match="part is a part of a commit"):
            part(1)
        with django_transaction.atomic():
            assert part(1) == 1
            with django_transaction.atomic():
                assert part(2) == 2

    def test_the_network_is_never_waited_for_inside_a_transaction(self) -> None:
        assert network(1) == 1
        with pytest.raises(TransactionMisuse, match="network waits for the network"):
            commit_with_network()
        with django_transaction.atomic(), pytest.raises(TransactionMisuse):
            network(1)

    def test_keep_the_name_and_the_words_of_what_they_mark(self) -> None:
        assert [word.__name__ for word in (commit, part, network)] == ["commit", "part", "network"]
        assert commit.__doc__ == "A commit of its own."


@pytest.mark.django_db
class TestInATestCasesTransaction(Words):
    """The wrapping transaction of a test does not count."""


@pytest.mark.django_db(transaction=True)
class TestWithRealCommits(Words):
    """As in production."""

    @pytest.fixture(autouse=True)
    def _no_table_stays(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS words")


@pytest.mark.django_db(transaction=True)
class TestKeptSavepoint:
    @pytest.fixture(autouse=True)
    def _table(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS words")
        commit(0)

    def insert(self, value: int) -> None:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO words VALUES (%s)", [value])

    def test_is_committed_with_everything_else(self) -> None:
        with django_transaction.atomic():
            with kept_savepoint():
                self.insert(1)
            self.insert(2)
        assert stored() == [0, 1, 2]

    def test_is_rolled_back_alone_when_it_raises(self) -> None:
        with django_transaction.atomic():
            self.insert(1)
            with suppress(IntegrityError), kept_savepoint():
                self.insert(2)
                raise IntegrityError
            with kept_savepoint():
                self.insert(3)
        assert stored() == [0, 1, 3]

    def test_goes_with_the_block_around_it(self) -> None:
        with django_transaction.atomic():
            with suppress(IntegrityError), django_transaction.atomic():
                with kept_savepoint():
                    self.insert(1)
                raise IntegrityError
            self.insert(2)
        assert stored() == [0, 2]

    def test_takes_its_hooks_with_it_when_it_raises(self) -> None:
        called: list[int] = []
        with django_transaction.atomic():
            with kept_savepoint():
                django_transaction.on_commit(lambda: called.append(1))
            with suppress(IntegrityError), kept_savepoint():
                django_transaction.on_commit(lambda: called.append(2))
                raise IntegrityError
        assert called == [1]

    def test_is_rolled_back_when_a_block_without_a_savepoint_broke_in_it(self) -> None:
        with django_transaction.atomic():
            with kept_savepoint():
                self.insert(1)
                with pytest.raises(IntegrityError), django_transaction.atomic(savepoint=False):
                    raise IntegrityError
            self.insert(2)
        assert stored() == [0, 2]

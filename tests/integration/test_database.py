"""Our connection: how one object is inserted, and what a savepoint says (they are Django's in everything else)."""

import pytest
from django.contrib.auth.models import Group
from django.db import IntegrityError, connection, transaction
from django.db.models import Value
from django.db.models.functions import Lower

from apps.common.clock import uuid7


def prepared_inserts() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements WHERE statement LIKE 'INSERT INTO \"auth_group\"%'")
        return [statement for (statement,) in cursor.fetchall()]


def name() -> str:
    return str(uuid7())


@pytest.mark.django_db
class TestInsert:
    def test_is_prepared_once_for_all_objects(self) -> None:
        groups = [Group.objects.create(name=name()) for _ in range(3)]
        assert len(prepared_inserts()) == 1
        assert {group.pk for group in groups} == set(Group.objects.values_list("pk", flat=True))

    def test_leaves_an_expression_to_django(self) -> None:
        group = Group.objects.create(name=Lower(Value("TELLERS")))
        assert Group.objects.get(pk=group.pk).name == "tellers"

    def test_leaves_many_objects_to_django(self) -> None:
        Group.objects.bulk_create([Group(name=name()) for _ in range(3)])
        assert Group.objects.count() == 3

    def test_raises_djangos_own_error(self) -> None:
        Group.objects.create(name="tellers")
        with pytest.raises(IntegrityError), transaction.atomic():
            Group.objects.create(name="tellers")
        assert Group.objects.count() == 1

    def test_is_told_to_whoever_counts_statements(self, django_assert_num_queries: object) -> None:
        with django_assert_num_queries(1):  # type: ignore[operator]
            Group.objects.create(name=name())


@pytest.mark.django_db(transaction=True)
class TestSavepoint:
    def test_begins_the_transaction_that_has_said_nothing_yet(self) -> None:
        with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012
            with transaction.atomic():
                Group.objects.create(name="within")
            raise ZeroDivisionError
        assert not Group.objects.exists(), "it was no commit of its own"

    def test_takes_back_only_what_came_after_it(self) -> None:
        with transaction.atomic():
            Group.objects.create(name="before")
            with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012
                Group.objects.create(name="within")
                raise ZeroDivisionError
            Group.objects.create(name="after")
        assert set(Group.objects.values_list("name", flat=True)) == {"before", "after"}

    def test_leaves_an_empty_transaction_usable(self) -> None:
        with transaction.atomic():
            with pytest.raises(IntegrityError), transaction.atomic():  # noqa: PT012
                Group.objects.create(name="twice")
                Group.objects.create(name="twice")
            Group.objects.create(name="once")
        assert [group.name for group in Group.objects.all()] == ["once"]

    def test_is_refused_in_a_transaction_that_has_failed(self) -> None:
        with pytest.raises(transaction.TransactionManagementError), transaction.atomic():  # noqa: PT012
            with pytest.raises(IntegrityError), transaction.atomic(savepoint=False):  # noqa: PT012
                Group.objects.create(name="twice")
                Group.objects.create(name="twice")
            Group.objects.create(name="more")
        assert not Group.objects.exists()


@pytest.mark.django_db
class TestLimits:
    def test_nobody_waits_long_for_a_lock_or_holds_one_and_does_nothing(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout')")
            assert cursor.fetchone() == ("10s", "30s")


@pytest.mark.django_db(transaction=True)
class TestHealthCheck:
    def test_lets_go_of_a_connection_that_the_server_has_ended_and_asks_the_server_nothing(
        self, django_assert_num_queries: object
    ) -> None:
        Group.objects.create(name="before")
        connection.health_check_enabled, connection.health_check_done = True, False
        with django_assert_num_queries(1):  # type: ignore[operator]
            Group.objects.count()  # of a healthy one, which stays
        own = connection.connection
        end_from_outside(own.info.backend_pid)
        connection.health_check_done = False
        try:
            assert Group.objects.count() == 1
            assert connection.connection is not own
        finally:
            connection.health_check_enabled = False


def end_from_outside(backend: int) -> None:
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [backend])  # and wait until it is gone
    other.close()

"""Our connection: how one object is inserted, and what a savepoint says (they are Django's in everything else)."""

from decimal import Decimal

import pytest
from django.contrib.auth.models import Group
from django.db import IntegrityError, NotSupportedError, OperationalError, connection, transaction
from django.db.models import Value
from django.db.models.functions import Lower
from django.utils import timezone

from apps.common import prepared
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
class TestPrepared:
    def test_reads_what_django_reads(self) -> None:
        moment = timezone.now()
        values = {"uuid": uuid7(), "text": "à 100%", "number": Decimal("10.50"), "at": moment, "none": None, "yes": True}
        asked = (
            "SELECT %(uuid)s::uuid, %(text)s::text || '%%', %(number)s::numeric, %(at)s::timestamptz, %(none)s::int, "
            "%(yes)s::bool, %(uuid)s::uuid"
        )
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(asked, values)
            assert prepared.execute(asked, values).fetchall() == cursor.fetchall()

    def test_gives_its_rows_one_after_the_other(self) -> None:
        with transaction.atomic():
            connection.ensure_connection()
            found = prepared.execute("SELECT n FROM generate_series(1, %s::int) n", [3])
            assert (found.rowcount, found.fetchone(), found.fetchall(), found.fetchone()) == (3, (1,), [(2,), (3,)], None)

    def test_counts_the_rows_that_it_changed(self) -> None:
        Group.objects.bulk_create([Group(name="a"), Group(name="b")])
        with transaction.atomic():
            assert Group.objects.exists()
            assert prepared.execute("UPDATE auth_group SET name = name || %s::text", ["!"]).rowcount == 2

    def test_goes_on_when_the_table_was_altered(self) -> None:
        asked = "SELECT * FROM altered WHERE a <> %s::int"
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE altered (a int); INSERT INTO altered VALUES (1)")
            try:
                assert prepared.execute(asked, [0]).fetchone() == (1,)
                cursor.execute("ALTER TABLE altered ADD b int DEFAULT 2")
                with pytest.raises(NotSupportedError):
                    prepared.execute(asked, [0])
                assert prepared.execute(asked, [0]).fetchone() == (1, 2)
            finally:
                cursor.execute("DROP TABLE altered")

    def test_survives_a_rollback(self) -> None:
        for _ in range(3):
            with transaction.atomic():
                connection.ensure_connection()
                assert prepared.execute("SELECT %s::int", [1]).fetchone() == (1,)
                assert prepared.execute("SELECT %s::int", [1]).fetchone() == (1,)
                transaction.set_rollback(True)

    def test_says_that_the_connection_is_gone(self) -> None:
        prepared.execute("SELECT %s::int", [1])
        with pytest.raises(OperationalError):
            prepared.execute("SELECT pg_terminate_backend(pg_backend_pid()), %s::int", [1])
        with pytest.raises(OperationalError):
            prepared.execute("SELECT %s::int", [1])
        connection.close()


@pytest.mark.django_db(transaction=True)
class TestCommit:
    def test_says_what_a_deferred_constraint_says(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE one (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
            try:
                with pytest.raises(IntegrityError), transaction.atomic():
                    cursor.execute("INSERT INTO one VALUES (1), (1)")
                cursor.execute("SELECT count(*) FROM one")
                assert cursor.fetchone() == (0,)
            finally:
                cursor.execute("DROP TABLE one")


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

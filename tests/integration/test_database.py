"""Our connection: how one object is inserted, and what a savepoint says (they are Django's in everything else)."""

import threading
from decimal import Decimal
from typing import Any
from unittest import mock

import psycopg
import pytest
from django.contrib.auth.models import Group
from django.db import DataError, IntegrityError, NotSupportedError, OperationalError, connection, connections, transaction
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


def waits_of(statement: str, values: list[Any]) -> int:
    """How often psycopg waits for the server: not at all for one call of libpq."""
    waits: list[Any] = []
    execute = psycopg.generators.execute
    with mock.patch("psycopg._cursor_base.execute", side_effect=lambda pgconn: waits.append(1) or execute(pgconn)):
        prepared.execute(statement, values)
    return len(waits)


@pytest.mark.django_db(transaction=True)
class TestPrepared:
    def test_is_one_call_once_it_is_prepared(self) -> None:
        with transaction.atomic():
            assert [waits_of("SELECT %s::int", [number]) for number in range(3)] == [2, 0, 0]

    def test_reads_what_django_reads(self) -> None:
        values = {
            "uuid": uuid7(),
            "text": "à 100%",
            "number": Decimal("10.50"),
            "at": timezone.now(),
            "none": None,
            "yes": True,
        }
        asked = (
            "SELECT %(uuid)s::uuid, %(text)s::text || '%%', %(number)s::numeric, %(at)s::timestamptz, %(none)s::int, "
            "%(yes)s::bool, %(uuid)s::uuid"
        )
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(asked, values)
            djangos = cursor.fetchall()
            assert [prepared.execute(asked, values).fetchall() for _ in range(2)] == [djangos, djangos]

    def test_gives_its_rows_one_after_the_other(self) -> None:
        for _ in range(2):
            found = prepared.execute("SELECT n FROM generate_series(1, %s::int) n", [3])
            others = prepared.execute("SELECT n FROM generate_series(1, %s::int) n", [1])
            assert (found.rowcount, found.fetchone(), found.fetchall(), found.fetchone()) == (3, (1,), [(2,), (3,)], None)
            assert others.fetchall() == [(1,)]

    def test_counts_the_rows_that_it_changed(self) -> None:
        Group.objects.bulk_create([Group(name="a"), Group(name="b")])
        counts = [prepared.execute("UPDATE auth_group SET name = name || %s::text", ["!"]).rowcount for _ in range(2)]
        assert counts == [2, 2]

    def test_raises_djangos_errors_each_time(self) -> None:
        assert prepared.execute("SELECT 1 / %s::int", [1]).fetchone() == (1,)
        for _ in range(2):
            with pytest.raises(DataError, match="division by zero"), transaction.atomic():
                prepared.execute("SELECT 1 / %s::int", [0])

    def test_goes_on_when_the_table_was_altered(self) -> None:
        asked = "SELECT * FROM altered WHERE a <> %s::int"
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE altered (a int); INSERT INTO altered VALUES (1)")
            try:
                assert [prepared.execute(asked, [0]).fetchone() for _ in range(2)] == [(1,), (1,)]
                cursor.execute("ALTER TABLE altered ADD b int DEFAULT 2")
                assert prepared.execute(asked, [0]).fetchone() == (1, 2), "psycopg has seen it, and prepared it anew"
                self.alter_elsewhere()
                with pytest.raises(NotSupportedError), transaction.atomic():
                    prepared.execute(asked, [0])
                assert prepared.execute(asked, [0]).fetchone() == (1, 2, 3), "after a rollback it is prepared anew"
            finally:
                cursor.execute("DROP TABLE altered")

    def alter_elsewhere(self) -> None:
        other = connection.copy()
        with other.cursor() as cursor:
            cursor.execute("ALTER TABLE altered ADD c int DEFAULT 3")
        other.close()

    def test_survives_rollbacks(self) -> None:
        for _ in range(3):
            with transaction.atomic():
                assert [prepared.execute("SELECT %s::int", [1]).fetchone() for _ in range(2)] == [(1,), (1,)]
                Group.objects.create(name="twice")
                with pytest.raises(IntegrityError), transaction.atomic():
                    Group.objects.create(name="twice")
                assert prepared.execute("SELECT %s::int", [2]).fetchone() == (2,)
                transaction.set_rollback(True)

    def test_survives_that_more_is_prepared_than_psycopg_keeps(self) -> None:
        kept = connection.connection.prepared_max if connection.connection else 100
        for _ in range(2):
            found = [prepared.execute(f"SELECT %s::int + {each}", [1]).fetchone() for each in range(kept + 5)]
            assert found == [(each + 1,) for each in range(kept + 5)]

    def test_is_told_among_others_in_one_round_trip(self) -> None:
        asked = ("SELECT %s::int", [1])
        with transaction.atomic():
            assert [prepared.fetch_each(asked, asked) for _ in range(3)] == [[[(1,)], [(1,)]]] * 3

    @pytest.mark.parametrize("times", [1, 2])
    def test_says_that_the_connection_is_gone(self, times: int) -> None:
        @transaction.atomic
        def asks_to_the_end() -> None:
            for _ in range(times):
                prepared.execute("SELECT pg_sleep(%s)", [0])
            end_from_outside(connection.connection.info.backend_pid)
            prepared.execute("SELECT pg_sleep(%s)", [0])

        with pytest.raises(OperationalError):
            asks_to_the_end()
        assert prepared.execute("SELECT pg_sleep(%s)", [0]).rowcount == 1, "Django has made another one"

    def test_a_thread_that_waits_for_a_lock_lets_others_work(self) -> None:
        group = Group.objects.create(name="locked")
        lock = ("UPDATE auth_group SET name = name WHERE id = %s", [group.pk])
        waiting = threading.Event()
        done: list[int] = []

        def wait() -> None:
            try:
                with transaction.atomic():
                    prepared.execute(lock[0], [0])  # prepared: the next one is one call
                    waiting.set()
                    done.append(prepared.execute(*lock).rowcount)
            finally:
                connections.close_all()

        thread = threading.Thread(target=wait)
        with transaction.atomic():
            prepared.execute(*lock)
            thread.start()
            assert waiting.wait(60)
            assert Group.objects.count() == 1, "this thread is not held up"
            assert not done
        thread.join(60)
        assert done == [1]


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

    def test_of_a_connection_that_is_gone_is_no_commit(self) -> None:
        @transaction.atomic
        def writes_and_loses() -> None:
            Group.objects.create(name="lost")
            end_from_outside(connection.connection.info.backend_pid)

        with pytest.raises(OperationalError):
            writes_and_loses()
        assert not Group.objects.exists()

    def test_is_told_to_whoever_logs_statements(self) -> None:
        connection.force_debug_cursor = True
        try:
            with transaction.atomic():
                Group.objects.create(name="told")
            assert connection.queries[-1]["sql"] == "COMMIT"
        finally:
            connection.force_debug_cursor = False


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

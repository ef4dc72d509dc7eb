"""One key, one effect, one answer: also under a race, and after a crash."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, connections, transaction
from pytest_django import Settings

from apps.common.transactions import TransactionMisuse
from apps.customers.models import Customer
from apps.idempotency import operations, tasks
from apps.idempotency import public as idempotency
from apps.idempotency.models import IdempotencyKey

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
AFTER = NOW + operations.LEASE
ANSWER: dict[str, Any] = {"status": 202, "body": {"id": "1"}, "headers": {"Location": "/x/1"}}
FINAL: dict[str, Any] = {"status": 201, "body": {"id": "1", "done": True}, "headers": {"Location": "/x/1"}}


def begin(key: str = "k", *, body: Any = None, account: str = "acc_1", now: datetime = NOW) -> Any:
    with transaction.atomic():
        return idempotency.begin(account_id=account, key=key, route="POST /x", body=body or {"a": 1}, now=now)


def begin_with_provisional(key: str = "k") -> idempotency.Begun:
    with transaction.atomic():
        begun = idempotency.begin(account_id="acc_1", key=key, route="POST /x", body={"a": 1}, now=NOW)
        assert isinstance(begun, idempotency.Begun)
        idempotency.provisional(begun, **ANSWER)
    return begun


class TestBegin:
    def test_the_first_begins_and_the_second_waits(self) -> None:
        assert isinstance(begin(), idempotency.Begun)
        with pytest.raises(idempotency.IdempotencyInFlight) as refusal:
            begin()
        assert (refusal.value.status, refusal.value.retryable) == (409, True)

    def test_another_body_or_route_is_refused_at_once(self) -> None:
        begin()
        with pytest.raises(idempotency.IdempotencyMismatch):
            begin(body={"a": 2})
        with pytest.raises(idempotency.IdempotencyMismatch), transaction.atomic():
            idempotency.begin(account_id="acc_1", key="k", route="POST /y", body={"a": 1}, now=NOW)

    def test_another_account_may_use_the_same_key(self) -> None:
        begin()
        assert isinstance(begin(account="acc_2"), idempotency.Begun)

    def test_a_work_that_is_rolled_back_takes_its_key_with_it(self) -> None:
        with transaction.atomic():
            idempotency.begin(account_id="acc_1", key="k", route="POST /x", body={"a": 1}, now=NOW)
            transaction.set_rollback(True)
        assert isinstance(begin(), idempotency.Begun)

    def test_keeps_no_body(self) -> None:
        begin(body={"number": "4242424242424242"})
        row = IdempotencyKey.objects.get()
        assert len(bytes(row.fingerprint)) == 32
        assert row.body is None

    def test_leaves_the_lock_timeout_of_its_caller_as_it_was(self) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '7s'")
            idempotency.begin(account_id="acc_1", key="k", route="POST /x", body={}, now=NOW)
            cursor.execute("SHOW lock_timeout")
            assert cursor.fetchone() == ("7s",)

    def test_knows_a_key_from_before_the_secret_was_changed(self, settings: Settings) -> None:
        begin_with_provisional()
        settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
        settings.SECRET_KEY = "another"
        assert isinstance(begin(now=AFTER), idempotency.Replay)

    def test_needs_a_transaction(self) -> None:
        with pytest.raises(TransactionMisuse):
            idempotency.begin(account_id="acc_1", key="k", route="POST /x", body={}, now=NOW)


class TestAnswers:
    def test_a_provisional_answer_counts_once_the_lease_is_over(self) -> None:
        begin_with_provisional()
        with pytest.raises(idempotency.IdempotencyInFlight):
            begin(now=AFTER - timedelta(microseconds=1))
        replay = begin(now=AFTER)
        assert (replay.status, replay.body) == (202, {"id": "1"})
        assert replay.headers == {"Location": "/x/1", "Idempotent-Replayed": "true"}

    def test_the_final_answer_counts_at_once_and_for_good(self) -> None:
        begun = begin_with_provisional()
        idempotency.complete(begun, **FINAL, now=NOW)
        for moment in (NOW, AFTER):
            assert begin(now=moment).body == {"id": "1", "done": True}

    def test_a_final_answer_in_the_works_own_commit(self) -> None:
        with transaction.atomic():
            begun = idempotency.begin(account_id="acc_1", key="k", route="POST /x", body={"a": 1}, now=NOW)
            assert isinstance(begun, idempotency.Begun)
            idempotency.settle(begun, **FINAL, now=NOW)
        assert begin().status == 201

    def test_a_second_final_answer_changes_nothing(self) -> None:
        begun = begin_with_provisional()
        idempotency.complete(begun, **FINAL, now=NOW)
        idempotency.complete(begun, **ANSWER, now=NOW)
        assert begin().status == 201

    def test_a_key_without_an_answer_is_taken_over_and_its_old_holder_is_out(self) -> None:
        first = begin()
        second = begin(now=AFTER)
        assert second.id == first.id
        assert second.lease_id != first.lease_id
        idempotency.complete(first, **FINAL, now=AFTER)
        with pytest.raises(idempotency.IdempotencyInFlight):
            begin(now=AFTER)

    def test_complete_is_a_commit_of_its_own(self) -> None:
        begun = begin()
        with pytest.raises(TransactionMisuse), transaction.atomic():
            idempotency.complete(begun, **FINAL, now=NOW)


class TestPurge:
    def test_forgets_what_is_older_than_the_published_time_and_nothing_else(self) -> None:
        begin("old", now=NOW - operations.KEPT_FOR - timedelta(seconds=1))
        begin("young", now=NOW - operations.KEPT_FOR)
        assert operations.purge(now=NOW) == 1
        assert IdempotencyKey.objects.get().key == "young"

    @pytest.mark.django_db(transaction=True)
    def test_an_hours_run_keeps_up_with_a_hundred_keys_a_second(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In steps of one row instead of a thousand: 360 stand for the 360,000 of an hour."""
        monkeypatch.setattr(operations, "PURGE_ROWS_MAX", 1)
        old = NOW - operations.KEPT_FOR - timedelta(seconds=1)
        IdempotencyKey.objects.bulk_create(
            IdempotencyKey(account_id="acc_1", key=f"k{n}", route="x", fingerprint=b"", lease_until=old, created_at=old)
            for n in range(360)
        )
        tasks.purge()
        assert IdempotencyKey.objects.count() == 0


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    outcomes: list[Any] = [None] * len(calls)

    def run(index: int) -> None:
        try:
            outcomes[index] = calls[index]()
        except Exception as error:
            outcomes[index] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def wait_for_a_blocked_backend() -> None:
    """Until PostgreSQL itself says that somebody of this database waits for a lock."""
    with connection.cursor() as cursor:
        for _ in range(100_000):
            cursor.execute("SELECT pg_stat_clear_snapshot()")  # A transaction sees its first look again and again.
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            if cursor.fetchone()[0]:
                return
    raise AssertionError("nobody ever waited")


@pytest.mark.django_db(transaction=True)
class TestRaces:
    def work(self, *, before_commit: Callable[[], None], fail: bool = False) -> str:
        with transaction.atomic():
            outcome = idempotency.begin(account_id="acc_1", key="k", route="POST /x", body={"a": 1}, now=NOW)
            if isinstance(outcome, idempotency.Replay):
                return "replayed"
            Customer.objects.create(
                name="effect",
                cpf="52998224725",
                default_method="card",
                email="a@example.com",
                created_at=NOW,
                updated_at=NOW,
            )
            idempotency.settle(outcome, **FINAL, now=NOW)
            before_commit()
            if fail:
                raise ZeroDivisionError
        return "did it"

    def race(self, *, fail: bool) -> list[Any]:
        """The first holds its transaction open until the second waits for it in the database."""
        first_is_in = threading.Event()

        def first() -> str:
            def hold() -> None:
                first_is_in.set()
                wait_for_a_blocked_backend()

            return self.work(before_commit=hold, fail=fail)

        def second() -> str:
            assert first_is_in.wait(90)
            return self.work(before_commit=lambda: None)

        return in_threads(first, second)

    def test_the_second_waits_for_the_first_and_replays_its_answer(self) -> None:
        assert self.race(fail=False) == ["did it", "replayed"]
        assert Customer.objects.count() == 1

    def test_the_second_does_the_work_when_the_first_rolls_back(self) -> None:
        outcomes = self.race(fail=True)
        assert isinstance(outcomes[0], ZeroDivisionError)
        assert outcomes[1] == "did it"
        assert Customer.objects.count() == 1

    def test_a_first_that_never_commits_is_not_waited_for_without_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(operations, "WAIT_MS_MAX", 50)
        with transaction.atomic():
            idempotency.begin(account_id="acc_1", key="k", route="POST /x", body={"a": 1}, now=NOW)
            outcomes = in_threads(lambda: self.work(before_commit=lambda: None))
        assert isinstance(outcomes[0], idempotency.IdempotencyInFlight)
        assert Customer.objects.count() == 0

    def test_a_key_that_is_forgotten_while_it_is_repeated_is_asked_for_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        begin(now=NOW - operations.KEPT_FOR - timedelta(seconds=1))
        insert = operations._insert

        def insert_then_purge(row: IdempotencyKey) -> bool:
            inserted = insert(row)
            assert in_threads(lambda: operations.purge(now=NOW)) == [1]
            return inserted

        with monkeypatch.context() as patched:
            patched.setattr(operations, "_insert", insert_then_purge)
            with pytest.raises(idempotency.IdempotencyInFlight):
                begin()
        assert isinstance(begin(), idempotency.Begun)

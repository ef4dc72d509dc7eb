"""A stream of batches: it answers and writes what batches one by one do, whatever the next one brings meanwhile."""

import random
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest
from django.db import IntegrityError, OperationalError, connection, connections, transaction

from apps.common import prepared
from apps.common.clock import uuid7
from apps.common.meanwhile import Work, in_steps, to_the_end
from apps.common.transactions import TransactionMisuse, in_transaction
from apps.ledger import plain_keys, plain_lines, postings, rows
from apps.ledger import public as ledger
from apps.ledger.models import PostingKey
from apps.ledger.public import Entry, EntryResult
from apps.ledger.reconciliation import prove
from tests.integration.ledger.conftest import ANA, BOB, NOW, line, post_batch
from tests.integration.ledger.test_batch_differential import contents
from tests.integration.ledger.test_plain import answers, batch, open_world


def stream(batches: list[list[Entry]], *, entries_min: int = 1) -> list[list[EntryResult]]:
    with patch.object(postings, "PLAIN_ENTRIES_MIN", entries_min):
        return list(ledger.post_batches(batches, clock=lambda: NOW))


@pytest.mark.django_db
class TestAnswersAsBatchesDo:
    @pytest.mark.parametrize("seed", range(6))
    def test_answers_and_rows_are_the_same(self, seed: int) -> None:
        draw = random.Random(seed)
        batches = [batch(draw, size, first_key=1_000 * (n + 1)) for n, size in enumerate([150, 3, 40, 120])]
        batches[3] += batches[2][:20]  # made ready before the same keys were posted
        batches.append(batches[0])
        found = []
        for entries_min in (1, 100):
            before = transaction.savepoint()
            with transaction.atomic():
                open_world()
            streamed = [answers(results) for results in stream(batches, entries_min=entries_min)]
            found.append((streamed, contents()))
            assert prove() == []
            transaction.savepoint_rollback(before)
        with transaction.atomic():
            open_world()
        expected = [answers(post_batch(entries)) for entries in batches]
        assert found == [(expected, contents())] * 2


@pytest.mark.django_db
@pytest.mark.usefixtures("bank")
class TestStream:
    def test_the_source_is_asked_outside_of_transactions_and_one_batch_ahead(self) -> None:
        told: list[str] = []

        def source() -> Iterator[list[Entry]]:
            for n in range(3):
                assert not in_transaction()
                told.append(f"asked for {n}")
                yield [line(ANA, "C", 1)]

        for n, _ in enumerate(ledger.post_batches(source(), clock=lambda: NOW)):
            told.append(f"posted {n}")
        assert told == ["asked for 0", "asked for 1", "posted 0", "asked for 2", "posted 1", "posted 2"]

    def test_no_batches_are_none(self) -> None:
        assert stream([]) == []
        assert stream([[]]) == [[]]

    def test_is_a_commit_of_its_own(self) -> None:
        with transaction.atomic(), pytest.raises(TransactionMisuse):
            stream([[line(ANA, "C", 1)]])

    def test_a_batch_that_is_too_large_is_refused_when_it_is_its_turn(self) -> None:
        large = [line(ANA, "C", 1)] * (ledger.BATCH_LINES_MAX + 1)
        posted = ledger.post_batches([[line(ANA, "C", 1)], large, [line(ANA, "C", 1)]], clock=lambda: NOW)
        assert [result.code for result in next(posted)] == [None]
        with pytest.raises(ledger.BatchTooLarge):
            next(posted)
        assert PostingKey.objects.count() == 1

    def test_an_error_in_making_the_next_one_ready_is_its_own(self) -> None:
        batches = [[line(ANA, "C", 1) for _ in range(5)] for _ in range(3)]
        fail_at = batches[1][3].tracekey
        check = plain_keys.check_forms

        def fail(commands: Any, forms: Any) -> None:
            check(commands, forms)
            assert all(command.tracekey != fail_at for command in commands), "a bug"

        posted = ledger.post_batches(batches, clock=lambda: NOW)
        with patch.object(postings, "PLAIN_ENTRIES_MIN", 1), patch.object(plain_keys, "check_forms", fail):
            assert [result.code for result in next(posted)] == [None] * 5
            with pytest.raises(AssertionError, match="a bug"):
                next(posted)
        assert set(PostingKey.objects.values_list("tracekey", flat=True)) == {entry.tracekey for entry in batches[0]}

    def test_an_error_in_making_lines_undoes_its_batch_alone(self) -> None:
        batches = [[line(ref, "C", 1) for _ in range(5)] for ref in (ANA, BOB)]
        of = plain_lines.Lines.of

        def fail(gathered: Any, **options: Any) -> Any:
            assert BOB not in gathered.places, "a bug"
            return (yield from of(gathered, **options))

        with patch.object(postings, "PLAIN_ENTRIES_MIN", 1), patch.object(plain_lines.Lines, "of", fail):
            posted = ledger.post_batches(batches, clock=lambda: NOW)
            assert [result.code for result in next(posted)] == [None] * 5
            with pytest.raises(AssertionError, match="a bug"):
                next(posted)
        assert PostingKey.objects.count() == 5
        assert prove() == []

    def test_each_batch_has_the_moment_at_which_it_was_taken(self) -> None:
        moments = iter([NOW, NOW.replace(microsecond=1)])
        list(ledger.post_batches([[line(ANA, "C", 1)], [line(ANA, "C", 2)]], clock=lambda: next(moments)))
        with connection.cursor() as cursor:
            cursor.execute("SELECT amount, createdat FROM ledger_transaction ORDER BY amount")
            found: list[tuple[Any, datetime]] = cursor.fetchall()
        assert found == [(1, NOW), (2, NOW.replace(microsecond=1))]


class Elsewhere:
    """Another connection, which holds something until it is told to let go."""

    def __init__(self, statement: str, values: list[Any]) -> None:
        self._holds, self._let_go = threading.Event(), threading.Event()
        self._ask = (statement, values)
        self._thread = threading.Thread(target=self._hold, daemon=True)

    def _hold(self) -> None:
        try:
            with transaction.atomic():
                with connection.cursor() as cursor:
                    cursor.execute(*self._ask)
                self._holds.set()
                self._let_go.wait(90)
                transaction.set_rollback(True)
        finally:
            connections.close_all()

    def __enter__(self) -> "Elsewhere":
        self._thread.start()
        assert self._holds.wait(90)
        return self

    def __exit__(self, *error: object) -> None:
        self.let_go()

    def let_go(self) -> None:
        self._let_go.set()
        self._thread.join(90)


def claim(key: UUID) -> tuple[str, list[Any]]:
    return "INSERT INTO ledger_posting_key (tracekey, bodyhash, state, createdat) VALUES (%s, '', 'TOMBSTONE', now())", [
        key
    ]


COPY_KEYS = "COPY ledger_posting_key (tracekey, bodyhash, state, createdat) FROM STDIN"
LOCK = "SELECT pg_advisory_xact_lock(%s::int)"


def rows_of(keys: list[UUID]) -> Iterator[str]:
    for key in keys:
        yield f"{key}\t\\\\x\tTOMBSTONE\t2026-01-01\n"


@pytest.mark.django_db(transaction=True)
class TestMeanwhile:
    """What the server waits for is let go by a step: without work meanwhile none of this would ever be answered."""

    def test_a_prepared_statement(self) -> None:
        with Elsewhere("SELECT pg_advisory_xact_lock(77)", []) as other, transaction.atomic():
            prepared.execute(LOCK, [78])  # is prepared from here on
            work = Work(iter([1, 2]), (other.let_go() for _ in range(1)))
            assert len(rows.fetch_hot(LOCK, [77], work=work)) == 1

    def test_several_in_one_message(self) -> None:
        with Elsewhere("SELECT pg_advisory_xact_lock(77)", []) as other, transaction.atomic():
            asked = [("SELECT %s::int", [5]), ("SELECT 1, pg_advisory_xact_lock(%s::int)", [77]), ("SELECT %s::int", [6])]
            with prepared.fetch_in_turn(*asked, work=Work(other.let_go() for _ in range(1))) as answers:
                found = list(answers)
        assert [found[0], found[1][0][0], found[2]] == [[(5,)], 1, [(6,)]]

    def test_a_copy(self) -> None:
        keys = [uuid7() for _ in range(3)]
        with Elsewhere(*claim(keys[1])) as other, transaction.atomic():
            rows.copy_rows(COPY_KEYS, rows_of(keys), work=Work(other.let_go() for _ in range(1)))
        assert PostingKey.objects.filter(tracekey__in=keys).count() == 3

    def test_blocks_that_the_server_does_not_take_yet(self) -> None:
        """More than the socket holds: the client would wait for the server, which waits for the step."""
        keys = [uuid7() for _ in range(20_000)]
        with Elsewhere(*claim(keys[0])) as other, transaction.atomic():
            rows.copy_rows(COPY_KEYS, rows_of(keys), work=Work(other.let_go() for _ in range(1)))
        assert PostingKey.objects.count() == 20_000

    def test_a_step_that_fails_leaves_a_connection_that_works(self) -> None:
        def fail() -> Iterator[None]:
            raise ZeroDivisionError
            yield

        def ask_in_turn() -> None:
            with prepared.fetch_in_turn(lock, lock, work=Work(fail())) as answers:
                list(answers)

        keys = [uuid7() for _ in range(3)]
        lock = LOCK, [77]
        with Elsewhere("SELECT pg_advisory_xact_lock(77)", []), transaction.atomic():
            prepared.execute(LOCK, [78])
            for ask in (lambda: rows.fetch_hot(*lock, work=Work(fail())), ask_in_turn):
                with pytest.raises(ZeroDivisionError), transaction.atomic():
                    ask()
                assert rows.fetch("SELECT %s::int", [1]) == [(1,)]
        with Elsewhere(*claim(keys[1])), transaction.atomic():
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                rows.copy_rows(COPY_KEYS, rows_of(keys), work=Work(fail()))
            assert PostingKey.objects.filter(tracekey__in=keys).count() == 0

    def test_blocks_that_fail_end_the_copy(self) -> None:
        def blocks() -> Iterator[str]:
            yield from rows_of([uuid7()])
            raise ZeroDivisionError

        with transaction.atomic():
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                rows.copy_rows(COPY_KEYS, blocks())
            assert PostingKey.objects.count() == 0

    def test_what_the_server_refuses_is_djangos_error(self) -> None:
        key = uuid7()
        with transaction.atomic():
            rows.copy_rows(COPY_KEYS, rows_of([key]))
            with pytest.raises(IntegrityError), transaction.atomic():
                rows.copy_rows(COPY_KEYS, rows_of([uuid7(), key]))
            assert PostingKey.objects.count() == 1
        with pytest.raises(Exception, match="no_table"), transaction.atomic():
            rows.copy_rows("COPY no_table FROM STDIN", rows_of([key]))

    def test_a_connection_that_is_gone_is_said(self) -> None:
        with transaction.atomic():
            pid = rows.fetch("SELECT pg_backend_pid()", [])[0][0]

        def copy() -> None:
            with Elsewhere("SELECT pg_terminate_backend(%s)", [pid]):
                rows.copy_rows(COPY_KEYS, rows_of([uuid7() for _ in range(20_000)]))

        with pytest.raises(OperationalError), transaction.atomic():
            copy()
        assert rows.fetch("SELECT %s::int", [1]) == [(1,)]


def test_steps_give_what_is_made_at_once() -> None:
    steps = in_steps(range(5), lambda some: [n * 2 for n in some], 2)
    assert [next(steps), next(steps)] == [None, None]
    assert to_the_end(steps) == [0, 2, 4, 6, 8]

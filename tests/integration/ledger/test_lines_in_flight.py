"""A stream of single lines: the next one is sent before the one before is answered, and nobody can tell."""

import os
import random
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import count
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest
from django.db import DatabaseError, Error, OperationalError, connection, transaction
from psycopg import pq

from apps.common import in_flight
from apps.common.clock import uuid7
from apps.common.in_flight import InFlight
from apps.common.transactions import TransactionMisuse, leave_connection
from apps.ledger import public as ledger
from apps.ledger import rows
from apps.ledger.models import Account, PostingKey
from apps.ledger.public import AccountRef, Entry, EntryResult
from apps.ledger.reconciliation import prove
from tests.flows.test_pooler import over_a_pooler
from tests.integration.ledger.conftest import ANA, BOB, CLEARING, LIMITED, NOW, line, post_batch
from tests.integration.ledger.test_batch_differential import contents, entries
from tests.integration.ledger.test_concurrency import wait_until_blocked
from tests.integration.ledger.test_plain import answers, batch, open_world
from tests.integration.ledger.test_streams import Elsewhere

pytestmark = pytest.mark.django_db(transaction=True)

WAITS_S = 60  # a limit for a broken build


def stream(batches: Iterable[list[Entry]]) -> Iterator[list[EntryResult]]:
    return ledger.post_batches(batches, clock=lambda: NOW)


def credit(*refs: AccountRef) -> list[list[Entry]]:
    return [[line(ref, "C", 1)] for ref in refs]


def keys_of(batches: list[list[Entry]]) -> set[UUID]:
    return {entry.tracekey for entries in batches for entry in entries}


def posted() -> set[UUID]:
    return set(PostingKey.objects.values_list("tracekey", flat=True))


def wrapped() -> Any:
    """psycopg's connection."""
    connection.ensure_connection()
    return connection.connection


def know_the_statement() -> None:
    """The first line on a connection prepares it."""
    list(stream(credit(CLEARING)))


def is_ordinary() -> bool:
    """Is the connection one that anybody may use, and has nothing of ours?"""
    found = rows.fetch("SELECT 1", [])
    return found == [(1,)] and wrapped().pgconn.pipeline_status == pq.PipelineStatus.OFF and is_idle()


def is_idle() -> bool:
    return getattr(wrapped(), "in_flight", None) is None


@contextmanager
def counted() -> Iterator[list[int]]:
    """How many were in flight behind each that was sent."""
    found: list[int] = []
    send = InFlight.send

    def told(self: InFlight, values: Any) -> bool:
        sent = send(self, values)
        if sent:
            found.append(len(self))
        return sent

    with patch.object(InFlight, "send", told):
        yield found


def lock(ref: AccountRef) -> Elsewhere:
    return Elsewhere("SELECT FROM ledger_account WHERE account = %s FOR UPDATE", [ref.account])


class TestAnswersAsOneByOne:
    @pytest.mark.parametrize("seed", range(6))
    def test_answers_and_rows_are_the_same(self, seed: int) -> None:
        draw = random.Random(seed)
        batches = [[entry] for entry in batch(draw, 150, first_key=1_000)]
        batches += [batch(draw, size, first_key=2_000 + 10 * size) for size in (3, 1, 2)]
        batches += [[entry] for entry in batch(draw, 30, first_key=3_000)] + batches[:20] + batches[150:152]
        with transaction.atomic():
            open_world()
            expected = [answers(post_batch(some)) for some in batches]
            left = contents()
            transaction.set_rollback(True)
        open_world()
        with counted() as sent:
            assert [answers(results) for results in stream(batches)] == expected
        assert contents() == left
        assert prove() == []
        assert sent.count(2) > 100
        assert is_ordinary()

    @pytest.mark.usefixtures("committed_bank")
    @pytest.mark.parametrize("seed", range(4))
    def test_few_accounts_of_which_many_lines_are_refused(self, seed: int) -> None:
        batches = [[entry] for entry in entries(seed, 150)]
        with transaction.atomic():
            expected = [answers(ledger.post_batch(some, now=NOW)) for some in batches]
            left = contents()
            transaction.set_rollback(True)
        with counted() as sent:
            assert [answers(results) for results in stream(batches)] == expected
        assert contents() == left
        assert set(sent) == {1, 2}

    @pytest.mark.usefixtures("committed_bank")
    def test_what_is_no_entry_is_said_when_it_is_its_turn(self) -> None:
        know_the_statement()
        for wrong in ("no entry", Entry(tracekey=uuid7(), legs=("no leg",))):  # type: ignore[arg-type]
            batches: Any = [*credit(ANA), [wrong]]
            results = stream(batches)
            assert [result.code for result in next(results)] == [None]
            with pytest.raises((AttributeError, TypeError)):
                next(results)
            assert is_ordinary()


@pytest.mark.usefixtures("committed_bank")
class TestWhoIsInFlightTogether:
    def test_lines_of_one_account_or_one_tracekey_are_not(self) -> None:
        know_the_statement()
        first = line(ANA, "C", 1)
        for second in (line(ANA, "C", 2), line(BOB, "C", 2, tracekey=first.tracekey)):
            with counted() as sent:
                list(stream([[first], [second]]))
            assert sent == [1, 1]

    def test_a_line_that_is_left_to_the_engine_ends_behind_the_next_one_and_answers_before_it(self) -> None:
        know_the_statement()
        poor, rich = line(ANA, "D", 5), line(BOB, "C", 5)
        with counted() as sent:
            found = [result.code for results in stream([[poor], [rich]]) for result in results]
        assert (found, sent) == (["R103", None], [1, 2])

    def test_a_larger_batch_waits_for_the_lines_before_it(self) -> None:
        know_the_statement()
        large = [line(LIMITED, "C", 1), line(BOB, "C", 1)]
        with counted() as sent:
            assert len(list(stream([*credit(ANA, BOB), large, *credit(ANA, BOB)]))) == 5
        assert sent == [1, 2, 1, 2]


@pytest.mark.usefixtures("committed_bank")
class TestWhileTheServerWorks:
    def test_the_source_is_asked_and_the_next_line_is_sent(self) -> None:
        """The server is held at a line: what does not go on without its answer, never does."""
        know_the_statement()
        ours, pid = wrapped(), wrapped().info.backend_pid
        first, second = credit(ANA, BOB)
        together = threading.Event()

        def source() -> Iterator[list[Entry]]:
            yield first
            wait_elsewhere(pid)  # it was sent before anybody asked for the next one
            threading.Thread(target=let_go).start()
            yield second

        def let_go() -> None:
            while not together.is_set():
                sent = getattr(ours, "in_flight", None)
                if sent is not None and len(sent) == 2:
                    together.set()
            held.let_go()

        with lock(ANA) as held, Limit(held):
            codes = [result.code for results in stream(source()) for result in results]
            assert together.is_set()
        assert codes == [None, None]

    def test_whoever_uses_the_connection_meanwhile_waits_for_what_is_in_flight(self) -> None:
        know_the_statement()
        batches = credit(ANA, BOB, LIMITED, CLEARING, ANA, BOB)
        told: list[Any] = []

        def ask_a_kept_cursor() -> None:
            cursor.execute("SELECT count(*) FROM ledger_posting_key")
            told.append(cursor.fetchone())

        def write() -> None:
            with transaction.atomic():
                ledger.set_frozen(account=AccountRef("0001", "FROZEN"), frozen=True, now=NOW)

        deeds: list[Callable[[], Any]] = [
            ask_a_kept_cursor,
            lambda: told.append(Account.objects.count()),
            lambda: told.append(rows.fetch("SELECT 5", [])),
            write,
            leave_connection,
            connection.close,
            lambda: told.append(connection.is_usable()),
        ]
        with transaction.atomic():
            ledger.open_account(branch="0001", account="FROZEN", now=NOW)
        for deed in deeds:
            for batch_of in (lambda deed: batches, partial(asking, batches)):
                with connection.cursor() as cursor, counted() as sent:
                    assert len([deed() for _ in stream(batch_of(deed))]) == len(batches)
                assert is_ordinary()
                assert 2 in sent or deed in (leave_connection, connection.close)  # another connection each time
        assert posted() >= keys_of(batches)
        assert prove() == []

    def test_a_source_that_reads_by_a_cursor_of_the_server(self) -> None:
        know_the_statement()
        accounts = Account.objects.order_by("account").values_list("branch", "account").iterator(chunk_size=1)
        source = ([line(AccountRef(*names), "C", 1)] for names in accounts)
        codes = [result.code for results in stream(source) for result in results]
        assert codes == [None] * Account.objects.count()
        assert is_ordinary()

    def test_a_transaction_that_is_begun_meanwhile_is_a_misuse_as_ever(self) -> None:
        know_the_statement()
        results = stream(credit(ANA, BOB, LIMITED))
        next(results)
        with transaction.atomic():
            assert [result.code for result in next(results)] == [None]  # it was sent before
            with pytest.raises(TransactionMisuse):
                next(results)
        assert is_ordinary()


def asking(batches: list[list[Entry]], deed: Callable[[], Any]) -> Iterator[list[Entry]]:
    """A source that does something of its own each time."""
    for some in batches:
        deed()
        yield some


def wait_elsewhere(pid: int) -> None:
    """Until our session waits for a lock, asked on another connection."""
    thread = threading.Thread(target=lambda: in_another_thread(lambda: wait_until_blocked(pid), failed))
    failed: list[BaseException] = []
    thread.start()
    thread.join(WAITS_S)
    assert not failed
    assert not thread.is_alive()


def in_another_thread(work: Callable[[], Any], failed: list[BaseException]) -> None:
    try:
        work()
    except BaseException as error:
        failed.append(error)
    finally:
        connection.close()


class Limit:
    """Lets go of a lock when a broken build waits for ever."""

    def __init__(self, held: Elsewhere) -> None:
        self._timer = threading.Timer(WAITS_S, held.let_go)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()


@contextmanager
def lock_timeout() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '50ms'")
        yield
        cursor.execute("RESET lock_timeout")


@contextmanager
def refusing(key: UUID, when: str) -> Iterator[None]:
    """The server itself refuses a tracekey, at once or when it is to be committed."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.tracekey = '{key}' THEN RAISE EXCEPTION 'refused here' USING ERRCODE = '23514'; END IF; RETURN NULL;
            END $$;
            CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON ledger_transaction {when}
            FOR EACH ROW EXECUTE FUNCTION refuse()"""
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER refuse ON ledger_transaction; DROP FUNCTION refuse()")


@pytest.mark.usefixtures("committed_bank")
class TestWhatGoesWrong:
    def test_a_lock_that_somebody_keeps_is_said_at_its_turn(self) -> None:
        batches = credit(LIMITED, ANA, BOB, CLEARING)
        with lock(ANA), lock_timeout():
            know_the_statement()
            results = stream(batches)
            assert [result.code for result in next(results)] == [None]
            with pytest.raises(OperationalError, match="lock timeout"):
                next(results)
            assert is_ordinary()
        assert keys_of(batches) & posted() == keys_of([batches[0], batches[2]])
        again = [result.posting for some in stream(batches) for result in some]
        assert [one and one.replayed for one in again] == [True, False, True, False]
        assert prove() == []

    @pytest.mark.parametrize("when", ["", "DEFERRABLE INITIALLY DEFERRED"])
    def test_what_the_server_refuses_is_djangos_error(self, when: str) -> None:
        batches = credit(LIMITED, ANA, BOB, CLEARING)
        with refusing(batches[1][0].tracekey, when):
            know_the_statement()
            results = stream(batches)
            assert [result.code for result in next(results)] == [None]
            with pytest.raises(DatabaseError, match="refused here"):
                next(results)
            assert is_ordinary()
        assert keys_of(batches) & posted() == keys_of([batches[0], batches[2]])
        assert [result.code for some in stream(batches) for result in some] == [None] * 4
        assert prove() == []

    @pytest.mark.parametrize("how", ["ended", "dead"])
    @pytest.mark.parametrize("at", [1, 2])
    def test_a_connection_that_is_lost_is_said_and_replaced(self, how: str, at: int) -> None:
        know_the_statement()
        batches = credit(ANA, BOB, LIMITED)

        def lose() -> None:
            if how == "ended":
                with Elsewhere("SELECT pg_terminate_backend(%s)", [wrapped().info.backend_pid]):
                    return
            with socket.socket(fileno=os.dup(wrapped().pgconn.socket)) as ours:
                ours.shutdown(socket.SHUT_RDWR)

        def source() -> Iterator[list[Entry]]:
            for n, some in enumerate(batches):
                if n == at:
                    lose()
                yield some

        with pytest.raises(OperationalError):
            list(stream(source()))
        assert is_ordinary()
        assert [result.code for some in stream(batches) for result in some] == [None] * 3
        assert posted() >= keys_of(batches)
        assert prove() == []

    def test_a_stream_that_is_ended_early_has_posted_what_was_sent(self) -> None:
        know_the_statement()
        batches = credit(ANA, BOB, LIMITED, CLEARING)
        results = stream(batches)
        next(results)
        assert len(wrapped().in_flight) == 1
        results.close()
        assert is_ordinary()
        assert keys_of(batches) & posted() == keys_of(batches[:2])

    @pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
    def test_a_source_that_raises(self, error: type[BaseException]) -> None:
        know_the_statement()
        batches = credit(ANA, BOB)

        def source() -> Iterator[list[Entry]]:
            yield from batches
            raise error

        results = stream(source())
        next(results)
        with pytest.raises(error):
            next(results)
        assert is_ordinary()
        assert posted() >= keys_of(batches)

    def test_a_signals_handler_that_raises_while_an_answer_is_waited_for(self) -> None:
        know_the_statement()
        pid, batches = wrapped().info.backend_pid, credit(ANA, BOB, LIMITED)
        failed: list[BaseException] = []

        def stop() -> None:
            in_another_thread(lambda: wait_until_blocked(pid), failed)
            os.kill(os.getpid(), signal.SIGUSR1)

        def handler(number: int, frame: Any) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGUSR1, handler)
        try:
            with lock(ANA) as held, Limit(held):
                stopper = threading.Thread(target=stop)
                stopper.start()
                with pytest.raises(KeyboardInterrupt):
                    list(stream(batches))
                stopper.join(WAITS_S)
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert not failed
        assert is_ordinary()
        assert keys_of(batches) & posted() == keys_of(batches[1:2])  # the first one is cancelled, for nobody waits for it

    def test_an_interruption_anywhere_leaves_a_connection_for_everybody(self) -> None:
        """A signal's handler may raise between any two lines of ours."""
        know_the_statement()
        interrupted = 0
        for at in count(1):
            batches = credit(ANA, BOB, LIMITED)
            try:
                with raising_at(at):
                    list(stream(batches))
            except KeyboardInterrupt:
                interrupted += 1
                assert is_ordinary()
                assert [result.code for some in stream(batches) for result in some] == [None] * 3
                continue
            break
        assert interrupted > 60
        assert prove() == []


@contextmanager
def raising_at(number: int) -> Iterator[None]:
    """KeyboardInterrupt at the line of this number, of those that are run in in_flight.py."""
    lines = count(1)

    def line_of(frame: Any, event: str, value: Any) -> Any:
        if event == "line" and next(lines) == number:
            raise KeyboardInterrupt
        return line_of

    def trace(frame: Any, event: str, value: Any) -> Any:
        return line_of if frame.f_code.co_filename == in_flight.__file__ else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.mark.usefixtures("committed_bank")
class TestTheOrdinaryWay:
    def test_without_prepared_statements(self) -> None:
        know_the_statement()
        with counted() as sent, patch.object(wrapped()._prepared, "prepare_threshold", None):  # as DATABASE_PREPARE=0
            assert [result.code for some in stream(credit(ANA, BOB)) for result in some] == [None, None]
        assert sent == []

    def test_over_a_pooler(self) -> None:
        with over_a_pooler() as pooler, counted() as sent:
            codes = [result.code for some in stream(credit(ANA, BOB, LIMITED)) for result in some]
        assert (codes, sent, pooler.said) == ([None] * 3, [], [])

    def test_where_statements_are_told(self) -> None:
        know_the_statement()
        told: list[str] = []

        def tell(execute: Any, sql: str, *rest: Any) -> Any:
            told.append(sql)
            return execute(sql, *rest)

        with counted() as sent, connection.execute_wrapper(tell):
            list(stream(credit(ANA, BOB)))
        assert sent == []
        assert sum("ledger_post_line" in sql for sql in told) == 2

    def test_where_a_transaction_was_begun_by_hand(self) -> None:
        know_the_statement()
        with connection.cursor() as cursor, counted() as sent:
            cursor.execute("BEGIN")
            with pytest.raises(Error):
                list(stream(credit(ANA)))
            cursor.execute("ROLLBACK")
        assert sent == []
        assert is_ordinary()

    def test_a_statement_that_the_connection_does_not_know(self) -> None:
        connection.close()
        with counted() as sent:
            list(stream(credit(ANA, BOB, LIMITED)))
        assert sent == [1, 2]


class TestInFlight:
    def test_answers_come_in_order_and_an_error_is_one_of_them(self) -> None:
        with transaction.atomic():
            assert in_flight.prepared.first_row("SELECT 6 / %s::int", [1]) == (6,)
        with closing(InFlight("SELECT 6 / %s::int")) as sent:
            assert [sent.send([n]) for n in (1, 0, 2, 3)] == [True] * 4
            assert sent.answer() == (6,)
            assert rows.fetch("SELECT 1", []) == [(1,)]  # waits for all of them
            assert wrapped().pgconn.pipeline_status == pq.PipelineStatus.OFF
            with pytest.raises(Error, match="division by zero"):
                sent.answer()
            assert (sent.answer(), sent.answer(), len(sent)) == ((3,), (2,), 0)
            assert sent.send([6])
            assert sent.answer() == (1,)
        assert is_ordinary()

    def test_no_row_is_none(self) -> None:
        statement = "SELECT 1 WHERE %s::int > 5"
        in_flight.prepared.first_row(statement, [1])
        with closing(InFlight(statement)) as sent:
            assert sent.send([5])
            assert sent.send([6])
            assert (sent.answer(), sent.answer()) == (None, (1,))
        assert is_ordinary()

    def test_each_is_a_commit_of_its_own(self) -> None:
        statement = "SELECT pg_current_xact_id()::text || left(%s::text, 0)"
        in_flight.prepared.first_row(statement, ["a"])
        with closing(InFlight(statement)) as sent:
            assert [sent.send(["a"]) for _ in range(3)] == [True] * 3
            assert len({sent.answer() for _ in range(3)}) == 3

    def test_one_that_is_closed_gives_nothing_more(self) -> None:
        in_flight.prepared.first_row("SELECT %s::int", [1])
        with closing(InFlight("SELECT %s::int")) as sent:
            assert sent.send([1])
        assert len(sent) == 0
        assert is_ordinary()

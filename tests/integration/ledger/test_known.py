"""What a stream knows of accounts from its batches before: it asks less, and nothing that others do escapes it."""

import random
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest
from django.db import connection, connections, transaction

from apps.common.errors import DomainError
from apps.ledger import plain_batch, plain_known, postings
from apps.ledger import public as ledger
from apps.ledger.balances import InsufficientFunds
from apps.ledger.public import AccountRef, Entry, EntryResult
from apps.ledger.reconciliation import prove
from tests.integration.ledger.conftest import ANA, BOB, CLEARING, NOW, TODAY, fund, line, money, post, post_batch
from tests.integration.ledger.test_batch_differential import contents
from tests.integration.ledger.test_concurrency import wait_until_blocked
from tests.integration.ledger.test_plain import FROZEN, HELD, MANY, POOR, answers, batch, open_world

Act = Callable[[], object]


class Asked:
    """Of how many accounts each batch has read the days."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self._ask = plain_batch.PlainBatch._ask_days

    def __enter__(self) -> list[int]:
        def ask(made: plain_batch.PlainBatch, places: Any) -> Any:
            self.counts.append(len(places))
            return self._ask(made, places)

        self._patch = patch.object(plain_batch.PlainBatch, "_ask_days", ask)
        self._patch.start()
        return self.counts

    def __exit__(self, *error: object) -> None:
        self._patch.stop()


@pytest.fixture(autouse=True)
def _all_are_large() -> Iterator[None]:
    with patch.object(postings, "PLAIN_ENTRIES_MIN", 1):
        yield


def stream(batches: list[list[Entry]], acts: dict[int, Act] | None = None, *, clock: Any = None) -> list[list[EntryResult]]:
    """``acts``: what somebody else does before the stream takes its n-th batch."""

    def source() -> Iterator[list[Entry]]:
        for n, entries in enumerate(batches):
            (acts or {}).get(n, lambda: None)()
            yield entries

    return list(ledger.post_batches(source(), clock=clock or (lambda: NOW)))


def credits(*refs: AccountRef, **options: Any) -> list[Entry]:
    return [line(ref, "C", 1, **options) for ref in refs]


@pytest.mark.django_db
@pytest.mark.usefixtures("bank")
class TestAsksLess:
    def test_days_of_accounts_are_read_once(self) -> None:
        fund(ANA, 10, dateref=TODAY - timedelta(days=3))
        fund(ANA, 10)
        fund(BOB, 10)
        days = [0, 3, 1, 0, 5, 7]  # the last two are opened
        with Asked() as asked:
            batches = [credits(ANA, BOB, dateref=TODAY - timedelta(days=day)) for day in days]
            results = stream(batches)
        assert [result.code for some in results for result in some] == [None] * 12
        assert asked == [2]
        assert prove() == []

    def test_one_batch_reads_no_more_than_it_needs(self) -> None:
        with Asked() as asked:
            post_batch(credits(ANA, BOB))
            post_batch(credits(ANA, BOB))
        assert asked == [2, 2]

    def test_too_many_accounts_are_forgotten(self) -> None:
        fund(ANA, 1)
        fund(BOB, 1)
        with Asked() as asked, patch.object(plain_known, "_ACCOUNTS_MAX", 1):
            stream([credits(ANA, BOB) for _ in range(6)])
        assert set(asked) == {2}
        assert 1 < len(asked) < 6
        assert prove() == []

    def test_a_refused_line_makes_its_account_be_read_again(self) -> None:
        fund(ANA, 1)
        fund(BOB, 1)
        with Asked() as asked:
            results = stream(
                [credits(ANA, BOB), [*credits(BOB), line(ANA, "D", 100)], credits(ANA, BOB), credits(ANA, BOB)]
            )
        assert [[result.code for result in some] for some in results][1] == [None, InsufficientFunds.code]
        assert asked == [2, 1]
        assert prove() == []

    def test_a_deferred_account_is_not_foreseen(self) -> None:
        with transaction.atomic():
            ledger.open_account(branch="0001", account="FEES", min_balance=None, deferred=True, now=NOW)
        fees = AccountRef("0001", "FEES")
        results = stream([credits(ANA, fees) for _ in range(4)])
        assert [result.code for some in results for result in some] == [None] * 8
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM ledger_deferred")
            assert cursor.fetchone() == (4,)
        assert prove() == []

    def test_a_batch_that_was_posted_before_answers_as_it_did(self) -> None:
        """Its keys tell, after it was decided by what is known."""
        fund(ANA, 10)
        batches = [credits(ANA, BOB), credits(ANA, BOB)]
        first, second, again, once_more = stream([*batches, batches[1], [*batches[0], *credits(ANA)]])
        for one, other in ((second, again), (first, once_more)):
            for before, now in zip(one, other, strict=False):
                assert now.posting is not None
                assert before.posting is not None
                assert (now.posting.replayed, now.posting.lines) == (True, before.posting.lines)
        assert once_more[2].posting is not None
        assert prove() == []


def others(draw: random.Random, first_key: int) -> list[Act]:
    """What else happens to accounts between two batches."""

    def act(number: int) -> Act:
        key, ref, kind = UUID(int=first_key + number), draw.choice([*MANY[:12], HELD, ANA]), draw.randrange(9)
        poor, frozen = draw.choice(POOR), draw.random() < 0.5
        amount, back = draw.choice(["0.01", "7", "33.33"]), timedelta(days=draw.choice([0, 0, 1, 3, 5]))
        if kind < 4:
            entry = line(ref, draw.choice("DC"), amount, tracekey=key, dateref=TODAY - back)
            return lambda: post_batch([entry])
        if kind == 4:
            return lambda: post_batch(
                [line(ref, "C", amount, tracekey=key), line(poor, "D", 1, tracekey=UUID(int=key.int + 100))]
            )
        name = f"h-{key}"
        if kind == 5:
            return _done(lambda: ledger.hold(key=name, branch="0001", account=ref.account, amount=money(5), now=NOW))
        if kind == 6:
            return _done(lambda: ledger.set_frozen(account=FROZEN, frozen=frozen, now=NOW))
        if kind == 7:
            return _done(lambda: ledger.set_frozen(account=ref, frozen=frozen, now=NOW))
        return _done(lambda: ledger.close_day(branch="0001", day=TODAY - timedelta(days=5), now=NOW))

    return [act(n) for n in range(draw.randrange(4))]


def _done(work: Act) -> Act:
    def act() -> None:
        try:
            with transaction.atomic():
                work()
        except DomainError:
            pass  # as others are refused

    return act


@pytest.mark.django_db
class TestNothingEscapesIt:
    @pytest.mark.parametrize("seed", range(12))
    def test_answers_and_rows_are_those_of_batches_one_by_one(self, seed: int) -> None:
        found = []
        for streamed in (True, False):
            draw = random.Random(seed)
            batches = [batch(draw, draw.choice([5, 40]), first_key=1_000 * (n + 1)) for n in range(8)]
            acts = [others(draw, 1_000_000 * (n + 1)) for n in range(8)]
            told: list[Any] = []
            before = transaction.savepoint()
            with transaction.atomic():
                open_world()

            def source(told: list[Any] = told, batches: Any = batches, acts: Any = acts) -> Iterator[list[Entry]]:
                for entries, some in zip(batches, acts, strict=True):
                    for act in some:
                        act()
                    yield entries

            if streamed:
                told += [answers(results) for results in ledger.post_batches(source(), clock=lambda: NOW)]
            else:  # a stream takes a batch before it posts the one before
                ready: list[Entry] | None = None
                for entries in source():
                    if ready is not None:
                        told.append(answers(post_batch(ready)))
                    ready = entries
                told.append(answers(post_batch(ready or [])))
            assert prove() == []
            found.append((told, contents()))
            transaction.savepoint_rollback(before)
        for ours, theirs in zip(found[0][0], found[1][0], strict=True):
            assert ours == theirs
        for table, ours in found[0][1].items():
            assert ours == found[1][1][table], table

    def test_on_the_next_day_all_is_read_again(self) -> None:
        with transaction.atomic():
            open_world()
        moments = iter([NOW, NOW, NOW + timedelta(days=1), NOW + timedelta(days=1), NOW])
        with Asked() as asked:
            stream([credits(*MANY[:3]) for _ in range(5)], clock=lambda: next(moments))
        # On each day; where the clock went back once more behind the locks, if there was time to look it up before.
        assert asked in ([3] * 3, [3] * 4)
        assert prove() == []


@pytest.mark.usefixtures("committed_bank")
class TestOtherConnections:
    def test_rows_that_a_vacuum_has_moved(self) -> None:
        """Where accounts and days stood, others stand now. They are found by their ids."""

        def vacuum() -> None:
            with connection.cursor() as cursor:
                cursor.execute("VACUUM FULL ledger_balance")
                cursor.execute("VACUUM FULL ledger_account")

        for day in (5, 3, 1, 0):
            for ref in (ANA, BOB, CLEARING):
                for _ in range(4):
                    fund(ref, 10, dateref=TODAY - timedelta(days=day))
        batches = [
            [line(ref, "C", 1, dateref=TODAY - timedelta(days=day)) for ref in (ANA, BOB) for day in (0, 1, 3, 5)]
            for _ in range(5)
        ]
        others = [line(CLEARING, "C", 1), line(CLEARING, "C", 1)]
        with Asked() as asked:
            stream([*batches[:3], others, others, *batches[3:]], {4: vacuum})  # before the fourth is posted
        assert asked == [2, 1]
        assert prove() == []

    def test_versions_of_rows_that_nobody_needs_leave_their_room(self) -> None:
        """Without tidying up each batch takes new pages, and writes all indexes.

        Beside a table of as many versions, to whose rows an index leads: if somebody elsewhere keeps old versions alive,
        both grow.
        """
        days = [TODAY - timedelta(days=day) for day in (0, 1, 3)]

        def batches() -> Iterator[list[Entry]]:
            for _ in range(150):
                with connection.cursor() as cursor:
                    cursor.execute("UPDATE tidied SET rest = rest || '' FROM generate_series(1, 9) n WHERE id = n")
                yield [line(ref, "C", 1, dateref=day) for ref in (ANA, BOB, CLEARING) for day in days for _ in range(3)]

        pages = "SELECT pg_relation_size('ledger_balance') / 8192, pg_relation_size('tidied') / 8192"
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE tidied (id int PRIMARY KEY, rest text) WITH (fillfactor = 70)")
            cursor.execute("INSERT INTO tidied SELECT n, repeat('-', 130) FROM generate_series(1, 9) n")
            try:
                cursor.execute(pages)
                before = cursor.fetchone()[0]  # left by tests that were rolled back
                list(ledger.post_batches(batches(), clock=lambda: NOW))
                cursor.execute(pages)
                of_days, of_others = cursor.fetchone()
            finally:
                cursor.execute("DROP TABLE tidied")
        assert of_days - before <= 2 * of_others + 2  # 27 pages hold all versions
        assert prove() == []

    def test_another_connection_may_be_another_server(self) -> None:
        fund(ANA, 1)
        with Asked() as asked:
            stream([credits(ANA, ANA) for _ in range(5)], {3: connection.close})
        assert asked == [1, 1]
        assert prove() == []

    def test_an_account_that_changes_while_its_lock_is_waited_for(self) -> None:
        fund(ANA, 10)
        posted, stop = threading.Event(), threading.Event()

        def post_and_hold() -> None:
            try:
                with transaction.atomic():
                    ledger.post(line(ANA, "D", 10), now=NOW)
                    posted.set()
                    assert stop.wait(30)
            finally:
                connections.close_all()

        def wait_for_waiting(pid: int) -> None:
            try:
                wait_until_blocked(pid)
            finally:
                stop.set()
                connections.close_all()

        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            pid = cursor.fetchone()[0]
        threads = [threading.Thread(target=post_and_hold), threading.Thread(target=wait_for_waiting, args=[pid])]

        def begin() -> None:
            threads[0].start()
            assert posted.wait(30)
            threads[1].start()

        # The second batch is posted once the third was taken: its account is known then, and somebody holds it.
        results = stream([credits(ANA, BOB), [*credits(BOB), line(ANA, "D", 2)], credits(BOB, BOB)], {2: begin})
        for thread in threads:
            thread.join(30)
        assert [[result.code for result in some] for some in results] == [
            [None] * 2,
            [None, InsufficientFunds.code],
            [None] * 2,
        ]
        assert prove() == []


@pytest.mark.django_db
@pytest.mark.usefixtures("bank")
def test_a_batch_that_fails_leaves_nothing_known() -> None:
    fund(ANA, 10)
    known: list[plain_known.Known] = []
    begin = plain_known.Known.__init__

    def remember(made: plain_known.Known, today: Any) -> None:
        begin(made, today)
        known.append(made)

    write = plain_batch.PlainBatch.write
    calls = iter([False, True])

    def fail(made: plain_batch.PlainBatch, work: Any) -> None:
        write(made, work)
        assert not next(calls), "a bug"

    knowing = patch.object(plain_known.Known, "__init__", remember)
    with knowing, patch.object(plain_batch.PlainBatch, "write", fail), pytest.raises(AssertionError, match="a bug"):
        stream([credits(ANA, ANA), credits(ANA, ANA)])
    assert [made.version.tolist() for made in known] == [[0]]
    post(line(ANA, "C", 1))
    assert prove() == []

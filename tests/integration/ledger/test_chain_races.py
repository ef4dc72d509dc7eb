"""Writers that commit in any order while the chain is made: no line is ever passed over."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.db import connection, connections, transaction

from apps.ledger import chain
from apps.ledger.chain_models import Block, Horizon
from apps.ledger.chain_proof import verify_chain
from apps.ledger.models import Transaction
from tests.integration.ledger.chained import damage, restart_numbers
from tests.integration.ledger.conftest import ANA, BOB, CLEARING, NOW, fund, line, move, post_batch

pytestmark = pytest.mark.usefixtures("committed_bank")

# As little as a line needs; its number is drawn by the statement itself, before the transaction has written anything.
INSERT = (
    "INSERT INTO ledger_transaction (id, branch, account, currency, amount, debitcredit, eventcode, description,"
    " tracekey, dateref, createdat, balanced, balanceafter, pendingafter, dayafter, daynet)"
    " SELECT gen_random_uuid(), '0001', 'x', 'BRL', 1, 'C', 1, '', gen_random_uuid(), '2026-03-18', now(), false,"
    " 0, 0, 0, 0 FROM generate_series(1, %s)"
)
WRITERS = 5
STEPS = 60


@pytest.fixture
def writers() -> Iterator[list[psycopg.Connection[tuple[object, ...]]]]:
    parameters = {**connection.get_connection_params(), "cursor_factory": psycopg.Cursor}
    parameters.pop("context", None)
    opened = [psycopg.connect(**parameters) for _ in range(WRITERS)]
    restart_numbers()
    yield opened
    for writer in opened:
        writer.close()


def step(writer: psycopg.Connection[tuple[object, ...]], chance: random.Random) -> None:
    what = chance.choice(["write", "write", "write", "savepoint", "commit", "commit", "roll back", "draw"])
    if what == "commit":
        writer.commit()
    elif what == "roll back":
        writer.rollback()
    elif what == "draw":
        writer.execute("SELECT nextval('ledger_transaction_seq')")
    elif what == "savepoint":  # its numbers are gaps, and the lock has to stay for those that follow
        writer.execute("SAVEPOINT s")
        writer.execute(INSERT, [1])
        writer.execute("ROLLBACK TO SAVEPOINT s")
    else:
        writer.execute(INSERT, [chance.randint(1, 3)])


def run(writers: list[psycopg.Connection[tuple[object, ...]]], seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(STEPS):
        step(chance.choice(writers), chance)
        if chance.random() < 0.5:
            chain.chain(now=NOW)
    for writer in writers:
        writer.commit()
    assert chain.chain(now=NOW) or not chain.waiting()[0]
    while chain.chain(now=NOW):
        pass


class TestChain:
    @pytest.mark.parametrize("seed", range(8))
    def test_passes_over_no_line_whoever_commits_first(
        self, writers: list[psycopg.Connection[tuple[object, ...]]], seed: int
    ) -> None:
        run(writers, seed)
        proof = verify_chain()
        assert proof.damages == []
        assert proof.lines == Transaction.objects.count() > 0
        assert chain.waiting()[0] == 0
        assert Block.objects.count() > 2  # it went on while there were writers

    def test_would_be_caught_passing_over_one(
        self, writers: list[psycopg.Connection[tuple[object, ...]]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(chain, "_writers", set)
        run(writers, 0)
        assert verify_chain().damages

    def test_waits_for_a_writer_with_a_lower_number_and_for_nobody_else(
        self, writers: list[psycopg.Connection[tuple[object, ...]]]
    ) -> None:
        slow, quick, other, *_ = writers
        other.execute("CREATE TEMPORARY TABLE busy ON COMMIT DROP AS SELECT 1")  # has an id, and draws nothing
        slow.execute(INSERT, [1])
        quick.execute(INSERT, [1])
        quick.commit()
        assert chain.chain(now=NOW) == 0
        slow.commit()
        quick.execute(INSERT, [1])  # a later number: nobody waits for it
        assert chain.chain(now=NOW) == 1
        assert (Block.objects.get().lines, Horizon.objects.get().seq) == (2, 3)
        quick.commit()
        assert chain.chain(now=NOW) == 1

    def test_goes_on_behind_a_writer_that_was_killed(self, writers: list[psycopg.Connection[tuple[object, ...]]]) -> None:
        writers[0].execute(INSERT, [1])
        writers[1].execute(INSERT, [1])
        writers[1].commit()
        assert chain.chain(now=NOW) == 0
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [writers[0].info.backend_pid])
        assert chain.chain(now=NOW) == 1
        assert Block.objects.get().lines == 1

    def test_waits_for_every_prepared_transaction(
        self, writers: list[psycopg.Connection[tuple[object, ...]]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Noted as a running one, which has another id once it is prepared. (The test's server takes no PREPARE.)
        writers[0].execute(INSERT, [1])
        assert chain.chain(now=NOW) == 0
        writers[0].commit()
        with monkeypatch.context() as patched:
            patched.setattr(chain, "_writers", lambda: {"-1/77"})
            assert chain.chain(now=NOW) == 0
        assert chain.chain(now=NOW) == 1

    def test_is_not_made_in_a_snapshot_from_before_its_locks(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET default_transaction_isolation = 'repeatable read'")
            try:
                with pytest.raises(RuntimeError, match="repeatable read"):
                    chain.chain(now=NOW)
            finally:
                cursor.execute("RESET default_transaction_isolation")

    def test_goes_on_when_its_index_is_busy(
        self, writers: list[psycopg.Connection[tuple[object, ...]]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(chain, "SUMMARISE_TIMEOUT", "10ms")
        fund(ANA, 1)
        writers[0].execute("LOCK TABLE ledger_transaction_default IN SHARE UPDATE EXCLUSIVE MODE")  # as a vacuum does
        assert chain.chain(now=NOW) == 1

    def test_is_made_by_one_at_a_time(self, writers: list[psycopg.Connection[tuple[object, ...]]]) -> None:
        fund(ANA, 1)
        writers[0].execute("SELECT pg_advisory_xact_lock(hashtext('ledger.chain'))")
        assert chain.chain(now=NOW) == 0
        writers[0].rollback()
        assert chain.chain(now=NOW) == 1

    def test_keeps_its_blocks_when_it_is_killed_between_two(self, monkeypatch: pytest.MonkeyPatch) -> None:
        restart_numbers()
        monkeypatch.setattr(chain, "BLOCK_NUMBERS_MAX", 1)
        for _ in range(3):
            fund(ANA, 1)
        made = chain.block_hash

        def killed(**values: int) -> bytes:
            if values["number"] == 2:
                raise KeyboardInterrupt
            return made(**values)  # type: ignore[arg-type]  # as they came

        with monkeypatch.context() as patched:
            patched.setattr(chain, "block_hash", killed)
            with pytest.raises(KeyboardInterrupt):
                chain.chain(now=NOW)
        assert Block.objects.count() == 1
        assert chain.chain(now=NOW) == 2
        assert not verify_chain().damages

    def test_follows_postings_of_several_threads(self) -> None:
        def write(n: int) -> int:
            try:
                for size in (1, 120, 3, 1, 1):  # the function, COPY, INSERT
                    post_batch([line(ANA, "C", 1), *(move(CLEARING, BOB, 1) for _ in range(size - 1))])
                    chain.chain(now=NOW)
                return n
            finally:
                connections.close_all()

        with ThreadPoolExecutor(4) as pool:
            assert len(list(pool.map(write, range(4), timeout=150))) == 4
        while chain.chain(now=NOW):
            pass
        proof = verify_chain()
        assert proof.damages == []
        assert proof.lines == Transaction.objects.count() == 4 * (5 + 2 * 121)


class TestVerifyChain:
    def test_names_the_line_that_was_written_later(self) -> None:
        restart_numbers()
        for _ in range(3):
            fund(ANA, 1)
        chain.chain(now=NOW)
        damage("UPDATE ledger_transaction SET description = 'x' WHERE seq = 2")
        row = Transaction.objects.get(seq=2)
        (found,) = verify_chain().damages
        assert found.what.endswith(f"written after they were chained: seq 2 (id {row.id}, tracekey {row.tracekey})")

    def test_goes_on_while_others_write_and_chain(self, writers: list[psycopg.Connection[tuple[object, ...]]]) -> None:
        fund(ANA, 1)
        chain.chain(now=NOW)

        def meanwhile(done: int, whole: int) -> None:
            if whole < 3:
                fund(ANA, 1)
                chain.chain(now=NOW)

        writers[0].execute(INSERT, [1])
        assert not verify_chain(progress=meanwhile).damages
        with transaction.atomic():
            assert Block.objects.count() >= 1

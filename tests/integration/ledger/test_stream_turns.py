"""Turns of streams that post to the same accounts: a courtesy that nobody depends on."""

import os
import random
import socket
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
from django.db import connection, transaction

from apps.common import prepared
from apps.common.transactions import TransactionMisuse
from apps.ledger import plain_batch, stream_turns
from apps.ledger import public as ledger
from apps.ledger.models import PostingKey
from apps.ledger.plain_known import Known
from apps.ledger.public import AccountRef, Entry
from apps.ledger.reconciliation import prove
from tests.integration.ledger.conftest import TODAY, line
from tests.integration.ledger.test_concurrency import in_threads
from tests.integration.ledger.test_foreseen import BACK, NOW, OURS, Elsewhere, Foreseen, all_are_large, my_pid, opened

pytestmark = pytest.mark.usefixtures(opened.__name__, all_are_large.__name__)
HOLD = "SELECT 1 FROM ledger_account WHERE branch = %s AND account = %s AND currency = %s FOR UPDATE"
A_WHILE = "SELECT pg_sleep(0.05)"  # longer than what is taken for long


def turn() -> tuple[Any, bool]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT holder, endsat > clock_timestamp() FROM ledger_stream_turn WHERE branch = '0001'")
        found: tuple[Any, bool] = cursor.fetchone()
        return found


@pytest.fixture
def _disputed() -> Iterator[None]:
    """Each batch finds that others have changed its accounts."""
    committed = plain_batch.PlainBatch.committed

    def dispute(made: plain_batch.PlainBatch) -> None:
        committed(made)
        made.disputed = "0001"

    with patch.object(plain_batch.PlainBatch, "committed", dispute):
        yield


def credits(count: int) -> Iterator[list[Entry]]:
    return ([line(ref, "C", 1) for ref in OURS] for _ in range(count))


class TestTurns:
    @pytest.mark.parametrize("seed", range(3))
    def test_streams_on_the_same_accounts(self, seed: int) -> None:
        def work(n: int) -> list[int]:
            draw = random.Random(10 * seed + n)
            batches = (
                [line(draw.choice(OURS), draw.choice("CCD"), 3, dateref=draw.choice([TODAY, BACK])) for _ in range(9)]
                for _ in range(40)
            )
            return [sum(each.code is None for each in some) for some in ledger.post_batches(batches, clock=lambda: NOW)]

        with Foreseen() as right, patch.object(stream_turns, "TURN_S", 0.02):
            counts = in_threads(work, 3)
        assert PostingKey.objects.count() == sum(map(sum, counts)) + 6
        assert any(right)
        assert prove() == []

    def test_who_waits_for_long_for_its_first_locks_knows_of_others(self) -> None:
        """Also when the server, which waits, takes no more of what is behind them: that waits as it is sent."""
        refs = [AccountRef("0001", f"G-{n:03}") for n in range(300)]
        with transaction.atomic():
            for ref in refs:
                ledger.open_account(branch=ref.branch, account=ref.account, now=NOW)
        with socket.socket(fileno=os.dup(connection.connection.pgconn.socket)) as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        found: list[str | None] = []
        lock = plain_batch.PlainBatch.lock_and_read
        other = Elsewhere(lambda: prepared.execute(HOLD, refs[0]), my_pid(), then=lambda: prepared.execute(A_WHILE, []))

        def lock_and_read(batch: plain_batch.PlainBatch, work: Any) -> Any:
            other()
            read = lock(batch, work)
            found.append(batch.disputed)
            return read

        look = patch.object(plain_batch.PlainBatch, "lock_and_read", lock_and_read)
        with look, patch.object(Known, "foresees", lambda known: False):
            assert len(list(ledger.post_batches([[line(ref, "C", 1) for ref in refs]], clock=lambda: NOW))) == 1
        other.join()
        connection.close()  # it sends slowly
        assert found == ["0001"]
        assert prove() == []

    @pytest.mark.usefixtures("_disputed")
    def test_who_never_ends_is_not_waited_for(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO ledger_stream_turn VALUES ('0001', gen_random_uuid(), now() + interval '1 day') "
                "ON CONFLICT (branch) DO UPDATE SET endsat = EXCLUDED.endsat, holder = EXCLUDED.holder"
            )
        before = turn()
        with Foreseen() as right, patch.object(stream_turns, "WAIT_S_MAX", 0.01):
            assert len(list(ledger.post_batches(credits(20), clock=lambda: NOW))) == 20
        assert turn() == before
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM ledger_stream_turn")
        assert right == [True] * 20
        assert prove() == []

    @pytest.mark.usefixtures("_disputed")
    @pytest.mark.parametrize("how", ["closed", "ended", "raised"])
    def test_who_ends_gives_it_back(self, how: str) -> None:
        def source() -> Iterator[list[Entry]]:
            yield from credits(3)
            assert how != "raised", "no more"

        with patch.object(stream_turns, "TURN_S", 3600.0):
            posting = ledger.post_batches(source(), clock=lambda: NOW)
            next(posting), next(posting)
            assert turn()[1]
            if how == "raised":
                with pytest.raises(AssertionError, match="no more"):
                    list(posting)
            elif how == "ended":
                list(posting)
            posting.close()
        assert not turn()[1]

    @pytest.mark.usefixtures("_disputed")
    @pytest.mark.parametrize("how", ["closed", "asked"])
    def test_no_turn_is_a_part_of_the_callers_transaction(self, how: str) -> None:
        """Others would wait for its end, at the turn's row."""
        locked: list[int] = []

        def look() -> None:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM ledger_stream_turn FOR UPDATE SKIP LOCKED")
                locked.append(1 - len(cursor.fetchall()))

        with patch.object(stream_turns, "TURN_S", 0.0 if how == "asked" else 3600.0):
            posting = ledger.post_batches(credits(4), clock=lambda: NOW)
            next(posting), next(posting)
            with transaction.atomic():
                if how == "closed":
                    posting.close()
                else:
                    with pytest.raises(TransactionMisuse):
                        next(posting)
                Elsewhere(look)()
        assert locked == [0]

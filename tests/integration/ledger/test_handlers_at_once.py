"""The queue path with real connections at once: whatever meets, each entry is posted once and every batch ends."""

from dataclasses import replace

import pytest
from django.db import OperationalError, connection, transaction

from apps.ledger import public as ledger
from apps.ledger import queue
from apps.ledger.models import Account, Refusal
from apps.ledger.public import AccountRef
from tests.integration.ledger.conftest import ANA, BOB, CLEARING, LIMITED, NOW, fund, line, move, posted
from tests.integration.ledger.test_concurrency import in_threads, while_open
from tests.integration.ledger.test_handlers import Request, answered, codes, handle, requests

pytestmark = pytest.mark.usefixtures("committed_bank")


class TestConcurrency:
    def test_batches_that_cross_two_accounts_in_opposite_orders_both_end(self) -> None:
        fund(ANA, 1000)
        fund(BOB, 1000)
        there = [requests(*(move(ANA, BOB, 1) for _ in range(10))) for _ in range(8)]
        back = [requests(*(move(BOB, ANA, 1) for _ in range(10))) for _ in range(8)]

        def consume(n: int) -> None:
            for batch in (there, back)[n]:
                with transaction.atomic():
                    queue.answer_requests(batch, now=NOW)  # a deadlock would be raised here

        in_threads(consume, 2)
        assert (posted(ANA), posted(BOB)) == (1000, 1000)
        assert codes(answered()) == ["POSTED"] * 160
        assert ledger.check_balances() == []

    def test_a_batch_that_waits_for_an_account_holds_none_that_comes_after_it(self) -> None:
        first, second = CLEARING, LIMITED  # by key; in the table and in the request they stand the other way round

        def lock(ref: AccountRef) -> None:
            Account.objects.select_for_update(nowait=True).get(account=ref.account)

        asked = requests(line(second, "C", 1), line(first, "C", 1))
        while_open(
            lambda: lock(first),
            lambda: queue.answer_requests(asked, now=NOW),
            meanwhile=lambda: lock(second),  # refused, two batches would be waiting for each other
        )
        assert codes(answered()) == ["POSTED", "POSTED"]

    def test_a_batch_that_waits_for_a_refusal_holds_none_that_comes_after_it(self) -> None:
        # Malformed, so that no tracekey's fence keeps two batches apart; refused before, so that there are rows to lock.
        first, second = sorted(requests(line(ANA, "D", 0), line(ANA, "D", 0)), key=lambda asked: asked.message.tracekey)
        handle([second, first])

        def lock(asked: Request) -> None:
            Refusal.objects.select_for_update(nowait=True).get(tracekey=asked.message.tracekey)

        while_open(
            lambda: lock(first),
            lambda: queue.answer_requests([second, first], now=NOW),
            meanwhile=lambda: lock(second),
        )
        assert codes(answered()) == ["R110"] * 4

    def test_a_batch_that_two_consumers_hold_at_once_is_posted_once(self) -> None:
        asked = requests(*(line(ANA, "C", 1) for _ in range(50)))

        def consume(n: int) -> None:
            with transaction.atomic():
                queue.answer_requests(asked, now=NOW)

        in_threads(consume, 4)
        assert posted(ANA) == 50
        answers = answered()
        assert [answer.replayed for answer in answers].count(False) == 50
        told = {answer.tracekey: replace(answer, replayed=False) for answer in answers}
        assert len(answers) == 200
        assert all(replace(answer, replayed=False) == told[answer.tracekey] for answer in answers)

    def test_a_lock_that_cannot_be_had_is_raised_and_nothing_is_answered(self) -> None:
        asked = requests(line(BOB, "C", 1), line(ANA, "C", 1))

        def impatient(_n: int) -> None:
            with transaction.atomic():
                with connection.cursor() as cursor:
                    cursor.execute("SET LOCAL lock_timeout = '1ms'")
                queue.answer_requests(asked, now=NOW)

        with transaction.atomic():
            Account.objects.select_for_update().get(account=ANA.account)
            with pytest.raises(OperationalError):
                in_threads(impatient, 1)
        assert answered() == []
        assert (posted(ANA), posted(BOB)) == (0, 0)
        assert codes(handle(asked)) == ["POSTED", "POSTED"]

    def test_a_posting_over_http_under_way_is_waited_for_and_then_replayed(self) -> None:
        entry = line(ANA, "C", 10)
        asked = requests(entry)
        while_open(lambda: ledger.post(entry, now=NOW), lambda: queue.answer_requests(asked, now=NOW))
        assert [answer.replayed for answer in answered()] == [True]
        assert posted(ANA) == 10

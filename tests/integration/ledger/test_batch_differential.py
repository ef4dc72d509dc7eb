"""A batch of N is N single postings in order, row for row: out-of-order dates, refusals and repeats included."""

import random
from datetime import timedelta
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest
from django.db import connection, transaction

from apps.common.errors import DomainError
from apps.ledger import public as ledger
from apps.ledger import singles
from apps.ledger.public import AccountRef, Entry
from tests.integration.ledger.conftest import ANA, BOB, CLEARING, INACTIVE, LIMITED, NOW, TODAY, line, move, open_bank, post

TABLES = {
    "ledger_transaction": "branch, account, currency, amount, debitcredit, eventcode, description, tracekey, details,"
    " dateref, createdat, balanced, balanceafter, pendingafter, dayafter, daynet",
    "ledger_balance": "branch, account, currency, dateref, totaldebit, totalcredit, accumulateddebit, accumulatedcredit,"
    " createdtracekey, updatedtracekey",
    "ledger_account": "branch, account, currency, posteddebit, postedcredit, pendingdebit",
    "ledger_posting_key": "tracekey, bodyhash, state, reverses",
}


def entries(seed: int, count: int) -> list[Entry]:
    draw = random.Random(seed)
    refs = [ANA, BOB, LIMITED, CLEARING, AccountRef("0001", "nobody")]
    made: list[Entry] = []
    for n in range(count):
        if made and draw.random() < 0.15:
            made.append(draw.choice(made))
            continue
        options: dict[str, Any] = {"tracekey": UUID(int=draw.randrange(count * 4) + 1)}
        options["dateref"] = draw.choice([None, *(TODAY - timedelta(days=back) for back in range(-1, 9))])
        if draw.random() < 0.05:
            options["eventcode"] = INACTIVE
        amount = draw.choice(["0.01", "10", "99.99", "0"] if draw.random() < 0.2 else ["5", "10", "40"])
        first, second = draw.choices(refs, weights=[6, 6, 4, 4, 1], k=2)
        if draw.random() < 0.4:
            made.append(move(first, second, amount, **options))
        else:
            made.append(line(first, draw.choice("DCC"), amount, description=str(n), **options))
    return made


def contents() -> dict[str, list[tuple[Any, ...]]]:
    found = {}
    with connection.cursor() as cursor:
        for table, columns in TABLES.items():
            # Lines of different accounts have no order among each other.
            order = "1, 2, 3, seq" if table == "ledger_transaction" else "1, 2, 3, 4"
            cursor.execute(f"SELECT {columns} FROM {table} ORDER BY {order}")
            found[table] = cursor.fetchall()
    return found


def one_by_one(batch: list[Entry]) -> list[str | None]:
    outcomes = []
    for entry in batch:
        try:
            ledger.post(entry, now=NOW)
            outcomes.append(None)
        except DomainError as refusal:
            outcomes.append(refusal.code)
    return outcomes


@pytest.mark.django_db
class TestBatchEqualsSequence:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("sizes", [(120,), (7, 1, 60, 52)])
    def test_leaves_the_same_rows_and_gives_the_same_answers(self, seed: int, sizes: tuple[int, ...]) -> None:
        def run(post_all: Any) -> tuple[list[str | None], dict[str, list[tuple[Any, ...]]]]:
            with transaction.atomic():
                open_bank()
                outcomes = post_all(entries(seed, 120))
                found = contents()
                transaction.set_rollback(True)
            return outcomes, found

        def in_batches(all_entries: list[Entry]) -> list[str | None]:
            outcomes, start = [], 0
            for size in sizes:
                results = ledger.post_batch(all_entries[start : start + size], now=NOW)
                outcomes += [result.code for result in results]
                start += size
            return outcomes

        expected, sequential = run(one_by_one)
        outcomes, batched = run(in_batches)
        assert outcomes == expected
        assert batched == sequential
        # The generator must reach what it is meant to reach.
        assert {None, "R101", "R103", "R107", "R109", "R110"} <= set(expected)


@pytest.mark.django_db
class TestALineAloneIsTheEnginesOwn:
    """Note [One line]: a call of the function leaves and answers what the engine would, also when clocks differ."""

    def test_a_debit_of_today_does_not_take_what_came_tomorrow(self, bank: None) -> None:
        post(line(ANA, "C", 100), NOW + timedelta(days=1))
        with pytest.raises(ledger.InsufficientFunds):
            post(line(ANA, "D", 100), NOW)
        assert post(line(CLEARING, "D", 100), NOW).lines  # it has no floor

    @pytest.mark.parametrize("seed", [4, 7, 9, 10])  # in which it matters
    def test_when_some_ask_before_midnight_and_are_served_after_it(self, seed: int) -> None:
        draw = random.Random(seed)
        asked = []
        for n in range(100):
            now = NOW + timedelta(days=draw.choice([0, 0, 0, 1, -1, 2]))
            back = draw.choice([None, None, None, 0, 1, 2, 3])
            day = None if back is None else now.date() - timedelta(days=back)
            account, amount = draw.choice([ANA, BOB, LIMITED, CLEARING]), draw.choice(["5", "10", "40"])
            asked.append((line(account, draw.choice("DC"), amount, tracekey=UUID(int=n + 1), dateref=day), now))

        def run() -> tuple[list[object], dict[str, list[tuple[Any, ...]]]]:
            answers: list[object] = []
            with transaction.atomic():
                open_bank(NOW - timedelta(days=30))
                for entry, now in asked:
                    try:
                        answers.append(ledger.post(entry, now=now).lines[0].balances)
                    except DomainError as refusal:
                        answers.append(refusal.code)
                found = contents()
                transaction.set_rollback(True)
            return answers, found

        alone = run()
        with patch.object(singles, "is_single", return_value=False):
            assert alone == run()
        assert "R103" in alone[0]

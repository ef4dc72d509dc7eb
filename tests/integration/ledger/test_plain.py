"""Plain lines of a large batch, which are decided as columns: all that is decided and written is what the loop does."""

import random
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest
from django.db import transaction

from apps.ledger import plain, postings
from apps.ledger import public as ledger
from apps.ledger.models import Account
from apps.ledger.public import AccountRef, Entry, Leg
from apps.ledger.reconciliation import prove
from tests.integration.ledger.conftest import (
    ANA,
    ANY,
    BOB,
    CLEARING,
    CREDIT_ONLY,
    INACTIVE,
    LIMITED,
    NOW,
    TODAY,
    fund,
    line,
    money,
    move,
    open_bank,
    post,
    post_batch,
)
from tests.integration.ledger.test_batch_differential import contents

pytestmark = pytest.mark.django_db

UNKNOWN_EVENT = 99
MANY = [AccountRef("0001", f"M-{n}") for n in range(30)]
POOR = MANY[:8]  # whose floor is met; and what is odd is theirs
ELSEWHERE = [AccountRef("0002", f"E-{n}") for n in range(3)]  # in a branch that never closed a day
CAPPED, FEES, FROZEN, HELD, NULL, NOBODY = (
    AccountRef("0001", name) for name in ("CAPPED", "FEES", "FROZEN", "HELD", "NULL", "nobody")
)
BEFORE = NOW - timedelta(days=9)
ALWAYS, NEVER = 1, 1 << 30  # from so many entries on lines are decided as columns
TEXTS = ["", "bench", "a\tb\\n\nc", "ção — 🐟", "x" * 255]
DETAILS: list[dict[str, Any] | None] = [None, None, {"a": 1, "text": "\\u0041\t\n"}, {"deep": [{"ç": "0.10"}]}]


def open_world() -> None:
    open_bank(BEFORE)
    with transaction.atomic():
        ledger.open_branch(branch="0002", now=BEFORE)
        for ref in (*MANY, *ELSEWHERE, FROZEN, HELD, NULL):
            ledger.open_account(branch=ref.branch, account=ref.account, now=BEFORE)
        ledger.open_account(branch="0001", account="CAPPED", max_balance=money(200), now=BEFORE)
        ledger.open_account(branch="0001", account="FEES", min_balance=None, deferred=True, now=BEFORE)
        for n, ref in enumerate((*MANY, *ELSEWHERE, ANA, BOB, CAPPED, FROZEN, HELD, NULL)):
            amount = 5_000 if ref in MANY and ref not in POOR else 150
            ledger.post(line(ref, "C", amount, tracekey=UUID(int=n + 1)), now=BEFORE + timedelta(days=n % 9))
        ledger.hold(key="h", branch="0001", account="HELD", amount=money(60), now=NOW - timedelta(days=2))
        ledger.set_frozen(account=FROZEN, frozen=True, now=NOW)
        ledger.close_day(branch="0001", day=TODAY - timedelta(days=6), now=NOW)


def batch(draw: random.Random, size: int, *, first_key: int) -> list[Entry]:
    """Mostly lines on accounts on which nothing is wrong, and some of everything else."""
    strange = [LIMITED, CLEARING, CAPPED, FEES, FROZEN, HELD, NULL, NOBODY, ANA, BOB]
    made: list[Entry] = []
    for n in range(size):
        key = UUID(int=first_key + n)
        side, amount = draw.choice("DCC"), draw.choice(["0.01", "7", "33.33", "60"])
        back = draw.choice([None, 0, 0, 0, 0, 1, 2, 3, 5])
        texts = {"description": draw.choice(TEXTS), "details": draw.choice(DETAILS)}
        options: dict[str, Any] = {"tracekey": key, "dateref": None if back is None else TODAY - timedelta(days=back)}
        if draw.random() < 0.6:
            made.append(line(draw.choice([*MANY, *ELSEWHERE]), side, amount, **texts, **options))
            continue
        ref, kind = draw.choice([*strange, *POOR]), draw.random()
        if kind < 0.1 and made:
            made.append(draw.choice(made))  # a repeat
        elif kind < 0.15:
            made.append(line(ref, "C", 1, tracekey=UUID(int=first_key)))  # a key's other body
        elif kind < 0.25:
            made.append(move(ref, draw.choice(POOR), amount, **options))
        elif kind < 0.35:
            made.append(Entry(tracekey=key, group="g", legs=line(ref, "D", amount).legs))
        elif kind < 0.4:
            made.append(line(ref, "X", amount, **options))
        elif kind < 0.5:
            made.append(line(ref, side, amount, tracekey=key, dateref=TODAY - timedelta(days=draw.choice([-1, 6, 7, 8]))))
        elif kind < 0.6:
            made.append(line(ref, side, amount, eventcode=draw.choice([CREDIT_ONLY, INACTIVE, UNKNOWN_EVENT]), **options))
        else:
            made.append(line(ref, side, amount, **texts, **options))
    return made


def answers(results: list[ledger.EntryResult]) -> list[Any]:
    """All but the lines' ids, which no two runs share."""
    return [
        (result.tracekey, str(result.refusal), result.code)
        if result.posting is None
        else (result.tracekey, result.posting.replayed, [posted[1:] for posted in result.posting.lines])
        for result in results
    ]


def run(batches: list[tuple[list[Entry], datetime]], entries_min: int, **options: Any) -> tuple[list[Any], Any]:
    found = []
    with transaction.atomic(), patch.object(postings, "PLAIN_ENTRIES_MIN", entries_min):
        open_world()
        for entries, now in batches:
            with transaction.atomic():
                found.append(answers(ledger.post_batch(entries, now=now, **options)))
        left = contents()
        with transaction.atomic():
            ledger.roll_up(now=NOW + timedelta(days=1))
        assert prove() == []
        transaction.set_rollback(True)
    return found, left


class TestDecidesAsTheLoopDoes:
    @pytest.mark.parametrize("seed", range(12))
    def test_answers_and_rows_are_the_same(self, seed: int) -> None:
        draw = random.Random(seed)
        sizes = [150, 3, 40, 120]
        batches = [(batch(draw, size, first_key=1_000 * (n + 1)), NOW) for n, size in enumerate(sizes)]
        batches.append((batches[0][0], NOW))  # all of it again
        batches.insert(2, (batch(draw, 30, first_key=9_000), NOW + timedelta(days=1)))  # by a clock that is ahead
        expected, rows = run(batches, NEVER)
        found, found_rows = run(batches, ALWAYS)
        assert found == expected
        assert found_rows == rows
        codes = {one[2] for some in expected for one in some if isinstance(one[1], str)}
        assert {"R101", "R102", "R103", "R107", "R109", "R110"} <= codes  # R104 to R106 in most seeds

    def test_most_lines_are_plain_even_so(self) -> None:
        entries = batch(random.Random(1), 200, first_key=1_000)
        with transaction.atomic():
            open_world()
        with patch.object(plain, "fold", wraps=plain.fold) as fold, patch.object(postings, "PLAIN_ENTRIES_MIN", ALWAYS):
            results = post_batch(entries)
        odd = fold.call_args.kwargs["odd"]
        assert 0 < odd.sum() < len(odd) * 0.7
        assert sum(result.posting is not None for result in results) > 120

    def test_a_key_of_a_batch_changes_nothing(self) -> None:
        batches = [(batch(random.Random(5), 120, first_key=1_000), NOW)]
        assert run(batches, ALWAYS, key="k") == run(batches, NEVER, key="k")


@pytest.mark.usefixtures("bank")
class TestOddOnes:
    @pytest.fixture(autouse=True)
    def as_columns(self) -> Any:
        with patch.object(postings, "PLAIN_ENTRIES_MIN", ALWAYS):
            yield

    def test_a_line_between_two_groups_of_one_name_keeps_them_apart(self) -> None:
        def member(ref: AccountRef, side: str) -> Entry:
            return Entry(tracekey=UUID(int=len(made) + 1), group="g", legs=line(ref, side, 5).legs)

        made: list[Entry] = []
        made.append(member(ANA, "C"))
        made.append(line(CLEARING, "D", 1))
        made.append(member(BOB, "D"))  # who has nothing
        assert [result.code for result in post_batch(made)] == [None, None, "R103"]

    def test_a_malformed_member_refuses_its_group_beside_plain_lines(self) -> None:
        good = Entry(tracekey=UUID(int=1), group="g", legs=line(ANA, "C", 5).legs)
        bad = Entry(tracekey=UUID(int=2), group="g", legs=line(ANA, "X", 5).legs)
        alone = line(BOB, "C", 1)
        assert [result.code for result in post_batch([alone, good, bad, line(BOB, "C", 1)])] == [None, "R123", "R110", None]

    def test_sums_that_64_bits_do_not_hold_are_added_by_the_loop(self) -> None:
        huge = Decimal("123456789012345678.00")
        Account.objects.filter(account=CLEARING.account).update(posted_credit=huge, posted_debit=huge - 1)
        results = post_batch([line(CLEARING, "C", "0.01"), line(ANA, "C", 5)])
        assert [result.posting.lines[0].balances.posted for result in results if result.posting] == [money("1.01"), 5]
        assert Account.objects.get(account=CLEARING.account).posted_credit == huge + money("0.01")

    @pytest.mark.parametrize("cents_max", [1_000, 3_000])
    def test_sums_that_come_near_are_not_plain(self, cents_max: int) -> None:
        fund(ANA, 25)
        entries = [line(ANA, "D", 5), line(BOB, "C", 6), line(CLEARING, "D", 7)]
        with patch.object(plain, "CENTS_MAX", cents_max), patch.object(plain, "fold", wraps=plain.fold) as fold:
            results = post_batch(entries)
        assert fold.call_args.kwargs["odd"].any() == (cents_max < 2_500)
        assert [result.posting.lines[0].balances.posted for result in results if result.posting] == [20, 6, -7]

    def test_accounts_that_are_opened_on_first_use(self, settings: Any) -> None:
        settings.LEDGER_OPEN_ON_FIRST_USE = True
        new, unused = AccountRef("0001", "new"), AccountRef("0001", "unused")
        results = post_batch([line(new, "C", 5), line(unused, "D", 5), line(ANA, "C", 1)])
        assert [result.code for result in results] == [None, "R103", None]
        assert set(Account.objects.filter(account__in=["new", "unused"]).values_list("account", flat=True)) == {"new"}

    def test_a_suspended_account_is_refused_and_the_others_go_on(self) -> None:
        with transaction.atomic():
            ledger.suspend(account=ANA, mode="REFUSE", reason="x", by="ops", now=NOW)
        results = post_batch([line(ANA, "C", 5), line(BOB, "C", 5)])
        assert [result.code for result in results] == ["R130", None]

    def test_an_ending_day_of_another_clock_is_a_days_row_of_its_own(self) -> None:
        post(line(ANA, "C", 9), NOW + timedelta(days=1))
        results = post_batch([line(ANA, "C", 5), line(ANA, "D", 4), line(BOB, "C", 5)])
        assert [result.posting.lines[0].balances for result in results if result.posting] == [
            (14, 0, 14, 5),
            (10, 0, 10, 1),
            (5, 0, 5, 5),
        ]

    def test_a_batch_of_one_entry_with_legs_alone_has_no_plain_line(self) -> None:
        entry = Entry(
            tracekey=UUID(int=1),
            legs=tuple(
                Leg(account=ref, amount=money(5), debitcredit=side, eventcode=ANY)  # type: ignore[arg-type]
                for ref, side in ((ANA, "C"), (CLEARING, "D"))
            ),
        )
        assert [result.code for result in post_batch([entry])] == [None]

    def test_nothing_but_malformed_entries(self) -> None:
        assert {result.code for result in post_batch([line(ANA, "X", 5), line(ANA, "Y", 5)])} == {"R110"}

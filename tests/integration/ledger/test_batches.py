"""The key of a batch is forgotten after a while; what keeps anything from being posted twice is not."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import connection, connections, transaction

from apps.ledger import batches, detaching, seals, tasks
from apps.ledger import public as ledger
from apps.ledger.models import Batch, Transaction
from apps.ledger.public import Entry, EntryResult
from tests.integration.ledger.chained import JANUARY, chain_all, close_until, end_of
from tests.integration.ledger.conftest import ANA, BOB, NOW, fund, line, move, posted
from tests.integration.ledger.test_concurrency import WAIT_S, in_threads
from tests.integration.ledger.test_months_at_once import _CLEAR

pytestmark = pytest.mark.usefixtures("committed_bank")

KEPT = timedelta(days=30)
LATER = NOW + KEPT + timedelta(minutes=1)


def post_keyed(entries: list[Entry], now: Any = NOW, key: str = "k") -> list[EntryResult]:
    with transaction.atomic():
        return ledger.post_batch(entries, now=now, key=key)


def forget(now: Any = LATER) -> int:
    with transaction.atomic():
        return batches.forget_batches(now=now)


def codes(results: list[EntryResult]) -> list[str | None]:
    return [result.refusal and result.refusal.code for result in results]


class TestForgetting:
    def test_keys_are_kept_for_so_many_days_and_no_longer(self, settings: LazySettings) -> None:
        post_keyed([line(ANA, "C", 1)])
        assert (forget(NOW + KEPT), forget(LATER), Batch.objects.count()) == (0, 1, 0)
        post_keyed([line(ANA, "C", 1)])
        settings.LEDGER_BATCH_KEYS_DAYS = 0
        assert forget(NOW + timedelta(days=10_000)) == 0

    def test_the_task_ends_when_no_old_ones_are_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for n in range(5):
            Batch.objects.create(key=str(n), body_hash=b"", refusals=[], created_at=NOW - KEPT)
        monkeypatch.setattr(batches, "FORGET_ROWS_MAX", 2)
        assert (forget(), Batch.objects.count()) == (2, 3)
        tasks.forget_batches(newer=True)
        assert Batch.objects.count() == 0

    def test_a_key_that_is_just_repeated_is_passed_over(self) -> None:
        post_keyed([line(ANA, "C", 1)])
        with transaction.atomic():
            Batch.objects.select_for_update().get()
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(closing, forget).result(WAIT_S) == 0


def closing(work: Any) -> Any:
    try:
        return work()
    finally:
        connections.close_all()


class TestARepeatThatComesTooLate:
    def test_posts_nothing_twice_and_answers_what_was_posted(self) -> None:
        entries = [line(ANA, "C", 10), *(replace(each, group="g") for each in (move(ANA, BOB, 4), line(BOB, "C", 1)))]
        first = post_keyed(entries)
        forget()
        again = post_keyed(entries, LATER)
        assert [result.posting and result.posting.lines for result in again] == [
            r.posting and r.posting.lines for r in first
        ]
        assert {result.posting and result.posting.replayed for result in again} == {True}
        assert (posted(ANA), posted(BOB), Transaction.objects.count()) == (6, 5, 4)

    def test_posts_once_what_was_refused_then(self) -> None:
        entries = [line(ANA, "C", 1), line(BOB, "D", 5)]
        assert codes(post_keyed(entries)) == [None, "R103"]
        fund(BOB, 5)
        assert codes(post_keyed(entries)) == [None, "R103"]
        forget()
        for _ in range(2):
            assert codes(post_keyed(entries, LATER)) == [None, None]
        assert (posted(ANA), posted(BOB)) == (1, 0)

    def test_does_not_post_what_names_a_day_that_is_too_old(self) -> None:
        entry = line(BOB, "D", 5, dateref=NOW.date())
        post_keyed([entry])
        fund(BOB, 5)
        forget()
        assert codes(post_keyed([entry], LATER)) == ["R109"]

    def test_or_another_batch_under_the_key_posts_no_tracekey_twice(self) -> None:
        entry = line(ANA, "C", 10)
        post_keyed([entry])
        forget()
        other = line(ANA, "C", 11, tracekey=entry.tracekey)
        assert codes(post_keyed([other, line(BOB, "C", 1)], LATER)) == ["R107", None]
        assert posted(ANA) == 10

    @pytest.fixture
    def months(self, committed_bank: None) -> Iterator[None]:
        yield
        with connection.cursor() as cursor:
            cursor.execute(_CLEAR)

    @pytest.mark.usefixtures("months")
    def test_posts_nothing_twice_whose_month_is_archived(self, tmp_path: Path) -> None:
        then = NOW - timedelta(days=57)  # in January
        entry = line(ANA, "C", 10)
        post_keyed([entry], then)
        close_until(end_of(JANUARY))
        chain_all()
        seals.seal_month(JANUARY, by="ana", now=NOW)
        for step in (detaching.export_month, detaching.detach_month):
            step(JANUARY, directory=tmp_path, by="bob", now=NOW)
        assert forget(NOW) == 1
        assert codes(post_keyed([entry])) == ["R135"]
        assert posted(ANA) == 10

    def test_may_meet_the_one_who_forgets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        entry = line(ANA, "C", 10)
        post_keyed([entry])
        real = batches.fetch

        def forgotten_meanwhile(*given: Any) -> Any:
            found = real(*given)
            with ThreadPoolExecutor(1) as pool:
                pool.submit(closing, forget).result(WAIT_S)
            return found

        with monkeypatch.context() as patched:
            patched.setattr(batches, "fetch", forgotten_meanwhile)
            (result,) = post_keyed([entry], LATER)
        assert result.posting is not None
        assert (result.posting.replayed, posted(ANA), Batch.objects.get().created_at) == (True, 10, LATER)

    def test_beside_others_and_beside_who_forgets_posts_once(self) -> None:
        entries = [line(ANA, "C", 1) for _ in range(5)]
        post_keyed(entries)

        def work(n: int) -> int:
            for _ in range(10):
                if n == 0:
                    forget(LATER + KEPT * 2)
                else:
                    assert codes(post_keyed(entries, LATER)) == [None] * 5
            return 1

        in_threads(work, 4)
        assert (posted(ANA), Transaction.objects.count()) == (5, 5)

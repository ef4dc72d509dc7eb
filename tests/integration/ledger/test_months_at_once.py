"""Steps of a month whose connection is cut in the middle, and steps that meet others: real commits, real locks."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, connections, transaction

from apps.ledger import chain, checks, detaching, month_files, seals, tasks, turns
from apps.ledger.care_models import Difference
from apps.ledger.chain_models import Closing, Month
from apps.ledger.chain_proof import verify_chain
from apps.ledger.models import Transaction
from apps.ledger.months import TRANSACTIONS
from apps.ledger.reconciliation import prove
from apps.ledger.rows import fetch
from tests.integration.ledger.chained import FEBRUARY, JANUARY, MARCH, close_until, damage, end_of, two_months
from tests.integration.ledger.conftest import ANA, BOB, CLEARING, NOW, fund, line, post, post_batch
from tests.integration.ledger.test_suspensions import beside

_CLEAR = """
DROP TABLE IF EXISTS ledger_transaction_202601, ledger_transaction_202602, ledger_transaction_202603;
ALTER TABLE ledger_transaction_default DROP CONSTRAINT IF EXISTS ledger_transaction_online;
"""


@pytest.fixture(autouse=True)
def _over(committed_bank: None) -> Iterator[None]:
    """January and February are over, closed and chained; their partitions are gone afterwards."""
    two_months()
    close_until(end_of(FEBRUARY))
    chain.chain(now=NOW)
    yield
    with connection.cursor() as cursor:
        cursor.execute(_CLEAR)


def cut_here(*_given: object, **_named: object) -> Any:
    """The server ends this session: what was not committed is gone, as after a kill -9 or a power cut."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")


def seal() -> object:
    return seals.seal_month(JANUARY, by="ana", now=NOW)


def state() -> str:
    return Month.objects.get().state


class TestCut:
    @pytest.mark.parametrize("where", ["refuse_changes", "prove_parts", "_prove_closings", "seal_hash"])
    def test_a_seal_is_whole_or_not_there(self, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(seals, where, cut_here)
            with pytest.raises(OperationalError):
                seal()
        connections.close_all()
        assert not Month.objects.exists()
        assert not Closing.objects.exists()
        seal()
        assert not verify_chain().damages

    def test_months_go_on_from_where_they_were(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seal()
        who = {"directory": tmp_path, "by": "bob", "now": NOW}
        steps: list[tuple[Callable[[], object], Any, str, str]] = [
            (lambda: detaching.export_month(JANUARY, **who), month_files, "write", "SEALED"),
            (lambda: detaching.export_month(JANUARY, **who), detaching.parquet, "file_hash", "SEALED"),
            (lambda: detaching.detach_month(JANUARY, **who), detaching, "_bar_default", "EXPORTED"),
            (lambda: detaching.drop_detached(JANUARY, directory=tmp_path), detaching, "_check_file", "DETACHED"),
            (lambda: detaching.attach_month(JANUARY, directory=tmp_path), seals, "differing_part", "DETACHED"),
            (lambda: detaching.attach_month(JANUARY, directory=tmp_path), seals, "refuse_changes", "DETACHED"),
        ]
        for run, module, where, before in steps:
            with monkeypatch.context() as patched:
                patched.setattr(module, where, cut_here)
                with pytest.raises(OperationalError):
                    run()
            connections.close_all()
            assert state() == before
            proof = verify_chain()
            assert proof.damages == []
            assert proof.lines == (3 if before == "DETACHED" else 9)
            if where not in ("write", "differing_part"):  # the next one cuts the same step later
                run()
        assert state() == "EXPORTED"
        assert verify_chain(archive=tmp_path).lines == 9
        assert prove() == []


class TestAtOnce:
    def test_two_who_seal_make_one_seal(self) -> None:
        def sealed(_n: int) -> object:
            try:
                return seal()
            finally:
                connections.close_all()

        with ThreadPoolExecutor(2) as pool:
            assert len({str(row) for row in pool.map(sealed, range(2), timeout=150)}) == 1
        assert Month.objects.count() == 1
        assert not verify_chain().damages

    def test_a_busy_table_is_left_for_the_next_try(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(detaching, "LOCK_TIMEOUT", "50ms")
        seal()
        detaching.export_month(JANUARY, directory=tmp_path, by="bob", now=NOW)

        def reading(_n: int) -> None:
            try:
                with pytest.raises(OperationalError):
                    detaching.detach_month(JANUARY, directory=tmp_path, by="eva", now=NOW)
            finally:
                connections.close_all()

        with transaction.atomic(), ThreadPoolExecutor(1) as pool:
            assert Transaction.objects.count() == 9  # a reader that has not ended holds the table
            list(pool.map(reading, [0], timeout=150))
        assert state() == "EXPORTED"
        assert detaching.detach_month(JANUARY, directory=tmp_path, by="eva", now=NOW).state == "DETACHED"

    def test_whoever_posts_and_chains_meanwhile_is_not_disturbed(self, tmp_path: Path) -> None:
        def write(_n: int) -> None:
            try:
                for _ in range(10):
                    post_batch([line(ANA, "C", 1), line(ANA, "C", 1)])
                    chain.chain(now=NOW)
            finally:
                connections.close_all()

        with ThreadPoolExecutor(2) as pool:
            writing = [pool.submit(write, n) for n in range(2)]
            seal()
            detaching.export_month(JANUARY, directory=tmp_path, by="bob", now=NOW)
            detaching.detach_month(JANUARY, directory=tmp_path, by="eva", now=NOW)
            detaching.attach_month(JANUARY, directory=tmp_path)
            for work in writing:
                work.result(60)
        while chain.chain(now=NOW):
            pass
        proof = verify_chain(archive=tmp_path)
        assert (proof.damages, proof.lines) == ([], 9 + 40)
        assert prove() == []


class TestChecks:
    @pytest.mark.parametrize("before", [None, "INCREMENTAL", "FULL"])
    def test_find_nothing_wrong_with_months_that_come_and_go(self, tmp_path: Path, before: checks.Kind | None) -> None:
        who = {"directory": tmp_path, "by": "bob", "now": NOW}

        def check(*kinds: checks.Kind) -> None:
            for kind in kinds:
                assert not checks.run_check(kind=kind, now=NOW).differences

        if before:
            check(before)
        for month in (JANUARY, FEBRUARY):
            seals.seal_month(month, by="ana", now=NOW)
            detaching.export_month(month, **who)
            detaching.detach_month(month, **who)
            check("INCREMENTAL", "FULL")
            fund(ANA, 1)
            check("INCREMENTAL")
        # As after four thousand million transactions: every row looks as if it had just been written.
        damage("UPDATE ledger_account SET updatedat = now()", "UPDATE ledger_balance SET updatedat = now()")
        check("INCREMENTAL")
        for month in (FEBRUARY, JANUARY):
            detaching.attach_month(month, directory=tmp_path)
            check("INCREMENTAL", "FULL")

    def test_do_not_miss_what_was_posted_and_archived_since_they_last_looked(self, tmp_path: Path) -> None:
        fund(ANA, 1)
        assert not checks.run_check(kind="INCREMENTAL", now=NOW).differences
        fund(ANA, 10)
        fund(BOB, 10)
        later = NOW + timedelta(days=60)
        close_until(end_of(MARCH), later)
        chain.chain(now=later)
        for month in (JANUARY, FEBRUARY, MARCH):
            seals.seal_month(month, by="ana", now=later)
            for step in (detaching.export_month, detaching.detach_month):
                step(month, directory=tmp_path, by="bob", now=later)
        post_batch([line(ANA, "C", 100)], later)
        for account in (ANA, BOB, None):
            assert checks.run_check(kind="INCREMENTAL", now=later, account=account).differences == []
        damage("UPDATE ledger_account SET postedcredit = postedcredit + 1 WHERE account IN ('000000001', '000000002')")
        assert {each.account for each in checks.run_check(kind="INCREMENTAL", now=later).differences} == {
            ANA.account,
            BOB.account,
        }

    @pytest.mark.parametrize("whose", ["ledger", "account"])
    @pytest.mark.parametrize(
        "statement",
        [
            # CLEARING has lines in January alone, ANA in all three months.
            "UPDATE ledger_balance SET totalcredit = totalcredit + 1, accumulatedcredit = accumulatedcredit + 1"
            " WHERE account = 'CLEARING'",
            "DELETE FROM ledger_balance WHERE account = 'CLEARING'",
            "UPDATE ledger_balance SET accumulateddebit = accumulateddebit + 1,"
            " totaldebit = totaldebit + (dateref < '2026-02-01')::int WHERE account = '000000001'",
        ],
    )
    def test_find_days_of_archived_months_that_were_changed(self, tmp_path: Path, statement: str, whose: str) -> None:
        self.put_away(tmp_path)
        assert not checks.run_check(kind="FULL", now=NOW).differences
        damage(statement)
        account = CLEARING if "CLEARING" in statement else ANA
        options: dict[str, Any] = {"account": account} if whose == "account" else {}
        found = checks.run_check(kind="FULL", now=NOW, **options).differences
        assert {each.account for each in found} == {account.account}
        assert date(2026, 1, 31) in {each.dateref for each in found}
        # What the next one does not look at is not gone.
        checks.run_check(kind="INCREMENTAL", now=NOW)
        assert set(Difference.objects.values_list("state", flat=True)) == {"OPEN"}

    def test_do_not_take_an_archived_day_for_mended_that_was_not(self, tmp_path: Path) -> None:
        self.put_away(tmp_path)
        damage("UPDATE ledger_balance SET accumulatedcredit = accumulatedcredit + 1 WHERE dateref = '2026-01-20'")
        found = len(checks.run_check(kind="FULL", now=NOW).differences)
        assert found > 0
        assert len(checks.run_check(kind="INCREMENTAL", now=NOW).differences) == found
        assert set(Difference.objects.values_list("state", flat=True)) == {"OPEN"}

    @pytest.mark.parametrize("whole", [True, False])
    def test_see_a_month_wholly_or_not_at_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
        monkeypatch.setattr(detaching, "LOCK_TIMEOUT", "50ms")
        seal()
        detaching.export_month(JANUARY, directory=tmp_path, by="bob", now=NOW)

        def detach(_n: int) -> bool:
            try:
                return detaching.detach_month(JANUARY, directory=tmp_path, by="eva", now=NOW).state == "DETACHED"
            except OperationalError:  # the check has the table already
                return False
            finally:
                connections.close_all()

        def meanwhile(last_cluster: Callable[[], str | None] = turns.last_cluster) -> str | None:
            with ThreadPoolExecutor(1) as pool:
                list(pool.map(detach, [0], timeout=150))
            return last_cluster()

        monkeypatch.setattr(turns, "last_cluster", meanwhile)  # behind the snapshot, before a line is read
        options: dict[str, Any] = {} if whole else {"account": ANA}
        assert checks.run_check(kind="FULL", now=NOW, **options).differences == []

    def put_away(self, directory: Path) -> None:
        seal()
        for step in (detaching.export_month, detaching.detach_month):
            step(JANUARY, directory=directory, by="bob", now=NOW)


class TestFolder:
    @pytest.fixture(params=["full", "a file", "read-only"])
    def broken(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        """A folder in which nothing can be written."""
        if request.param == "a file":
            (tmp_path / "ledger_transaction").write_text("")
        if request.param == "full":
            part = tmp_path / "ledger_transaction/month=2026-01/lines.part"
            part.parent.mkdir(parents=True)
            part.symlink_to("/dev/full")
        if request.param == "read-only":
            tmp_path = Path("/proc/archive")  # where root can write nothing either
        return tmp_path

    def test_that_takes_no_file_leaves_the_month_as_it_was_and_says_so(
        self, broken: Path, settings: LazySettings, caplog: pytest.LogCaptureFixture
    ) -> None:
        seal()
        settings.LEDGER_MONTHS_ONLINE, settings.LEDGER_ARCHIVE_DIR = 1, str(broken)
        with caplog.at_level(logging.ERROR):
            tasks.archive_months()
        assert "the archive's folder" in caplog.text
        assert not list(broken.rglob("*.part"))
        if (folder := broken / "ledger_transaction/month=2026-01").is_dir():
            (folder / "lines.part").symlink_to("/dev/full")
        with pytest.raises(CommandError, match="the archive's folder"):
            call_command("export_month", "2026-01", "--directory", str(broken))
        assert state() == "SEALED"
        assert not list(broken.rglob("*.p*"))
        assert prove() == []


class TestOpening:
    APRIL_OF_ANOTHER_YEAR = date(2031, 4, 1)

    @pytest.fixture(autouse=True)
    def _not_there_afterwards(self, committed_bank: None) -> Iterator[None]:
        yield
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS ledger_transaction_203104")

    def test_a_month_late_refuses_nobody_who_posts_to_it_meanwhile(self) -> None:
        """Its lines came into the default partition so far, and who is about to add one waits."""
        then, pids = datetime(2031, 4, 9, 15, 0, tzinfo=UTC), list[int]()
        assert post(line(ANA, "C", 1), then).lines
        writers: list[Any] = []

        def attach_behind_a_waiting_writer(execute: Any, statement: Any, *rest: Any) -> Any:
            if "ATTACH PARTITION" in str(statement):
                writers.append(beside(lambda: post(line(ANA, "C", 1), then), pids))
                until_it_waits(pids[0])
            return execute(statement, *rest)

        with connection.execute_wrapper(attach_behind_a_waiting_writer):
            TRANSACTIONS.open(self.APRIL_OF_ANOTHER_YEAR)
        ((pool, writer),) = writers
        with pool:
            assert writer.result(60).lines
        assert fetch("SELECT count(*) FROM ledger_transaction_203104", []) == [(2,)]
        assert prove() == []


def until_it_waits(pid: int) -> None:
    """Until the server says that this session waits for a lock."""
    for _ in range(100_000):
        if fetch("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", [pid])[0][0]:
            return
    raise AssertionError("it never waited")

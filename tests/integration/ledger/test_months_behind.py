"""Months that are over: sealed, exported, detached, asked for, and brought back."""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from io import StringIO
from pathlib import Path
from uuid import UUID

import pyarrow
import pyarrow.parquet
import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from apps.common.clock import uuid7
from apps.ledger import chain, detaching, month_files, seals
from apps.ledger import public as ledger
from apps.ledger.chain_lines import Line
from apps.ledger.chain_models import Closing, Month
from apps.ledger.chain_proof import verify_chain
from apps.ledger.models import Account, Branch, Transaction
from apps.ledger.months import TRANSACTIONS
from apps.ledger.public import MonthArchived
from apps.ledger.reconciliation import prove
from apps.ledger.seals import MonthDiffers, MonthNotReady, WrongMonthState
from apps.ledger.tasks import archive_months as archive_task
from tests.integration.ledger.chained import (
    BACKDATED,
    FEBRUARY,
    FIRST,
    IN_FEBRUARY,
    IN_JANUARY,
    JANUARY,
    MARCH,
    TRANSFER,
    chain_all,
    close_until,
    damage,
    end_of,
    settle_constraints,
    two_months,
)
from tests.integration.ledger.conftest import ANA, BOB, CLEARING, NOW, TODAY, fund, line, money, move, post

pytestmark = pytest.mark.usefixtures("bank")


@pytest.fixture
def over() -> None:
    """January and February are over, closed and chained."""
    two_months()
    close_until(end_of(FEBRUARY))
    chain_all()


@pytest.fixture
def _in_march(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tasks and commands, which look at a clock."""
    monkeypatch.setattr("django.utils.timezone.now", lambda: NOW)


def seal(month: date = JANUARY, now: datetime = NOW) -> Month:
    settle_constraints()
    return seals.seal_month(month, by="ana", now=now)


def export(directory: Path, month: date = JANUARY) -> Month:
    return detaching.export_month(month, directory=directory, by="bob", now=NOW)


def detach(directory: Path, month: date = JANUARY) -> Month:
    settle_constraints()
    return detaching.detach_month(month, directory=directory, by="eva", now=NOW)


def put_away(directory: Path, month: date = JANUARY) -> None:
    seal(month)
    export(directory, month)
    detach(directory, month)


@pytest.fixture
def january_is_away(over: None, tmp_path: Path) -> Path:
    put_away(tmp_path)
    return tmp_path


def seqs() -> list[int]:
    return list(Transaction.objects.order_by("seq").values_list("seq", flat=True))


def everything() -> list[Line]:
    return chain.lines_between(0, 100)


class TestSealMonth:
    def test_counts_the_lines_and_writes_closing_balances(self, over: None) -> None:
        row = seal()
        assert (row.state, row.lines, row.debits, row.credits, row.seq_last) == (
            "SEALED",
            6,
            money("30.50"),
            money("133.50"),
            7,
        )
        assert (row.sealed_by, row.sealed_at) == ("ana", NOW)
        closings = Closing.objects.order_by("account").values_list("account", "accumulated_debit", "accumulated_credit")
        assert list(closings) == [
            (ANA.account, money("30.50"), money(100)),
            (BOB.account, 0, money("13.50")),
            (CLEARING.account, 0, money(20)),
        ]
        assert not verify_chain().damages

    def test_adds_a_month_to_the_closing_balances_before_it(self, over: None) -> None:
        seal()
        assert seal(FEBRUARY).lines == 2
        found = Closing.objects.filter(month=FEBRUARY).order_by("account")
        assert [(row.account, row.accumulated_credit) for row in found] == [
            (ANA.account, money(101)),
            (BOB.account, money("20.50")),
        ]
        assert not verify_chain().damages

    def test_answers_a_repeat_with_the_seal_that_is_there(self, over: None) -> None:
        assert seal() == seal()
        assert Month.objects.get().sealed_at == NOW

    def test_lets_the_month_take_no_change_any_more(self, over: None) -> None:
        seal()
        partition = TRANSACTIONS.name(JANUARY)
        for statement in (
            f"UPDATE {partition} SET amount = 1",
            f"DELETE FROM {partition}",
            f"INSERT INTO ledger_transaction SELECT * FROM {partition} LIMIT 1",
        ):
            with pytest.raises(DatabaseError, match="is sealed"), transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(statement)

    def test_seals_a_month_without_lines(self, over: None) -> None:
        damage("DELETE FROM ledger_transaction", "DELETE FROM ledger_block", "DELETE FROM ledger_block_part")
        damage("DELETE FROM ledger_balance")
        assert (seal().lines, seal().seq_last) == (0, 0)


class TestSealMonthTooEarly:
    def test_refuses_while_lines_of_it_may_be_posted(self, over: None) -> None:
        last = datetime.combine(end_of(FEBRUARY) + timedelta(days=7), datetime.min.time(), UTC) + timedelta(hours=15)
        seal()
        with pytest.raises(MonthNotReady, match="may still be posted"):
            seal(FEBRUARY, now=last)
        assert seal(FEBRUARY, now=last + timedelta(days=1)).state == "SEALED"

    def test_refuses_while_a_branch_is_open(self, over: None) -> None:
        with transaction.atomic():
            ledger.open_branch(branch="0002", now=NOW)
        with pytest.raises(MonthNotReady, match="2026-01-31 is not closed in branch 0002"):
            seal()

    def test_refuses_while_lines_are_not_chained(self) -> None:
        two_months()
        close_until(end_of(FEBRUARY))
        with pytest.raises(MonthNotReady, match="not chained yet"):
            seal()

    def test_refuses_before_the_month_before_it(self, over: None) -> None:
        with pytest.raises(MonthNotReady, match="2026-01 comes first"):
            seal(FEBRUARY)

    def test_refuses_a_month_before_a_sealed_one(self, over: None) -> None:
        seal()
        with pytest.raises(WrongMonthState, match="sealed in order"):
            seal(date(2025, 12, 1))

    def test_refuses_a_month_that_shares_its_partition(self, over: None) -> None:
        settle_constraints()
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE old (LIKE ledger_transaction INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
            cursor.execute(
                "WITH moved AS (DELETE FROM ledger_transaction_default WHERE dateref < '2026-03-01' RETURNING *)"
                " INSERT INTO old SELECT * FROM moved"
            )
            cursor.execute(
                "ALTER TABLE ledger_transaction ATTACH PARTITION old FOR VALUES FROM (MINVALUE) TO ('2026-03-01')"
            )
        with pytest.raises(MonthNotReady, match="one partition with other months"):
            seal()

    @pytest.mark.parametrize(
        ("statement", "words"),
        [
            ("UPDATE ledger_transaction SET amount = amount + 1 WHERE seq = 7", "does not match its lines"),
            ("DELETE FROM ledger_block_part WHERE month = '2026-01-01'", "6 lines are there and 0 were chained"),
            ("UPDATE ledger_balance SET totalcredit = 1 WHERE dateref = '2026-01-31'", "0001/000000002/BRL 2026-01-31"),
            (
                "UPDATE ledger_balance SET accumulatedcredit = accumulatedcredit + 1 WHERE dateref = '2026-01-31'",
                "accumulated sums",
            ),
        ],
    )
    def test_refuses_a_month_that_does_not_add_up(self, over: None, statement: str, words: str) -> None:
        damage(statement)
        with pytest.raises(MonthDiffers, match=words):
            seal()
        assert not Month.objects.exists()
        assert not Closing.objects.exists()

    def test_finds_a_month_that_does_not_add_up_before_it_was_chained(self) -> None:
        two_months()
        close_until(end_of(FEBRUARY))
        damage("DELETE FROM ledger_transaction WHERE seq = 3")  # a leg
        chain_all()
        with pytest.raises(MonthDiffers):
            seal()


class TestTheSeal:
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE ledger_month SET lines = 7",
            "UPDATE ledger_closing SET accumulatedcredit = 1",
            "DELETE FROM ledger_closing WHERE account = 'CLEARING'",
            "UPDATE ledger_month SET hash = '\\x00'",
        ],
    )
    def test_tells_of_a_change(self, over: None, statement: str) -> None:
        seal()
        damage(statement)
        (found,) = verify_chain().damages
        assert (found.month, found.number) == (JANUARY, None)

    def test_stands_for_the_one_before(self, over: None) -> None:
        seal()
        seal(FEBRUARY)
        damage("DELETE FROM ledger_month WHERE month = '2026-01-01'")
        assert [found.month for found in verify_chain().damages] == [FEBRUARY]


class TestExportMonth:
    def test_writes_every_line_as_it_is(self, over: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(month_files, "LINES_AT_ONCE", 4)
        seal()
        row = export(tmp_path)
        assert (row.state, row.path, row.exported_by) == ("EXPORTED", "month=2026-01/lines.parquet", "bob")
        written = [line for lines in month_files.read(tmp_path, row.path) for line in lines]
        assert written == [tuple(line) for line in everything() if line[0] in (1, 2, 3, 4, 5, 7)]

    def test_writes_what_other_programs_read(self, over: None, tmp_path: Path) -> None:
        import pyarrow.parquet

        seal()
        export(tmp_path)
        table = pyarrow.parquet.read_table(tmp_path / "ledger_transaction" / "month=2026-01" / "lines.parquet")
        assert sum(table.column("amount").to_pylist()) == money(164)
        closings = pyarrow.parquet.read_table(tmp_path / "ledger_closing" / "month=2026-01" / "closings.parquet")
        assert closings.column("accumulateddebit").to_pylist() == [money("30.50"), 0, 0]

    @pytest.mark.parametrize(("numbers_of_block", "numbers_at_once"), [(1, 1), (1, 3), (2, 3), (1, 100)])
    def test_does_not_depend_on_how_much_is_read_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers_of_block: int, numbers_at_once: int
    ) -> None:
        monkeypatch.setattr(chain, "BLOCK_NUMBERS_MAX", numbers_of_block)
        monkeypatch.setattr(seals, "NUMBERS_AT_ONCE", numbers_at_once)
        two_months()
        close_until(end_of(FEBRUARY))
        chain_all()
        put_away(tmp_path)
        assert seqs() == [6, 8, 9]
        assert verify_chain(archive=tmp_path).damages == []
        damage("UPDATE ledger_block SET hash = '\\x00' WHERE number = 1")
        assert verify_chain(archive=tmp_path).damages

    def test_refuses_a_month_that_is_not_sealed(self, over: None, tmp_path: Path) -> None:
        with pytest.raises(WrongMonthState):
            export(tmp_path)

    def test_leaves_nothing_under_its_name_when_it_ends_in_the_middle(
        self, over: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seal()
        with monkeypatch.context() as patched:
            patched.setattr(month_files, "LINES_AT_ONCE", 1)
            patched.setattr(month_files, "_table", lambda lines: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                export(tmp_path)
        assert Month.objects.get().state == "SEALED"
        assert not list(tmp_path.rglob("*.parquet"))
        assert export(tmp_path).state == "EXPORTED"

    def test_does_not_say_so_when_what_was_written_is_something_else(
        self, over: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seal()
        made = month_files._table
        monkeypatch.setattr(month_files, "_table", lambda lines: made(lines[1:]))
        with pytest.raises(detaching.ArchiveDamaged, match="are not those that were chained"):
            export(tmp_path)
        assert Month.objects.get().state == "SEALED"

    def test_writes_a_damaged_file_anew(self, over: None, tmp_path: Path) -> None:
        seal()
        row = export(tmp_path)
        month_files.file_of(tmp_path, row.path).write_bytes(b"nothing")
        export(tmp_path)
        assert month_files.difference(Month.objects.get(), tmp_path) is None


class TestDetachMonth:
    def test_may_read_its_file_for_longer_than_other_transactions_may_be_idle(
        self, over: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seal()
        export(tmp_path)
        seen = []

        def difference(*_given: object) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SHOW idle_in_transaction_session_timeout")
                seen.append(cursor.fetchone()[0])

        monkeypatch.setattr(month_files, "difference", difference)
        detach(tmp_path)
        assert seen == ["0"]

    def test_takes_the_lines_out_and_leaves_their_table(self, january_is_away: Path) -> None:
        assert seqs() == [6, 8, 9]
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {TRANSACTIONS.name(JANUARY)}")
            assert cursor.fetchone()[0] == 6
        row = Month.objects.get()
        assert (row.state, row.detached_by, row.detached_at) == ("DETACHED", "eva", NOW)

    def test_leaves_a_ledger_that_proves_itself(self, january_is_away: Path) -> None:
        assert prove() == []
        proof = verify_chain()
        assert (proof.damages, proof.lines, proof.by_parts) == ([], 3, {JANUARY})
        proof = verify_chain(archive=january_is_away)
        assert (proof.damages, proof.by_parts) == ([], set())

    def test_reconciliation_still_finds_what_is_wrong(self, january_is_away: Path) -> None:
        damage("UPDATE ledger_account SET postedcredit = postedcredit + 1 WHERE account = '000000001'")
        assert [found.stored for found in prove()] == [107]
        damage(
            "UPDATE ledger_account SET postedcredit = postedcredit - 1 WHERE account = '000000001'",
            "UPDATE ledger_transaction SET balanceafter = 0 WHERE seq = 9",
        )
        assert [(found.stored, found.proven) for found in prove()] == [(0, money("75.50"))]

    def test_refuses_a_month_that_is_not_exported_or_not_the_first(self, over: None, tmp_path: Path) -> None:
        seal()
        with pytest.raises(WrongMonthState, match="is not exported"):
            detach(tmp_path)
        export(tmp_path)
        seal(FEBRUARY)
        export(tmp_path, FEBRUARY)
        with pytest.raises(WrongMonthState, match="2026-01 has to be detached before"):
            detach(tmp_path, FEBRUARY)

    def test_refuses_when_the_file_is_not_what_was_written(self, over: None, tmp_path: Path) -> None:
        seal()
        file = month_files.file_of(tmp_path, export(tmp_path).path)
        bytes_there = file.read_bytes()
        file.write_bytes(bytes_there + b"x")
        with pytest.raises(detaching.ArchiveDamaged, match="is not the file that was written"):
            detach(tmp_path)
        file.unlink()
        with pytest.raises(detaching.ArchiveDamaged, match="can't be read"):
            detach(tmp_path)
        assert len(seqs()) == 9

    def test_is_undone_when_it_ends_in_the_middle(
        self, over: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seal()
        export(tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(detaching, "_bar_default", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                detach(tmp_path)
        assert (len(seqs()), Month.objects.get().state) == (9, "EXPORTED")
        assert detach(tmp_path).state == "DETACHED"
        assert detach(tmp_path).state == "DETACHED"

    def test_keeps_lines_of_the_month_out_of_the_default_partition(self, january_is_away: Path) -> None:
        again = f"INSERT INTO ledger_transaction SELECT * FROM {TRANSACTIONS.name(JANUARY)}"
        with (
            pytest.raises(DatabaseError, match="ledger_transaction_online"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(again)

    def test_drops_the_table_only_with_a_file_that_is_right(self, january_is_away: Path) -> None:
        file = month_files.file_of(january_is_away, Month.objects.get().path)
        bytes_there = file.read_bytes()
        file.write_bytes(b"nothing")
        with pytest.raises(detaching.ArchiveDamaged):
            detaching.drop_detached(JANUARY, directory=january_is_away)
        file.write_bytes(bytes_there)
        assert detaching.drop_detached(JANUARY, directory=january_is_away)
        assert not detaching.drop_detached(JANUARY, directory=january_is_away)

    @pytest.mark.parametrize("how", ["changed", "cut", "gone"])
    def test_changed_closing_balances_are_found_and_written_anew(self, january_is_away: Path, how: str) -> None:
        file = january_is_away / "ledger_closing" / "month=2026-01" / "closings.parquet"
        assert not verify_chain(archive=january_is_away).damages
        rows = pyarrow.parquet.ParquetFile(file).read()
        if how == "gone":
            file.unlink()
        else:
            amounts = pyarrow.array([money(1)] * len(rows), type=rows.schema.field("accumulatedcredit").type)
            changed = rows.set_column(4, "accumulatedcredit", amounts) if how == "changed" else rows.slice(0, 2)
            pyarrow.parquet.write_table(changed, file)
        (found,) = verify_chain(archive=january_is_away).damages
        assert (found.month, "closings.parquet" in found.what) == (JANUARY, True)
        assert not verify_chain().damages
        assert export(january_is_away).state == "DETACHED"
        assert not verify_chain(archive=january_is_away).damages
        assert pyarrow.parquet.ParquetFile(file).read() == rows

    def test_a_changed_file_is_found_by_the_proof_that_reads_it(self, january_is_away: Path) -> None:
        import pyarrow.parquet

        row = Month.objects.get()
        file = month_files.file_of(january_is_away, row.path)
        table = pyarrow.parquet.read_table(file)
        pyarrow.parquet.write_table(table.slice(1), file)
        damage("UPDATE ledger_month SET filehash = ''")  # by somebody who hides it
        (found,) = verify_chain(archive=january_is_away).damages
        assert "in month=2026-01/lines.parquet the lines of block 1 (seq 1 to 9)" in str(found)


class TestWhoAsksForADetachedMonth:
    def test_a_statement_is_refused_by_name_and_not_empty(self, january_is_away: Path) -> None:
        for first, last in ((JANUARY, TODAY), (date(2025, 1, 1), JANUARY + timedelta(days=20)), (end_of(JANUARY), TODAY)):
            with pytest.raises(MonthArchived, match=r"month=2026-01/lines\.parquet") as refused:
                ledger.statement(BOB, date_from=first, date_to=last)
            assert refused.value.field == "from"

    def test_files_totals_and_past_moments_are_refused_too(self, january_is_away: Path) -> None:
        end = end_of(JANUARY)
        then = datetime.combine(JANUARY + timedelta(days=25), time(15), UTC)
        questions: list[Callable[[], object]] = [
            lambda: ledger.export_statement(BOB, date_from=JANUARY, date_to=end, format="csv", now=NOW),
            lambda: ledger.totals_by_event(branch=BOB.branch, account=BOB.account, date_from=JANUARY, date_to=end),
            lambda: ledger.totals_by_event(date_from=end, date_to=TODAY),
        ]
        for question in questions:
            with pytest.raises(MonthArchived, match="2026-01"):
                question()
        assert ledger.totals_by_event(date_from=end + timedelta(days=1), date_to=TODAY).events
        assert ledger.balance_as_of(BOB, NOW, now=NOW).posted == ledger.balance(BOB).posted
        Account.objects.update(created_at=then - timedelta(days=60))
        with pytest.raises(MonthArchived, match="2026-01"):
            ledger.balance_as_of(BOB, then, now=NOW)

    def test_a_statement_without_days_in_it_is_given(self, january_is_away: Path) -> None:
        assert len(ledger.statement(ANA, date_from=JANUARY + timedelta(days=20), date_to=TODAY).lines) == 2
        found = ledger.statement(ANA, date_from=FEBRUARY, date_to=TODAY)
        assert [found.opening, *(row.running for row in found.lines), found.closing] == [
            money("69.50"), money("70.50"), money("75.50"), money("75.50"),
        ]  # fmt: skip

    def test_balances_on_its_days_are_known(self, january_is_away: Path) -> None:
        assert ledger.balance_on(ANA, date(2026, 1, 20)).balance == money("69.50")
        assert ledger.balance(ANA).posted == money("75.50")

    @pytest.mark.parametrize("key", [FIRST, TRANSFER, BACKDATED])
    def test_an_entry_is_refused_by_name(self, january_is_away: Path, key: UUID) -> None:
        with pytest.raises(MonthArchived, match="It was posted for 2026-01"):
            ledger.transactions_by_tracekey(key)
        (found,) = ledger.outcomes([key])
        assert (found.result, found.code, found.lines) == ("POSTED", "R135", ())

    def test_others_are_found_as_ever(self, january_is_away: Path) -> None:
        posting = fund(ANA, 1)
        assert ledger.transactions_by_tracekey(posting.tracekey)
        assert [found.result for found in ledger.outcomes([posting.tracekey, uuid7()])] == ["POSTED", "UNKNOWN"]

    def test_a_repeat_is_not_posted_again(self, january_is_away: Path) -> None:
        before = ledger.balance(ANA).posted
        same = line(ANA, "C", 100, tracekey=FIRST, details={"name": "Zoë \u2028 \t", "rate": money("1.10")})
        with pytest.raises(MonthArchived):
            post(same, NOW)
        with pytest.raises(MonthArchived):
            ledger.post_alone(same, now=NOW)
        with transaction.atomic():
            results = ledger.post_batch([same, line(ANA, "C", 1)], now=NOW)
        assert [result.code for result in results] == ["R135", None]
        with pytest.raises(ledger.TracekeyReused):
            post(line(ANA, "C", 101, tracekey=FIRST), NOW)
        assert ledger.balance(ANA).posted == before + 1

    def test_a_reversal_is_refused_and_changes_nothing(self, january_is_away: Path) -> None:
        with pytest.raises(MonthArchived), transaction.atomic():
            ledger.reverse(tracekey=TRANSFER, reversal_tracekey=uuid7(), now=NOW)
        assert prove() == []

    def test_a_reversal_from_before_is_repeated(self, over: None, tmp_path: Path) -> None:
        key = uuid7()
        with transaction.atomic():
            first = ledger.reverse(tracekey=BACKDATED, reversal_tracekey=key, now=NOW)
        chain_all()
        put_away(tmp_path)
        with transaction.atomic():
            again = ledger.reverse(tracekey=BACKDATED, reversal_tracekey=key, now=NOW)
        assert again == first
        with pytest.raises(ledger.AlreadyReversed), transaction.atomic():
            ledger.reverse(tracekey=BACKDATED, reversal_tracekey=uuid7(), now=NOW)

    def test_a_line_is_known_by_the_time_in_its_id(self, january_is_away: Path) -> None:
        of_january = UUID(int=(int(datetime(2026, 1, 20, tzinfo=UTC).timestamp() * 1000) << 80) | (0x7 << 76) | (0x2 << 62))
        with pytest.raises(MonthArchived, match="If there was such a line"):
            ledger.check_line(of_january)
        ledger.check_line(uuid7())
        ledger.check_line(UUID(int=1))


class TestAttachMonth:
    @pytest.mark.parametrize("dropped", [False, True])
    def test_brings_every_line_back(self, over: None, tmp_path: Path, dropped: bool) -> None:
        before = everything()
        put_away(tmp_path)
        if dropped:
            detaching.drop_detached(JANUARY, directory=tmp_path)
        assert detaching.attach_month(JANUARY, directory=tmp_path).state == "EXPORTED"
        assert everything() == before
        proof = verify_chain(archive=tmp_path)
        assert (proof.damages, proof.lines) == ([], 9)
        assert prove() == []
        assert ledger.transactions_by_tracekey(TRANSFER)
        assert len(ledger.statement(ANA, date_from=JANUARY, date_to=TODAY).lines) == 5
        detaching.attach_month(JANUARY, directory=tmp_path)
        assert detach(tmp_path).state == "DETACHED"
        detaching.attach_month(JANUARY, directory=tmp_path)
        with pytest.raises(DatabaseError, match="is sealed"), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("INSERT INTO ledger_transaction SELECT * FROM ledger_transaction WHERE seq = 1")

    def test_refuses_a_table_or_a_file_that_was_changed(self, january_is_away: Path) -> None:
        table = TRANSACTIONS.name(JANUARY)
        damage(f"UPDATE {table} SET amount = amount + 1 WHERE seq = 7")
        with pytest.raises(detaching.ArchiveDamaged, match=f"In the table {table} the lines of block 1"):
            detaching.attach_month(JANUARY, directory=january_is_away)
        damage(f"DROP TABLE {table}")
        month_files.file_of(january_is_away, Month.objects.get().path).unlink()
        with pytest.raises(detaching.ArchiveDamaged):
            detaching.attach_month(JANUARY, directory=january_is_away)
        assert Month.objects.get().state == "DETACHED"

    def test_brings_the_latest_back_first(self, january_is_away: Path) -> None:
        put_away(january_is_away, FEBRUARY)
        assert seqs() == [9]
        assert prove() == []
        with pytest.raises(WrongMonthState, match="2026-02 has to come back before"):
            detaching.attach_month(JANUARY, directory=january_is_away)
        detaching.attach_month(FEBRUARY, directory=january_is_away)
        assert prove() == []
        detaching.attach_month(JANUARY, directory=january_is_away)
        assert prove() == []
        assert len(seqs()) == 9


class TestArchiveMonths:
    def archive(self, directory: Path, online: int, now: datetime = NOW) -> list[date]:
        settle_constraints()
        done = detaching.archive_months(online=online, directory=directory, by="beat", now=now)
        return [month for month, state in done if state == "DETACHED"]

    @pytest.mark.parametrize(("online", "away"), [(0, []), (1, [JANUARY]), (2, []), (12, [])])
    def test_keeps_so_many_whole_months(self, over: None, tmp_path: Path, online: int, away: list[date]) -> None:
        assert self.archive(tmp_path, online) == away
        assert self.archive(tmp_path, online) == []  # nothing is left to do
        assert Month.objects.count() == (2 if online else 0)
        assert prove() == []

    def test_stops_at_a_month_that_is_not_ready(self, tmp_path: Path) -> None:
        two_months()
        chain_all()
        post(line(BOB, "C", 1), IN_FEBRUARY)  # not chained
        later = NOW + timedelta(days=60)
        assert self.archive(tmp_path, 1, now=later) == [JANUARY]
        assert [row.month for row in Month.objects.all()] == [JANUARY]

    def test_seals_every_month_that_is_over_however_many_stay(self, over: None, tmp_path: Path) -> None:
        later = datetime(2027, 6, 20, 15, 0, tzinfo=UTC)
        post(line(ANA, "C", 1), later)
        chain_all()
        for _ in range(2):  # twelve at once
            assert self.archive(tmp_path, 24, now=later) == []
        sealed = list(Month.objects.order_by("month").values_list("month", "state"))
        assert len(sealed) == 17
        assert (sealed[0], sealed[-1]) == ((JANUARY, "SEALED"), (date(2027, 5, 1), "SEALED"))

    def test_takes_a_month_without_lines_away_with_the_others(self, tmp_path: Path) -> None:
        in_april = datetime(2026, 4, 20, 15, 0, tzinfo=UTC)
        for moment in (IN_JANUARY, in_april):  # nothing in February and March
            post(line(ANA, "C", 1), moment)
        chain_all()
        away = []
        for day in (date(2026, 3, 20), date(2026, 4, 20), date(2026, 5, 20), date(2026, 6, 20), date(2026, 7, 20)):
            away += self.archive(tmp_path, 2, now=datetime(day.year, day.month, day.day, 15, 0, tzinfo=UTC))
        assert away == [JANUARY, FEBRUARY, MARCH, date(2026, 4, 1)]

    def test_passes_over_a_month_without_lines_that_nobody_sealed_in_time(self, tmp_path: Path) -> None:
        for moment in (IN_JANUARY, NOW):  # nothing in February
            post(line(ANA, "C", 1), moment)
        chain_all()
        later = NOW + timedelta(days=60)
        close_until(end_of(MARCH), later)
        for month in (JANUARY, MARCH):
            seal(month, now=later)
        assert self.archive(tmp_path, 1, now=later) == [JANUARY, MARCH]

    @pytest.mark.usefixtures("_in_march")
    def test_is_done_by_its_task_when_a_setting_says_so(self, over: None, tmp_path: Path, settings: object) -> None:
        settings.LEDGER_ARCHIVE_DIR = str(tmp_path)  # type: ignore[attr-defined]
        archive_task(newer=True)
        assert not Month.objects.exists()
        settings.LEDGER_MONTHS_ONLINE = 1  # type: ignore[attr-defined]
        settle_constraints()
        seen = []
        for _ in range(5):
            archive_task()
            seen.append(list(Month.objects.order_by("month").values_list("state", flat=True)))
        away = ["DETACHED"]
        assert seen == [["SEALED"], ["EXPORTED"], away, [*away, "SEALED"], [*away, "SEALED"]]

    def test_leave_a_month_alone_that_was_brought_back(self, over: None, tmp_path: Path) -> None:
        assert self.archive(tmp_path, 1) == [JANUARY]
        detaching.attach_month(JANUARY, directory=tmp_path)
        assert self.archive(tmp_path, 1, now=NOW + timedelta(days=60)) == []
        # Nothing is detached past it, and yet every month that is over is sealed.
        assert list(Month.objects.order_by("month").values_list("state", flat=True)) == ["EXPORTED", *["SEALED"] * 3]
        detach(tmp_path)
        assert self.archive(tmp_path, 1, now=NOW + timedelta(days=60)) == [FEBRUARY, MARCH]

    @pytest.mark.usefixtures("_in_march")
    def test_what_does_not_add_up_is_logged(
        self, over: None, tmp_path: Path, settings: object, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings.LEDGER_ARCHIVE_DIR, settings.LEDGER_MONTHS_ONLINE = str(tmp_path), 1  # type: ignore[attr-defined]
        damage("UPDATE ledger_balance SET totalcredit = 1")
        archive_task()
        assert "R137" in caplog.text


class TestAClockThatJumpedAhead:
    """What is closed and sealed stays so, and the month would still be posted to."""

    @pytest.fixture(autouse=True)
    def forty_days(self, bank: None, monkeypatch: pytest.MonkeyPatch) -> None:
        now = datetime.now(UTC)
        post(line(ANA, "C", 1), now)
        settle_constraints()
        chain_all(now)
        monkeypatch.setattr(timezone, "now", lambda: now + timedelta(days=40))

    def test_closes_no_day_and_seals_no_month(
        self, tmp_path: Path, settings: object, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings.LEDGER_ARCHIVE_DIR, settings.LEDGER_MONTHS_ONLINE = str(tmp_path), 1  # type: ignore[attr-defined]
        archive_task()
        assert not Month.objects.exists()
        assert Branch.objects.get(branch="0001").closed_until is None
        assert "clock" in caplog.text

    def test_not_by_hand_either(self) -> None:
        with pytest.raises(CommandError, match="clock"):
            call_command("seal_month", f"{datetime.now(UTC):%Y-%m}", "--close-days")
        assert Branch.objects.get(branch="0001").closed_until is None


@pytest.mark.usefixtures("_in_march")
class TestCommands:
    def run(self, name: str, *arguments: str) -> str:
        settle_constraints()
        output = StringIO()
        call_command(name, *arguments, stdout=output)
        return output.getvalue()

    def test_take_a_month_away_and_bring_it_back(self, tmp_path: Path) -> None:
        two_months()
        close_until(end_of(FEBRUARY))
        folder = ("--directory", str(tmp_path))
        assert "2026-01 is SEALED: 6 lines, sealed by ana" in self.run("seal_month", "2026-01", "--by", "ana")
        assert "6 lines in month=2026-01/lines.parquet" in self.run("export_month", "2026-01", *folder)
        assert "its table is dropped" in self.run("detach_month", "2026-01", *folder, "--drop")
        assert "2026-01" in self.run("verify_chain")
        assert "6 lines are in the table again" in self.run("attach_month", "2026-01", *folder)

    def test_tell_of_every_month_and_what_comes_next(self, over: None, tmp_path: Path) -> None:
        fund(ANA, 1)
        put_away(tmp_path)
        lines = [line.split(maxsplit=4) for line in self.run("ledger_months").splitlines()]
        assert [(line[0], line[1], line[2]) for line in lines[:3]] == [
            ("2026-01", "DETACHED", "6"),
            ("2026-02", "OPEN", "2"),
            ("2026-03", "OPEN", "1"),
        ]
        assert lines[1][4] == "next: seal_month"
        assert "2026-03" in lines[2][0]
        seal(FEBRUARY)
        assert "next: export_month" in self.run("ledger_months")
        assert "nothing happens by itself" in self.run("ledger_months")

    def test_close_the_days_when_they_are_told_to(self) -> None:
        two_months()
        with pytest.raises(CommandError, match="R136 2026-01-31 is not closed in branch 0001"):
            self.run("seal_month", "2026-01")
        text = self.run("seal_month", "2026-01", "--close-days")
        assert "2026-01 is closed in 0001" in text
        assert "2026-01 is SEALED" in text
        assert "is closed" not in self.run("seal_month", "2026-01", "--close-days")
        with pytest.raises(MonthNotReady, match="may still be posted"):
            seals.close_days(MARCH, now=NOW)

    def test_say_why_not(self, over: None, settings: object) -> None:
        with pytest.raises(CommandError, match="R136"):
            self.run("seal_month", "2026-03")
        with pytest.raises(CommandError, match="R139"):
            self.run("export_month", "2026-03", "--directory", "anywhere")
        with pytest.raises(CommandError, match="invalid month"):
            self.run("seal_month", "2026-13")
        settings.LEDGER_ARCHIVE_DIR = ""  # type: ignore[attr-defined]
        with pytest.raises(CommandError, match="LEDGER_ARCHIVE_DIR is empty"):
            self.run("export_month", "2026-01")


def test_a_posting_of_march_is_not_disturbed_by_what_is_away(january_is_away: Path) -> None:
    post(move(ANA, BOB, 1, dateref=MARCH + timedelta(days=12)), NOW)
    settle_constraints()
    assert prove() == []


class TestOpening:
    def test_says_what_is_not_in_the_table_any_more(self, january_is_away: Path) -> None:
        def rows() -> list[tuple[object, ...]]:
            with connection.cursor() as cursor:
                cursor.execute("SELECT account, dateref, debit, credit, seq FROM ledger_opening ORDER BY account")
                return cursor.fetchall()

        assert rows() == [
            (ANA.account, end_of(JANUARY), money("30.50"), money(100), 7),
            (BOB.account, end_of(JANUARY), money(0), money("13.50"), 7),
            (CLEARING.account, end_of(JANUARY), money(0), money(20), 7),
        ]
        put_away(january_is_away, FEBRUARY)
        assert [(row[0], row[1], row[3], row[4]) for row in rows()] == [
            (ANA.account, end_of(FEBRUARY), money(101), 8),
            (BOB.account, end_of(FEBRUARY), money("20.50"), 8),
            (CLEARING.account, end_of(FEBRUARY), money(20), 8),  # without lines in February
        ]


def test_the_page_of_a_run_says_where_its_lines_are(january_is_away: Path) -> None:
    from types import SimpleNamespace
    from typing import Any

    from apps.backoffice.pages.run_money import money_of

    run: Any = SimpleNamespace(steps=[SimpleNamespace(output={"tracekey": str(TRANSFER), "hold_key": "rent"})])
    found = money_of(run)
    assert [row.state for row in found.lines] == ["POSTED"]  # the hold; holds are not archived
    assert found.says == "its lines are in the ledger's archive"

"""``manage.py ledger_import``: a file of entries is posted once, however often it is run and wherever it broke off."""

import csv
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone

from apps.common.clock import business_date
from apps.ledger import entry_files, imports, suspensions
from apps.ledger import public as ledger
from apps.ledger.entry_files import EntryFile, FileRefused, open_entries
from apps.ledger.management.commands import ledger_import
from apps.ledger.models import Transaction
from tests.integration.ledger.api.test_views import client_with, send
from tests.integration.ledger.conftest import ANA, ANY, BOB, CLEARING, open_todays_bank, posted
from tests.integration.messaging.test_commands import process
from tests.process import database_url

pytestmark = pytest.mark.django_db

HEADER = "tracekey,branch,account,amount,debitcredit,eventcode"
END_S = 150  # limits for a broken build


class Run(NamedTuple):
    """What a call of the command gave."""

    code: int
    out: str
    err: str
    said: str = ""

    @property
    def found(self) -> dict[str, Any]:
        """Its JSON document."""
        document: dict[str, Any] = json.loads(self.out)
        return document

    @property
    def counts(self) -> tuple[int, int, int]:
        return self.found["posted"], self.found["repeated"], self.found["refused"]


def run(path: Path, *words: str) -> Run:
    out, err = StringIO(), StringIO()
    try:
        call_command("ledger_import", str(path), *words, stdout=out, stderr=err)
    except CommandError as error:
        return Run(error.returncode, out.getvalue(), err.getvalue(), str(error))
    except SystemExit as end:
        return Run(int(end.code or 0), out.getvalue(), err.getvalue())
    return Run(0, out.getvalue(), err.getvalue())


def row(account: ledger.AccountRef, side: str, amount: str, tracekey: UUID | str | None = None, more: str = "") -> str:
    key = uuid4() if tracekey is None else tracekey
    return f"{key},{account.branch},{account.account},{amount},{side},{ANY}{more}"


@pytest.fixture
def bank(db: None) -> None:
    open_todays_bank()


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A file of these rows."""

    def file(*rows: str, header: str = HEADER, raw: bytes | None = None) -> Path:
        path = tmp_path / "entries.csv"
        path.write_bytes("\n".join([header, *rows, ""]).encode() if raw is None else raw)
        return path

    return file


@pytest.mark.usefixtures("bank")
class TestImport:
    def test_posts_lines_and_legs_and_posts_nothing_twice(self, make: Make) -> None:
        sale, today = uuid4(), business_date(timezone.now())
        header = "dateref;details;currency;eventcode;debitcredit;amount;account;branch;tracekey;description"
        path = make(
            f';;;{ANY};C;100.00;{ANA.account};0001;{uuid4()};"abertura; saldo ""inicial"" "',
            f'{today};"{{""origem"": ""legado"", ""taxa"": 1.10}}";BRL;{ANY};D;30;{ANA.account};0001;{sale};venda',
            f"{today};;BRL;{ANY};C;20.5;{BOB.account};0001;{str(sale).upper()};venda",
            "",
            f"{today};;BRL;{ANY};C;9.50;CLEARING;0001;{sale.hex};tarifa",
            header=header,
        )
        first = run(path, "--json")
        assert (first.code, first.counts, first.found["entries"], first.found["rows"]) == (0, (2, 0, 0), 2, 4)
        assert (posted(ANA), posted(BOB), posted(CLEARING)) == (70, Decimal("20.50"), Decimal("9.50"))
        opening = Transaction.objects.exclude(tracekey=sale).get()
        assert (opening.description, opening.details, opening.dateref) == ('abertura; saldo "inicial"', None, today)
        debit = Transaction.objects.get(tracekey=sale, debit_credit="D")
        assert (debit.description, debit.details) == ("venda", {"origem": "legado", "taxa": "1.10"})
        second = run(path, "--json")
        assert (second.code, second.counts) == (0, (0, 2, 0))
        assert (posted(ANA), Transaction.objects.count()) == (70, 4)
        assert "2 of 2 entries (4 rows): 0 posted, 2 posted before, 0 refused" in run(path).out

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("rows", [1, 3, 150, 10_000])
    def test_posts_in_batches_of_any_size(self, make: Make, rows: int) -> None:
        one = uuid4()
        legs = [row(CLEARING, "D", "3", one), row(BOB, "C", "1", one), row(BOB, "C", "2", one)]
        path = make(*[row(ANA, "C", "0.01") for _ in range(400)], *legs)
        assert run(path, "--batch", str(rows), "--json").counts == (401, 0, 0)
        assert (posted(ANA), posted(BOB)) == (4, 3)
        assert ledger.check_balances() == []

    def test_takes_what_spreadsheets_write(self, make: Make) -> None:
        """A byte order mark, CRLF, names in capitals, spaces around cells, no line end at the end, cells of two lines."""
        rows = [
            "Tracekey; BRANCH ;account;amount;debitcredit;eventcode;Description",
            f'{uuid4()};0001;{ANA.account}; 1.00 ;C; {ANY} ;"duas\r\nlinhas"',
            f"{uuid4()};0001;{ANA.account};99.00;D;{ANY};nada",
        ]
        path = make(raw=b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
        answer = run(path, "--json")
        assert (answer.code, answer.counts) == (1, (1, 0, 1))
        assert answer.found["refusals"][0]["line"] == 4
        assert Transaction.objects.get().description == "duas\r\nlinhas"

    def test_takes_a_file_without_entries(self, make: Make) -> None:
        assert run(make(), "--json").counts == (0, 0, 0)

    def test_reads_lines_that_lie_across_blocks(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(entry_files, "BLOCK_BYTES", 7)
        path = make(*[row(ANA, "C", "0.10", more=",é€😀") for _ in range(30)], header=HEADER + ",description")
        assert run(path, "--json").counts == (30, 0, 0)
        assert set(Transaction.objects.values_list("description", flat=True)) == {"é€😀"}

    def test_one_entry_by_file_and_over_http_is_a_repeat(self, make: Make) -> None:
        api, today = client_with("ledger:post"), str(business_date(timezone.now()))
        line: dict[str, Any] = {
            "tracekey": str(uuid4()),
            "branch": "0001",
            "account": CLEARING.account,
            "currency": "BRL",
            "amount": "12.3",
            "debitcredit": "D",
            "eventcode": ANY,
            "description": " ajuste ",
            "details": {"b": [1, 2.50, None], "a": {"ç": "\u00e9"}},
            "dateref": today,
        }
        plain = {**{name: line[name] for name in HEADER.split(",")}, "tracekey": str(uuid4()), "amount": 5}
        legs = [{**plain, "debitcredit": side} for side in "DC"]
        for leg in legs:
            del leg["tracekey"]
        compound = {"tracekey": str(uuid4()), "legs": legs}
        names = list(line)
        text = StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerow({**line, "details": json.dumps(line["details"], indent=1)})
        writer.writerow(plain)
        writer.writerows({**leg, "tracekey": compound["tracekey"]} for leg in legs)
        path = make(raw=text.getvalue().encode())
        assert send(api, plain).json()["replayed"] is False
        assert run(path, "--json").counts == (2, 1, 0)
        assert [send(api, body).json()["replayed"] for body in (line, plain, compound)] == [True] * 3
        assert send(api, {**line, "description": "another"}).json()["code"] == "R107"

    def test_tells_what_the_ledger_refuses_and_posts_the_rest(self, make: Make, tmp_path: Path) -> None:
        poor, unknown = uuid4(), uuid4()
        path = make(
            row(ANA, "C", "5"),
            row(BOB, "D", "1", poor),
            row(BOB._replace(account="nobody"), "C", "1", unknown),
            row(ANA, "D", "2"),
        )
        refused = tmp_path / "refused.csv"
        answer = run(path, "--refused", str(refused), "--json")
        assert (answer.code, answer.counts, answer.found["retryable"]) == (1, (2, 0, 2), 1)
        assert answer.found["codes"] == {"R101": 1, "R103": 1}
        found = list(csv.DictReader(StringIO(refused.read_text())))
        assert [(one["line"], one["tracekey"], one["code"]) for one in found] == [
            ("3", str(poor), "R103"),
            ("4", str(unknown), "R101"),
        ]
        assert all(one["reason"] for one in found)
        assert answer.err == ""
        assert posted(ANA) == 3
        shown = run(path)
        assert f"line 3, {poor}: R103" in shown.err
        assert "2 refused" in shown.out
        assert "1 of them may be posted later" in shown.out

    def test_shows_twenty_refusals_and_counts_the_others(self, make: Make) -> None:
        answer = run(make(*[row(BOB, "D", "1") for _ in range(23)]))
        assert answer.err.count("R103") == 20
        assert "and 3 more" in answer.err

    def test_dry_posts_nothing_and_tells_what_would_be(self, make: Make) -> None:
        known = row(ANA, "C", "5")
        assert run(make(known)).code == 0
        answer = run(make(known, row(ANA, "D", "4"), row(ANA, "D", "4"), row(BOB, "C", "1")), "--dry-run", "--json")
        assert (answer.code, answer.counts, answer.found["dry_run"]) == (1, (2, 1, 1), True)
        assert (posted(ANA), posted(BOB), Transaction.objects.count()) == (5, 0, 1)

    def test_breaks_off_where_posting_is_suspended_everywhere(self, make: Make) -> None:
        path = make(*[row(ANA, "C", "1") for _ in range(5)])
        with transaction.atomic():
            view = suspensions.suspend(mode="REFUSE", reason="a look", by="ana", now=timezone.now())
        answer = run(path, "--batch", "2", "--json")
        assert (answer.code, answer.counts, answer.found["outcome"]) == (2, (0, 0, 2), "broke_off")
        assert "R130" in answer.said
        assert "Run it again" in answer.said
        with transaction.atomic():
            suspensions.resume(suspension_id=view.id, by="ana", now=timezone.now())
        assert run(path, "--json").counts == (5, 0, 0)

    def test_tells_how_far_it_is(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ledger_import, "TELL_S", 0.0)
        told = run(make(*[row(ANA, "C", "1") for _ in range(2_000)]), "--batch", "500").err
        assert re.search(r"2,000 rows checked, 100%, [\d,]+ a second", told)
        assert re.search(r"1,000 rows answered, 50%, [\d,]+ a second", told)


GOOD = row(ANA, "C", "1.00", UUID(int=7))


def with_cell(name: str, text: str) -> bytes:
    """A header and one row, whose second line has this cell."""
    cells = {"tracekey": str(UUID(int=8)), "branch": "0001", "account": ANA.account, "amount": "1.00", "debitcredit": "C"}
    cells |= {"eventcode": str(ANY), "currency": "", "description": "", "details": "", "dateref": "", name: text}
    out = StringIO()
    writer = csv.DictWriter(out, list(cells), lineterminator="\n")
    writer.writeheader()
    writer.writerow(cells)
    return out.getvalue().encode()


def whole(*rows: str, header: str = HEADER) -> bytes:
    return "\n".join([header, *rows, ""]).encode()


KEY, OTHER = UUID(int=1), UUID(int=2)
BROKEN = {
    "empty": (b"", "The first line names the columns. missing: tracekey, branch"),
    "no header": (whole(header=GOOD), "missing: tracekey"),
    "unknown column": (whole(GOOD + ",x", header=HEADER + ",datref"), "unknown: datref"),
    "column twice": (whole(GOOD + ",x", header=HEADER + ",amount"), "there twice: amount"),
    "missing column": (whole(GOOD, header=HEADER.replace("amount", "value")), "missing: amount; unknown: value"),
    "UTF-16": (whole(GOOD).decode().encode("utf-16"), "Line 1 is not UTF-8"),
    "Latin-1": (whole(GOOD, GOOD + ",é").decode().encode("latin-1"), "Line 3 is not UTF-8"),
    "NUL": (whole(GOOD, "\x00"), "Line 3 holds a NUL"),
    "a hundred megabytes without a line end": (whole(GOOD) + b"x" * 100_000_000, "Line 3 is longer than 131072 bytes"),
    "a long line": (whole(GOOD, "x" * 140_000, GOOD), "Line 3 is longer"),
    "open quotation": (whole(GOOD, '"' + GOOD, GOOD), "The row in line 3 is not CSV: a quotation mark is not closed"),
    "an open quotation and much behind it": (
        whole('"', *[GOOD] * 4_000),
        "The row in line 2 is not CSV: a cell is too long",
    ),
    "a row without end": (whole(GOOD, '"', *['","'] * 400_000), "The row in line 3 does not end"),
    "text behind a quotation": (whole(GOOD, '"a"b'), "The row in line 3 is not CSV"),
    "old line ends": (whole(GOOD, GOOD + "\r" + GOOD), "line 3 is not CSV: a carriage return"),
    "too many cells": (whole(GOOD, GOOD + ",1"), "line 3: R110 The row has 7 cells, the first line 6"),
    "too few cells": (whole("1,2"), "line 2: R110 The row has 2 cells"),
    "decimal comma in a row of commas": (whole(row(ANA, "C", "1,00")), "line 2: R110 The row has 7 cells"),
    "decimal comma": (with_cell("amount", "1,00"), "line 2, 00000000-0000-0000-0000-000000000008: R110 amount is digits"),
    "thousands": (with_cell("amount", "1.000,00"), "R110 amount"),
    "sign": (with_cell("amount", "-1.00"), "R110 amount"),
    "exponent": (with_cell("amount", "1e1"), "R110 amount"),
    "Arabic digits": (with_cell("amount", "١"), "R110 amount"),
    "three decimals": (with_cell("amount", "1.001"), "R110 amount"),
    "no amount": (with_cell("amount", ""), "R110 amount"),
    "zero": (with_cell("amount", "0.00"), "R110 amount is a decimal above zero"),
    "no tracekey": (with_cell("tracekey", ""), "line 2: R110 tracekey is a UUID"),
    "a tracekey that is none": (with_cell("tracekey", "0x" + "1" * 30), "line 2: R110 tracekey"),
    "side": (with_cell("debitcredit", "c"), "R110 debitcredit is D or C"),
    "event": (with_cell("eventcode", "1.0"), "R110 eventcode"),
    "event zero": (with_cell("eventcode", "0"), "R110 eventcode"),
    "event too large": (with_cell("eventcode", str(2**31)), "R110 eventcode"),
    "branch": (with_cell("branch", ""), "R110 branch is not a valid key"),
    "account": (with_cell("account", "a b"), "R110 account is not a valid key"),
    "currency": (with_cell("currency", "brl"), "R110 currency is not a valid key"),
    "description": (with_cell("description", "x" * 256), "R110 description"),
    "details that are no JSON": (with_cell("details", "{"), "R110 details"),
    "details with a key twice": (with_cell("details", '{"a":1,"a":2}'), "R110 details"),
    "details that are a list": (with_cell("details", "[]"), "R110 details"),
    "details with NUL": (with_cell("details", '{"a":"\\u0000"}'), "R110 details"),
    "large details": (with_cell("details", json.dumps({"a": "x" * 16_400})), "R110 details"),
    "day": (with_cell("dateref", "18/03/2026"), "R110 dateref is a day such as 2026-01-31"),
    "no such day": (with_cell("dateref", "2026-02-30"), "R110 dateref"),
    "day without hyphens": (with_cell("dateref", "20260318"), "R110 dateref"),
    "unbalanced": (whole(GOOD, row(ANA, "D", "2", KEY), row(BOB, "C", "1", KEY)), f"line 3, {KEY}: R111"),
    "many legs": (whole(*[row(ANA, "CD"[n % 2], "1", KEY) for n in range(300)]), "R110 An entry has 1 to 100 legs"),
    "two days": (
        whole(row(ANA, "D", "1", KEY, ",2026-01-01"), row(BOB, "C", "1", KEY, ","), header=HEADER + ",dateref"),
        f"line 3, {KEY}: R110 All rows of an entry have the same dateref",
    ),
    "a tracekey that comes back": (
        whole(row(ANA, "D", "1", KEY), row(BOB, "C", "1", OTHER), row(BOB, "C", "1", KEY)),
        f"line 4, {KEY}: R147 Its tracekey was in line 2",
    ),
}


@pytest.mark.usefixtures("bank")
class TestBadFile:
    @pytest.mark.parametrize("name", BROKEN)
    def test_is_refused_by_line_before_anything_is_posted(self, make: Make, name: str) -> None:
        raw, said = BROKEN[name]
        answer = run(make(raw=raw), "--batch", "1")
        assert answer.code == 2
        assert said in answer.err + answer.said
        assert answer.said.startswith("R147 ")
        assert answer.said.endswith("Nothing was posted.")
        assert answer.out == ""
        assert not Transaction.objects.exists()

    def test_has_all_its_mistakes_told(self, make: Make, tmp_path: Path) -> None:
        path = make(
            *[row(ANA, "C", "x") for _ in range(50)], GOOD, row(ANA, "C", "1", KEY), "1", row(BOB, "C", "1", UUID(int=7))
        )
        refused = tmp_path / "refused.csv"
        answer = run(path, "--refused", str(refused), "--json")
        assert (answer.code, answer.found["outcome"], answer.found["malformed"]) == (2, "malformed", 52)
        assert answer.found["codes"] == {"R110": 51, "R147": 1}
        assert len(answer.found["refusals"]) == 20
        found = list(csv.DictReader(StringIO(refused.read_text())))
        assert [one["line"] for one in found] == [str(line) for line in (*range(2, 52), 54, 55)]
        assert found[0]["field"] == "amount"
        assert not Transaction.objects.exists()

    def test_keys_that_only_look_alike_are_told_apart(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """A hundred tracekeys with one hash, and behind them two that are the same."""
        monkeypatch.setattr(entry_files, "KEYS_AT_ONCE", 1)
        alike = [row(ANA, "C", "1", UUID(int=5 + n * (2**61 - 1))) for n in range(100)]
        assert run(make(*alike), "--json").counts == (100, 0, 0)
        answer = run(make(*alike, row(ANA, "C", "1", KEY), GOOD, row(ANA, "C", "1", KEY)), "--json")
        assert (answer.code, [one["line"] for one in answer.found["refusals"]]) == (2, [104])

    @pytest.mark.parametrize("word", ["0", "10001", "x", "-1", "1_0"])
    def test_is_not_cut_into_batches_of_other_sizes(self, make: Make, word: str) -> None:
        assert "a batch holds 1 to 10,000 rows" in run(make(GOOD), f"--batch={word}").said
        assert not Transaction.objects.exists()

    def test_must_be_one_that_can_be_read_twice(self, make: Make, tmp_path: Path) -> None:
        assert "Standard input cannot be read twice" in run(Path("-")).said
        assert "No such file" in run(tmp_path / "nothing").said
        assert "is not a regular file" in run(tmp_path).said
        os.mkfifo(tmp_path / "pipe")
        assert "is not a regular file" in run(tmp_path / "pipe").said
        assert run(tmp_path / "pipe").code == 2

    def test_is_not_overwritten_and_the_list_must_be_writable(self, make: Make, tmp_path: Path) -> None:
        path = make(GOOD)
        before = path.read_bytes()
        (tmp_path / "link").symlink_to(path)
        for list_file, said in ((path, "overwrite"), (tmp_path / "link", "overwrite"), (tmp_path, "cannot be written")):
            answer = run(path, "--refused", str(list_file))
            assert (answer.code, said in answer.said) == (2, True)
        assert path.read_bytes() == before
        assert not Transaction.objects.exists()


@pytest.mark.usefixtures("bank")
class TestChanged:
    """A file that changes between its two readings."""

    ROWS = tuple(row(ANA, "C", "1.00") for _ in range(200))

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda raw: raw[:-20] + b"9" + raw[-19:], "changed"),
            (lambda raw: raw + GOOD.encode(), "changed"),
            (lambda raw: raw[: len(raw) // 1000 * 1000], "cut off"),
        ],
    )
    def test_is_posted_up_to_the_change_and_no_further(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes], said: str
    ) -> None:
        monkeypatch.setattr(entry_files, "BLOCK_BYTES", 1_000)
        path = make(*self.ROWS)
        real = EntryFile.check

        def check(file: EntryFile, **options: Any) -> Any:
            contents = real(file, **options)
            path.write_bytes(change(path.read_bytes()))
            return contents

        with monkeypatch.context() as patched:
            patched.setattr(EntryFile, "check", check)
            answer = run(path, "--batch", "10", "--json")
        assert (answer.code, answer.found["outcome"], said in answer.said) == (2, "broke_off", True)
        assert 0 < answer.found["posted"] < 200
        assert run(make(*self.ROWS), "--json").counts == (200 - answer.found["posted"], answer.found["posted"], 0)
        assert posted(ANA) == 200

    def test_at_a_blocks_end_is_noticed(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        path = make(*self.ROWS)
        monkeypatch.setattr(entry_files, "BLOCK_BYTES", path.stat().st_size)
        with open_entries(path) as file:
            assert file.check(note=pytest.fail, tell=lambda _: None) == (200, 200)
            path.write_bytes(path.read_bytes() + GOOD.encode())
            with pytest.raises(FileRefused, match="changed"):
                list(file.batches(rows_max=1_000))


@contextmanager
def locked(ref: ledger.AccountRef) -> Iterator[psycopg.Connection]:
    """Somebody else holds this account's row."""
    with psycopg.connect(database_url()) as other:
        other.execute("SELECT FROM ledger_account WHERE branch = %s AND account = %s FOR UPDATE", ref[:2])
        yield other


def sessions(where: str) -> list[int]:
    """Other sessions on this database of which this is true."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND " + where
        )
        return [pid for (pid,) in cursor.fetchall()]


@pytest.mark.django_db(transaction=True)
class TestTriedAgain:
    def test_a_batch_that_waited_too_long_for_a_lock(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        open_todays_bank()
        path = make(
            *[row(ANA, "C", "1") for _ in range(300)], row(BOB, "C", "1"), *[row(ANA, "C", "1") for _ in range(300)]
        )
        with locked(BOB) as other, connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '50ms'")
            pauses = list[float]()

            def sleep(seconds: float) -> None:
                pauses.append(seconds)
                if len(pauses) == 2:
                    other.rollback()

            monkeypatch.setattr(imports, "sleep", sleep)
            answer = run(path, "--batch", "100", "--json")
        assert (answer.code, answer.counts, answer.found["tries_again"]) == (0, (601, 0, 0), 2)
        assert pauses == [0.1, 0.5]
        assert (posted(ANA), posted(BOB)) == (600, 1)

    def test_but_not_for_ever(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        open_todays_bank()
        monkeypatch.setattr(imports, "sleep", lambda _: None)
        path = make(*[row(ANA, "C", "1") for _ in range(300)], row(BOB, "C", "1"))
        with locked(BOB), connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '50ms'")
            answer = run(path, "--batch", "100", "--json")
        assert (answer.code, answer.counts, answer.found["outcome"]) == (2, (300, 0, 0), "broke_off")
        assert "lock timeout" in answer.said
        assert "posted twice" in answer.said
        assert run(path, "--json").counts == (1, 300, 0)


@pytest.mark.django_db(transaction=True)
class TestInterrupted:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_by_either_signal_says_how_to_go_on(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
    ) -> None:
        open_todays_bank()
        path = make(*[row(ANA, "C", "1") for _ in range(300)])
        before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
        told = ledger_import._Import._after_batch

        def tell(work: ledger_import._Import, tally: imports.Tally) -> None:
            told(work, tally)
            signal.raise_signal(number)

        monkeypatch.setattr(ledger_import._Import, "_after_batch", tell)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests' own process may ignore it
        try:
            answer = run(path, "--batch", "100", "--json")
        finally:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
        monkeypatch.undo()
        assert (answer.code, answer.counts, answer.found["error"]) == (2, (100, 0, 0), "Interrupted.")
        assert "Run it again with the same file" in answer.said
        assert {each: signal.getsignal(each) for each in before} == before
        # The batch behind it was made ready, and not sent.
        assert run(path, "--json").counts == (200, 100, 0)
        assert ledger.check_balances() == []


@pytest.mark.process
@pytest.mark.django_db(transaction=True)
class TestProcess:
    """A real process, held in the middle of its file by an account that somebody else has locked."""

    BEFORE, AFTER, BATCH = 12_000, 8_000, 500

    @pytest.fixture
    def path(self, make: Make) -> Path:
        open_todays_bank()
        transfers = [
            text
            for key in (uuid4() for _ in range(100))
            for text in (row(CLEARING, "D", "3", key), row(ANA, "C", "3", key))
        ]
        credits = [row(ANA, "C", "0.01") for _ in range(self.BEFORE - len(transfers))]
        return make(*transfers, *credits, row(BOB, "C", "7"), *[row(CLEARING, "C", "0.01") for _ in range(self.AFTER - 1)])

    @contextmanager
    def held(self, path: Path) -> Iterator[tuple["subprocess.Popen[str]", psycopg.Connection]]:
        """Everything before the locked account is committed, and the batch that needs it waits."""
        words = ["ledger_import", str(path), "--batch", str(self.BATCH), "--json"]
        with locked(BOB) as other, process(*words, DATABASE_LOCK_TIMEOUT_MS="200000") as running:
            self.until(lambda: sessions("wait_event_type = 'Lock'") or running.poll() is not None)
            assert running.poll() is None, running.communicate()[0]
            assert Transaction.objects.count() == self.BEFORE
            yield running, other

    def until(self, question: Callable[[], object]) -> None:
        end = time.monotonic() + END_S
        while not question():
            assert time.monotonic() < end
            threading.Event().wait(0.02)

    def all_is_posted_once(self, path: Path) -> None:
        entries = self.BEFORE - 100 + self.AFTER
        rest = run(path, "--json")
        assert (rest.code, rest.counts) == (0, (self.AFTER, entries - self.AFTER, 0))
        assert run(path, "--json").counts == (0, entries, 0)
        assert Transaction.objects.count() == self.BEFORE + self.AFTER
        assert (posted(ANA), posted(BOB), posted(CLEARING)) == (
            300 + Decimal("0.01") * (self.BEFORE - 200),
            7,
            Decimal("0.01") * (self.AFTER - 1) - 300,
        )
        assert ledger.check_balances() == []

    def test_killed_in_the_middle_leaves_whole_batches_and_the_next_run_posts_the_rest(self, path: Path) -> None:
        with self.held(path) as (running, _):
            running.kill()
            assert running.wait(END_S) == -signal.SIGKILL
        self.until(lambda: not sessions("backend_type = 'client backend'"))
        self.all_is_posted_once(path)

    def test_interrupted_says_how_to_go_on(self, path: Path) -> None:
        with self.held(path) as (running, _):
            running.send_signal(signal.SIGINT)
            said = running.communicate(timeout=END_S)[0]
        assert running.returncode == 2
        assert '"outcome": "broke_off"' in said
        assert "Run it again with the same file: what is posted is not posted twice." in said
        assert "Traceback" not in said
        self.until(lambda: not sessions("backend_type = 'client backend'"))
        self.all_is_posted_once(path)

    def test_goes_on_by_itself_when_its_connection_is_cut(self, path: Path) -> None:
        with self.held(path) as (running, other):
            (pid,) = sessions("wait_event_type = 'Lock'")
            other.execute("SELECT pg_terminate_backend(%s)", [pid])
            other.rollback()
            said = running.communicate(timeout=END_S)[0]
        assert running.returncode == 0, said
        found = json.loads(said[said.index("{\n") :])
        assert (found["posted"], found["tries_again"]) == (self.BEFORE - 100 + self.AFTER, 1)
        assert ledger.check_balances() == []

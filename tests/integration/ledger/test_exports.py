"""Statements as files: what they hold, that they are of one moment, and that finance programs may read them."""

import csv
import io
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from lxml import etree

from apps.common.errors import InvalidRequest, NotFound
from apps.ledger import exports
from apps.ledger import public as ledger
from apps.ledger.public import AccountRef
from tests.integration.ledger.conftest import ANA, NOW, TODAY, fund, line, post

pytestmark = pytest.mark.usefixtures("bank")

WEEK_AGO = TODAY - timedelta(days=7)


def export(kind: str, account: AccountRef = ANA, *, date_from: date = WEEK_AGO, date_to: date = TODAY) -> ledger.Export:
    return ledger.export_statement(account, date_from=date_from, date_to=date_to, format=kind, now=NOW)


def text(kind: str, account: AccountRef = ANA, **period: date) -> str:
    return "".join(export(kind, account, **period).parts)


def table(content: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content, newline=""), strict=True))


class TestCsv:
    def test_has_every_line_with_its_running_balance(self) -> None:
        (written,) = fund(ANA, 100, dateref=TODAY - timedelta(days=2), description='Pix de "José", \r\n obrigado').lines
        entry = line(ANA, "D", "0.01")
        post(entry)
        first, second = table(text("csv"))
        assert first == {
            "id": str(written.id),
            "dateref": str(TODAY - timedelta(days=2)),
            "debitcredit": "C",
            "amount": "100.00",
            "eventcode": "1",
            "description": 'Pix de "José", \r\n obrigado',
            "tracekey": first["tracekey"],
            "createdat": NOW.isoformat(),
            "running": "100.00",
        }
        assert (second["tracekey"], second["amount"], second["running"]) == (str(entry.tracekey), "0.01", "99.99")

    def test_ends_its_lines_as_rfc_4180_says_and_begins_with_its_columns(self) -> None:
        fund(ANA, 1)
        content = text("csv")
        assert content.startswith("id,dateref,debitcredit,amount,eventcode,description,tracekey,createdat,running\r\n")
        assert content.endswith("\r\n")
        assert content.count("\r\n") == content.count("\n") == 2

    @pytest.mark.parametrize(
        ("description", "shown"),
        [
            ("=1+1", "'=1+1"),
            ("+55 11", "'+55 11"),
            ("-10%", "'-10%"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("  =cmd|'/c calc'!A0", "'  =cmd|'/c calc'!A0"),
            ("x;=HYPERLINK(1)", "x;'=HYPERLINK(1)"),
            ("x\t=1", "x\t'=1"),
            ("a\r\n=1", "a\r\n'=1"),
            ("＝1", "'＝1"),
            ("2 - 1 = 1", "2 - 1 = 1"),
            ("R$ 10,00 em 1/2", "R$ 10,00 em 1/2"),
        ],
    )
    def test_has_nothing_that_a_spreadsheet_calculates(self, description: str, shown: str) -> None:
        fund(ANA, 1, description=description)
        assert table(text("csv"))[0]["description"] == shown

    def test_of_a_quiet_period_is_its_header(self) -> None:
        assert table(text("csv")) == []


def ofx(account: AccountRef = ANA, **period: date) -> etree._Element:
    return etree.fromstring(text("ofx", account, **period).encode())


TIME = re.compile(r"[0-9]{14}\[-3:BRT\]")
# The order of elements is part of the format (OFX 2.1.1, 11.4): a program may read it as a sequence.
ORDER = {
    "OFX": ["SIGNONMSGSRSV1", "BANKMSGSRSV1"],
    "SONRS": ["STATUS", "DTSERVER", "LANGUAGE", "FI"],
    "STMTTRNRS": ["TRNUID", "STATUS", "STMTRS"],
    "STMTRS": ["CURDEF", "BANKACCTFROM", "BANKTRANLIST", "LEDGERBAL"],
    "BANKACCTFROM": ["BANKID", "BRANCHID", "ACCTID", "ACCTTYPE"],
    "STMTTRN": ["TRNTYPE", "DTPOSTED", "TRNAMT", "FITID", "REFNUM", "MEMO"],
    "LEDGERBAL": ["BALAMT", "DTASOF"],
}
LENGTHS = {"BANKID": 9, "BRANCHID": 22, "ACCTID": 22, "FITID": 255, "REFNUM": 32, "MEMO": 255, "TRNAMT": 32, "ORG": 32}


class TestOfx:
    def test_follows_the_rules_of_the_format(self) -> None:
        fund(ANA, 100, description="x" * 255)
        post(line(ANA, "D", 30))
        content = text("ofx")
        assert content.startswith(
            '<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n<?OFX OFXHEADER="200" VERSION="211" '
        )
        root = etree.fromstring(content.encode())
        for element in root.iter():
            assert not element.attrib
            if element.tag in ORDER:
                assert [child.tag for child in element] == ORDER[element.tag]
            if element.tag in LENGTHS:
                assert 0 < len(element.text) <= LENGTHS[element.tag]
            if element.tag.startswith("DT"):
                assert TIME.fullmatch(element.text), element.tag
        assert [child.tag for child in root.find(".//BANKTRANLIST")] == ["DTSTART", "DTEND", "STMTTRN", "STMTTRN"]

    def test_has_the_lines_and_the_balance(self) -> None:
        (written,) = fund(ANA, 100, dateref=TODAY - timedelta(days=1), description="Pix & <cia>").lines
        post(line(ANA, "D", 30))
        root = ofx()
        found = [{child.tag: child.text for child in each} for each in root.iter("STMTTRN")]
        assert (found[0]["FITID"], found[0]["MEMO"]) == (str(written.id), "Pix & <cia>")
        assert [(each["TRNTYPE"], each["TRNAMT"], each["DTPOSTED"], each["MEMO"]) for each in found] == [
            ("CREDIT", "100.00", "20260317120000[-3:BRT]", "Pix & <cia>"),
            ("DEBIT", "-30.00", "20260318120000[-3:BRT]", "Event 1"),
        ]
        assert root.findtext(".//BALAMT") == "70.00"
        assert root.findtext(".//DTASOF") == "20260318120000[-3:BRT]"  # now, in São Paulo
        assert ofx(date_to=TODAY - timedelta(days=1)).findtext(".//DTASOF") == "20260317235959[-3:BRT]"
        assert [each.text for each in root.iter("FITID")] == [each.text for each in ofx().iter("FITID")]

    def test_can_hold_any_description(self) -> None:
        fund(ANA, 1, description="a\x01\x1b[2J\ufffe b\r\n]]> é \U0001f600")
        assert ofx().findtext(".//MEMO") == "a [2J b ]]> é \U0001f600"

    def test_gives_a_long_account_a_short_key_that_is_always_the_same(self) -> None:
        long = AccountRef("0001", "019cffff-ffff-7fff-bfff-ffffffffffff")
        with transaction.atomic():
            ledger.open_account(branch=long.branch, account=long.account, now=NOW)
        keys = {ofx(long).findtext(".//ACCTID") for _ in range(2)}
        assert [len(key) for key in keys] == [22]
        assert ofx(ANA).findtext(".//ACCTID") == ANA.account

    def test_of_a_quiet_period_has_a_balance(self) -> None:
        fund(ANA, 5, dateref=WEEK_AGO)
        root = ofx(date_from=TODAY)
        assert root.findall(".//STMTTRN") == []
        assert root.findtext(".//BALAMT") == "5.00"


class TestText:
    def test_opens_and_closes_and_cannot_move_the_cursor(self) -> None:
        fund(ANA, 100, dateref=WEEK_AGO)
        post(line(ANA, "D", 1000 / Decimal(100), description="\x1b[2Jrent"))
        shown = text("text", date_from=TODAY).splitlines()
        assert [row.split() for row in shown[3:]] == [
            ["100.00", "Opening", "balance"],
            [str(TODAY), "10.00", "90.00", "1", "[2Jrent"],
            ["90.00", "Closing", "balance"],
        ]


class TestOneMoment:
    def test_is_kept_though_others_post_while_the_pages_are_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exports, "PAGE_LINES", 2)
        for back in (5, 3, 1, 1, 0):
            fund(ANA, 10, dateref=TODAY - timedelta(days=back))
        file = export("csv")
        parts = []
        for part in file.parts:
            parts.append(part)
            fund(ANA, 1, dateref=TODAY - timedelta(days=6))
            fund(ANA, 2)
        assert len(parts) == 4
        assert [row["running"] for row in table("".join(parts))] == ["10.00", "20.00", "30.00", "40.00", "50.00"]

    def test_holds_a_page_and_no_more_in_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exports, "PAGE_LINES", 3)
        for _ in range(10):
            fund(ANA, 1)
        rows = [part.count("\r\n") for part in export("csv").parts]
        assert rows == [1, 3, 3, 3, 1]

    def test_breaks_off_when_the_lines_do_not_add_up(self) -> None:
        fund(ANA, 1)
        file = export("csv")
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica; DELETE FROM ledger_transaction")
        with pytest.raises(RuntimeError):
            list(file.parts)
        with pytest.raises(RuntimeError):
            export("csv")


class TestRefusals:
    def test_too_many_lines_are_refused_before_the_first_byte(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exports, "EXPORT_LINES_MAX", 2)
        for _ in range(2):
            fund(ANA, 1)
        assert export("csv").line_count == 2
        fund(ANA, 1)
        with pytest.raises(ledger.TooMuchToRead):
            export("csv")

    def test_an_unknown_account_and_a_wrong_period(self) -> None:
        with pytest.raises(NotFound):
            export("csv", AccountRef("0001", "nobody"))
        with pytest.raises(InvalidRequest):
            export("csv", date_from=TODAY, date_to=WEEK_AGO)


class TestCommand:
    def call(self, *words: str) -> str:
        out = io.StringIO()
        call_command("ledger_statement", "0001", ANA.account, *words, stdout=out)
        return out.getvalue()

    def test_prints_any_of_them(self) -> None:
        fund(ANA, 7)
        period = ("--from", str(TODAY), "--to", str(TODAY))
        assert "Closing balance" in self.call(*period)
        assert table(self.call(*period, "--format", "csv"))[0]["amount"] == "7.00"
        assert etree.fromstring(self.call(*period, "--format", "ofx").encode()).findtext(".//BALAMT") == "7.00"

    def test_writes_a_file_byte_for_byte(self, tmp_path: Path) -> None:
        fund(ANA, 7, description="é")
        said = self.call("--from", str(TODAY), "--to", str(TODAY), "--format", "csv", "--output", str(tmp_path))
        (path,) = tmp_path.iterdir()
        assert path.name == f"statement-0001-{ANA.account}-BRL-{TODAY}-{TODAY}.csv"
        assert path.read_bytes().decode() == text("csv", date_from=TODAY)
        assert said == f"{path}: 1 lines\n"

    def test_says_why_not(self) -> None:
        with pytest.raises(CommandError, match="R004"):
            call_command("ledger_statement", "0001", "nobody", stdout=io.StringIO())
        with pytest.raises(CommandError, match="not a date"):
            self.call("--from", "yesterday")
        with pytest.raises(CommandError, match=r"/nowhere/statement-.* cannot be written: No such file or directory\."):
            self.call("--output", "/nowhere")


class TestZone:
    def test_of_a_day_is_that_days(self) -> None:
        from apps.ledger.formats import _ofx_time

        assert _ofx_time(datetime(2018, 12, 1, 12, tzinfo=UTC)) == "20181201100000[-2:BRST]"

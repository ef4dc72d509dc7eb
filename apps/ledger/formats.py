"""How a statement is written into a file. Pure: lines in, text out, a page at a time."""

import base64
import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import NamedTuple
from xml.sax.saxutils import escape

from django.conf import settings

from apps.common.clock import BUSINESS_ZONE, business_date
from apps.ledger.queries import StatementLine
from apps.ledger.rules import AccountRef


@dataclass(frozen=True, slots=True)
class Head:
    """What a statement says beside its lines."""

    account: AccountRef
    date_from: date
    date_to: date
    opening: Decimal
    closing: Decimal
    made_at: datetime


Pages = Iterable[list[StatementLine]]


class Format(NamedTuple):
    """A kind of file."""

    extension: str
    media_type: str
    write: Callable[[Head, Pages], Iterator[str]]


# --- CSV (RFC 4180): comma, CRLF, quotes only where they are needed; UTF-8; a point before the cents ---

CSV_COLUMNS = (
    "id",
    "dateref",
    "debitcredit",
    "amount",
    "eventcode",
    "description",
    "tracekey",
    "createdat",
    "running",
)
# A spreadsheet calculates what begins with one of these, and a text comes from strangers. Not only at the beginning: a
# Brazilian one splits at semicolons, and what was quoted for commas it reads without the quotes before the formula.
_FORMULA = re.compile(r"(^|[;\t\r\n])((?:[^\S\t\r\n]|\")*[=+\-@＝＋－＠])")


def harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula: an apostrophe stands before what could be one."""
    return _FORMULA.sub(r"\1'\2", text)


def write_csv(_head: Head, pages: Pages) -> Iterator[str]:
    """A header, then a line each: ``amount`` is never negative, D takes from the balance; ``running`` is after the line."""
    yield ",".join(CSV_COLUMNS) + "\r\n"
    for page in pages:
        buffer = io.StringIO()
        rows = csv.writer(buffer)
        for line in page:
            rows.writerow(
                (
                    line.id,
                    line.dateref.isoformat(),
                    line.debitcredit,
                    line.amount,
                    line.eventcode,
                    harmless(line.description),
                    line.tracekey,
                    line.created_at.isoformat(),
                    line.running,
                )
            )
        yield buffer.getvalue()


# --- OFX 2.1.1 (XML), as finance programs import it: one bank account, its lines, its ledger balance ---

_OFX_KEY_MAX = 22  # of BRANCHID and ACCTID
_OFX_NAME_MAX = 32
# What XML 1.0 cannot hold at all, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _ofx_time(moment: datetime) -> str:
    """20260318120000[-3:BRT]: São Paulo's time, and what it is to UTC."""
    local = moment.astimezone(BUSINESS_ZONE)
    offset = local.utcoffset()
    hours = 0 if offset is None else round(offset.total_seconds() / 3600)  # until 1914 it was -3:06:28
    # Years before 1000 are written without zeros by strftime, on some systems.
    return f"{local.year:04}{local:%m%d%H%M%S}[{hours}:{'BRT' if hours == -3 else 'BRST'}]"


def _ofx_day(day: date, hour: time = time(12)) -> str:
    """A day as a time. Noon, so that a program that ignores zones finds the same day."""
    return _ofx_time(datetime.combine(day, hour, BUSINESS_ZONE))


def _ofx_key(key: str) -> str:
    """An account's key has up to 40 characters, OFX up to 22: what is longer gets a short one that is always the same."""
    if len(key) <= _OFX_KEY_MAX:
        return key
    return base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest()[:16]).decode().rstrip("=")


def _ofx_text(text: str) -> str:
    return escape(" ".join(_NOT_XML.sub(" ", text).split()))


def write_ofx(head: Head, pages: Pages) -> Iterator[str]:
    """A bank statement. FITID is the line's id, so a program that imports a line twice recognises it."""
    yield _ofx_head(head)
    for page in pages:
        yield "".join(map(_ofx_line, page))
    is_over = head.date_to < business_date(head.made_at)
    as_of = _ofx_day(head.date_to, time(23, 59, 59)) if is_over else _ofx_time(head.made_at)
    yield (
        f"</BANKTRANLIST>\n<LEDGERBAL><BALAMT>{head.closing}</BALAMT><DTASOF>{as_of}</DTASOF></LEDGERBAL>\n"
        "</STMTRS></STMTTRNRS></BANKMSGSRSV1>\n</OFX>\n"
    )


def _ofx_head(head: Head) -> str:
    branch, account, currency = head.account
    status = "<STATUS><CODE>0</CODE><SEVERITY>INFO</SEVERITY></STATUS>"
    return (
        '<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n'
        '<?OFX OFXHEADER="200" VERSION="211" SECURITY="NONE" OLDFILEUID="NONE" NEWFILEUID="NONE"?>\n'
        f"<OFX>\n<SIGNONMSGSRSV1><SONRS>{status}<DTSERVER>{_ofx_time(head.made_at)}</DTSERVER><LANGUAGE>POR</LANGUAGE>"
        f"<FI><ORG>{settings.LEDGER_BANK_ID}</ORG><FID>{settings.LEDGER_BANK_ID}</FID></FI></SONRS></SIGNONMSGSRSV1>\n"
        f"<BANKMSGSRSV1><STMTTRNRS><TRNUID>0</TRNUID>{status}<STMTRS><CURDEF>{currency}</CURDEF>\n"
        f"<BANKACCTFROM><BANKID>{settings.LEDGER_BANK_ID}</BANKID><BRANCHID>{branch}</BRANCHID>"
        f"<ACCTID>{_ofx_key(account)}</ACCTID><ACCTTYPE>CHECKING</ACCTTYPE></BANKACCTFROM>\n"
        f"<BANKTRANLIST><DTSTART>{_ofx_day(head.date_from, time(0))}</DTSTART>"
        f"<DTEND>{_ofx_day(head.date_to, time(23, 59, 59))}</DTEND>\n"
    )


def _ofx_line(line: StatementLine) -> str:
    is_debit = line.debitcredit == "D"
    memo = _ofx_text(line.description) or f"Event {line.eventcode}"
    return (
        f"<STMTTRN><TRNTYPE>{'DEBIT' if is_debit else 'CREDIT'}</TRNTYPE><DTPOSTED>{_ofx_day(line.dateref)}</DTPOSTED>"
        f"<TRNAMT>{'-' if is_debit else ''}{line.amount}</TRNAMT><FITID>{line.id}</FITID>"
        f"<REFNUM>{line.tracekey.hex}</REFNUM><MEMO>{memo}</MEMO></STMTTRN>\n"
    )


# --- Plain text, for a terminal ---


def write_text(head: Head, pages: Pages) -> Iterator[str]:
    """Columns of a fixed width, with the opening and the closing balance."""
    name = "/".join(head.account)
    yield f"Account {name}, {head.date_from} to {head.date_to}\n\n"
    yield f"{'Day':<12}{'Debit':>18}{'Credit':>18}{'Balance':>20}  {'Event':>6}  Description\n"
    yield f"{'':<48}{head.opening:>20,.2f}  {'':>6}  Opening balance\n"
    for page in pages:
        yield "".join(map(_text_line, page))
    yield f"{'':<48}{head.closing:>20,.2f}  {'':>6}  Closing balance\n"


def _text_line(line: StatementLine) -> str:
    amount = f"{line.amount:,.2f}"
    debit, credit = (amount, "") if line.debitcredit == "D" else ("", amount)
    # A stranger's text could hold what moves a terminal's cursor.
    description = "".join(character if character.isprintable() else " " for character in line.description)
    return f"{line.dateref!s:<12}{debit:>18}{credit:>18}{line.running:>20,.2f}  {line.eventcode:>6}  {description}\n"


FORMATS = {
    "csv": Format("csv", "text/csv", write_csv),
    "ofx": Format("ofx", "application/x-ofx", write_ofx),
    "text": Format("txt", "text/plain", write_text),
}

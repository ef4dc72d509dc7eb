"""A whole statement as a file: CSV, OFX or plain text, page by page, and yet of one moment.

Note [One moment, many pages]
    A file may take longer than any transaction should, so each page is a statement of its own, and meanwhile others post.
    What the file tells is fixed by the first statement: opening, closing, and the last sequence number of the period. A
    line gets its number behind its account's lock, so every line with a lower number was there already, and every later
    one has a higher one. Lines never change. So the pages, cut off at that number, are what the first statement saw.
    Running balances are added up here, and the last one has to be the closing balance; otherwise the file breaks off.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from django.db import DEFAULT_DB_ALIAS, DatabaseError, InterfaceError

from apps.ledger import formats, months_behind, reading, replica
from apps.ledger.queries import StatementLine, check_key, check_period, no_account
from apps.ledger.reading import TooMuchToRead
from apps.ledger.rules import AccountRef

# Some 60 MB of CSV. Whoever needs more asks for months one by one.
EXPORT_LINES_MAX = 500_000
PAGE_LINES = 2_000  # about 1 MB in memory; each page is one index range scan


@dataclass(frozen=True, slots=True)
class Export:
    """A file to send: its name, its media type, and its text in parts, which may be read once."""

    name: str
    media_type: str
    line_count: int
    parts: Iterator[str]


_KEY = "branch = %(branch)s AND account = %(account)s AND currency = %(currency)s"
_LAST_DAY = f"""
    SELECT accumulatedcredit - accumulateddebit FROM ledger_balance
    WHERE {_KEY} AND dateref {{until}} ORDER BY dateref DESC LIMIT 1"""  # noqa: S608 - a constant
_HEAD = f"""
SELECT coalesce(({_LAST_DAY.format(until="< %(from)s")}), 0.00), coalesce(({_LAST_DAY.format(until="<= %(to)s")}), 0.00),
    line.count, line.last_seq, line.net
FROM ledger_account a CROSS JOIN (
    SELECT count(*) AS count, coalesce(max(seq), 0) AS last_seq,
        coalesce(sum(CASE debitcredit WHEN 'C' THEN amount ELSE -amount END), 0.00) AS net
    FROM (
        SELECT seq, debitcredit, amount FROM ledger_transaction
        WHERE {_KEY} AND dateref BETWEEN %(from)s AND %(to)s LIMIT %(lines_max)s
    ) found
) line
WHERE {_KEY.replace("branch =", "a.branch =").replace("account =", "a.account =").replace("currency =", "a.currency =")}
"""  # noqa: S608 - a constant
_PAGE = f"""
SELECT seq, id, dateref, debitcredit, amount, eventcode, description, tracekey, createdat
FROM ledger_transaction
WHERE {_KEY} AND dateref BETWEEN %(from)s AND %(to)s AND seq <= %(last_seq)s
    AND (dateref, seq) > (%(after_date)s, %(after_seq)s)
ORDER BY dateref, seq LIMIT %(limit)s
"""  # noqa: S608 - a constant


def export_statement(
    account: AccountRef,
    *,
    date_from: date,
    date_to: date,
    format: str,
    now: datetime,
    describe: Callable[[str], str] = str,
) -> Export:
    """A statement as a file: csv, ofx or text. What it tells is fixed now; its parts are read when they are taken.

    ``describe``: what is told of a description, to whom not all of it may be. Raises NotFound, InvalidRequest for a period
    that ends before it begins, MonthArchived when some of its lines are in the archive, and TooMuchToRead above
    EXPORT_LINES_MAX lines.
    """
    check_period(date_from, date_to)
    check_key(account)
    scope = {**account._asdict(), "from": date_from, "to": date_to}
    found = reading.fetch_limited(_HEAD, {**scope, "lines_max": EXPORT_LINES_MAX + 1})
    if not found:
        raise no_account()
    opening, closing, line_count, last_seq, net = found[0]
    if line_count > EXPORT_LINES_MAX:
        raise TooMuchToRead(f"The period has more than {EXPORT_LINES_MAX} lines: ask for a shorter one.", field="from")
    if opening + net != closing:
        months_behind.check_period(account, date_from=date_from, date_to=date_to)
        raise RuntimeError(f"Lines of {account} do not add up to its days, and none of the period are archived.")
    head = formats.Head(account, date_from, date_to, opening, closing, made_at=now)
    kind = formats.FORMATS[format]
    fetch_page = _page_reader({**scope, "last_seq": last_seq, "limit": PAGE_LINES, "after_date": date_from, "after_seq": 0})
    parts = kind.write(head, _lines(fetch_page, describe, opening=opening, closing=closing))
    name = f"statement-{'-'.join(account)}-{date_from}-{date_to}.{kind.extension}"
    return Export(name, kind.media_type, line_count, parts)


Read = Callable[[date | None, int], list[tuple[Any, ...]]]


def _page_reader(values: dict[str, Any]) -> Read:
    """Reads pages where the first statement was read, whoever takes them later."""
    source = reading.alias()

    def read(after_date: date | None, after_seq: int) -> list[tuple[Any, ...]]:
        nonlocal source
        after: dict[str, Any] = {} if after_date is None else {"after_date": after_date, "after_seq": after_seq}
        try:
            with reading.reading_from(source):
                return reading.fetch(_PAGE, {**values, **after})
        except (DatabaseError, InterfaceError) as error:
            if source == DEFAULT_DB_ALIAS:
                raise
            replica.leave(error)
            source = DEFAULT_DB_ALIAS  # which has every line that a replica had
        return read(after_date, after_seq)

    return read


def _lines(
    read: Read, describe: Callable[[str], str], *, opening: Decimal, closing: Decimal
) -> Iterator[list[StatementLine]]:
    running, after_seq = opening, 0
    after_date: date | None = None
    while page := read(after_date, after_seq):
        made = []
        for _, line_id, dateref, side, amount, code, text, key, moment in page:
            running += amount if side == "C" else -amount
            made.append(StatementLine(line_id, dateref, side, amount, code, describe(text), key, moment, running))
        yield made
        after_seq, after_date = page[-1][0], page[-1][2]
    if running != closing:
        raise RuntimeError(f"The exported lines end at {running}, the account's days at {closing}.")

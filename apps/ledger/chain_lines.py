"""A line as bytes, exact and the same from the table and from a file, and what is told of many lines.

Note [Bytes of a line]
    A line is a JSON array without spaces, in ASCII (other characters as \\uXXXX), ended by a line feed. Its members, in
    the order of COLUMNS: whole numbers and flags as themselves; ids, keys and descriptions as texts; amounts as texts with
    two places; dateref as YYYY-MM-DD; createdat in microseconds since 1970-01-01 UTC; details as the text of the jsonb, or
    null. The hash of lines is the SHA-256 of their bytes in the order of seq.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from apps.ledger.rules import DEBIT, ZERO

COLUMNS = (
    "seq",
    "id",
    "branch",
    "account",
    "currency",
    "amount",
    "debitcredit",
    "eventcode",
    "description",
    "tracekey",
    "details",
    "dateref",
    "createdat",
    "balanced",
    "deferred",
    "balanceafter",
    "pendingafter",
    "dayafter",
    "daynet",
)
SEQ, AMOUNT, SIDE, DATEREF = (COLUMNS.index(name) for name in ("seq", "amount", "debitcredit", "dateref"))
# What PostgreSQL says of a column where its own value would not be JSON's.
_AS = {
    "createdat": "(extract(epoch FROM createdat) * 1000000)::bigint",
    **{
        name: f"{name}::text"
        for name in (
            "id",
            "amount",
            "tracekey",
            "details",
            "dateref",
            "balanceafter",
            "pendingafter",
            "dayafter",
            "daynet",
        )
    },
}
SELECTED = ", ".join(_AS.get(name, name) for name in COLUMNS)

Line = Sequence[Any]  # the members of COLUMNS, as the note says

encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


class Sum(NamedTuple):
    """What a part or a month is known by."""

    lines: int
    debits: Decimal
    credits: Decimal
    hash: bytes


@dataclass(slots=True)
class Tally:
    """Lines counted, added up and hashed, one batch after the other in the order of seq."""

    lines: int = 0
    debits: Decimal = ZERO
    credits: Decimal = ZERO
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, lines: Sequence[Line]) -> None:
        """Take more lines."""
        self.lines += len(lines)
        self.debits += sum((Decimal(line[AMOUNT]) for line in lines if line[SIDE] == DEBIT), ZERO)
        self.credits += sum((Decimal(line[AMOUNT]) for line in lines if line[SIDE] != DEBIT), ZERO)
        self.digest.update("".join(encode(list(line)) + "\n" for line in lines).encode())

    def sum(self) -> Sum:
        """What was taken so far."""
        return Sum(self.lines, self.debits, self.credits, self.digest.digest())


def by_month(lines: Iterable[Line]) -> dict[date, list[Line]]:
    """Lines in the order they came, by the month of their dateref."""
    found: dict[date, list[Line]] = {}
    for line in lines:
        year, month, _ = line[DATEREF].split("-")
        found.setdefault(date(int(year), int(month), 1), []).append(line)
    return found


def sums_of(lines: Iterable[Line]) -> dict[date, Sum]:
    """The sum of each month's lines."""
    sums = {}
    for month, own in sorted(by_month(lines).items()):
        tally = Tally()
        tally.add(own)
        sums[month] = tally.sum()
    return sums


def block_hash(
    *, number: int, seq_from: int, seq_to: int, lines: int, previous: bytes, created_us: int, parts: Mapping[date, Sum]
) -> bytes:
    """SHA-256 of a block: a JSON array of its name, version, numbers, the hash before, its time, and its parts by month."""
    members = [
        [f"{month:%Y-%m}", part.lines, str(part.debits), str(part.credits), part.hash.hex()]
        for month, part in sorted(parts.items())
    ]
    document = ["lastro.ledger.block", 1, number, seq_from, seq_to, lines, previous.hex(), created_us, members]
    return hashlib.sha256(encode(document).encode()).digest()


def after(month: date) -> date:
    """The first day of the next month."""
    return (month + timedelta(days=31)).replace(day=1)

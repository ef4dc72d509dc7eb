"""Lines of a plain batch: as rows of COPY, and as answers. See Note [Plain lines] in ``plain.py``."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

import numpy as np

from apps.common import pg_binary
from apps.common.clock import uuid7_run
from apps.common.meanwhile import in_steps
from apps.common.pg_binary import Column, Layout
from apps.ledger.commands import Command
from apps.ledger.plain import CENT, Added, Folded, Gathered
from apps.ledger.rules import Balances, PostedLine, PostResult

_AT_ONCE = 1_000  # lines that are made, then sent: the server has work while the next are made
_ENDS_AT_ONCE = 500
_ANSWERED_AT_ONCE = 100
_tuple = tuple.__new__  # a named tuple without the detour over its own constructor

_LINE = Layout(
    {
        "id": pg_binary.UUID,
        "tracekey": pg_binary.UUID,
        "amount": pg_binary.NUMERIC,
        "debitcredit": "S1",
        "eventcode": ">i4",
        "dateref": ">i4",
        "balanced": "?",
        "balanceafter": pg_binary.NUMERIC,
        "pendingafter": pg_binary.NUMERIC,
        "dayafter": pg_binary.NUMERIC,
        "daynet": pg_binary.NUMERIC,
        "deferred": "?",
        "createdat": ">i8",
    },
    others=5,
)
COPY = (
    f"COPY ledger_transaction ({', '.join(_LINE.names)}, branch, account, currency, description, details) "
    "FROM STDIN (FORMAT BINARY)"
)


@dataclass(slots=True)
class Lines:
    """Lines as rows of COPY, as far as they are known before their accounts are."""

    added: Added
    ids: list[UUID]
    rows: Column
    ends: list[bytes]  # of each row: its texts

    @classmethod
    def of(cls, gathered: Gathered, *, today: date, now: datetime) -> Generator[None, None, "Lines"]:
        """All lines that may be plain, in steps."""
        count, legs = len(gathered.lines), [command.legs[0] for command in gathered.lines]
        added = yield from Added.of(gathered, legs)
        yield
        ids = list(uuid7_run(count))
        yield
        tracekeys = pg_binary.uuids([command.entry.tracekey for command in gathered.lines])
        yield
        made = _LINE.rows(
            count,
            {
                "id": pg_binary.uuid_run(ids[0].int if ids else 0, count),
                "tracekey": tracekeys,
                "amount": pg_binary.numerics(added.cents),
                "debitcredit": np.where(added.is_debit, b"D", b"C"),
                "eventcode": [leg[3] for leg in legs],
                "dateref": today.toordinal() - pg_binary.EPOCH - gathered.slot,
                "createdat": pg_binary.microseconds(now),
            },
        )
        yield
        sized, known = pg_binary.sized, _Sized()
        heads = [known[branch] + sized(account.encode()) + known[currency] for branch, account, currency in gathered.places]
        yield
        tails = _Tails()
        pairs = list(zip(gathered.place.tolist(), legs, strict=True))
        ends = yield from in_steps(
            pairs, lambda some: [heads[place] + tails[leg[4:]] for place, leg in some], _ENDS_AT_ONCE
        )
        return cls(added, ids, made, ends)

    def blocks(self, folded: Folded, pending: Column) -> Iterator[bytes]:
        """COPY's data of those lines that were posted."""
        made, ends = self.rows, self.ends
        if len(folded.index) < len(ends):
            made, ends = made[folded.index], [ends[n] for n in folded.index.tolist()]
        balances = {"balanceafter": folded.posted, "pendingafter": pending, "dayafter": folded.day, "daynet": folded.net}
        yield pg_binary.COPY_HEAD
        for start in range(0, len(ends), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            rows = made[some]
            numerics = pg_binary.numerics(np.concatenate([column[some] for column in balances.values()]))
            for name, column in zip(balances, numerics.reshape(len(balances), -1), strict=True):
                rows[name] = column
            heads = rows.view(f"V{rows.dtype.itemsize}").tolist()
            yield b"".join([head + end for head, end in zip(heads, ends[some], strict=True)])
        yield pg_binary.COPY_TAIL

    def answer(self, commands: Sequence[Command], folded: Folded, pending: Column) -> Iterator[None]:
        """Give the commands of those lines that were posted their postings, some at a time."""
        columns = (folded.index.tolist(), folded.posted.tolist(), pending.tolist(), folded.day.tolist())
        nothing = Decimal("0.00")
        for count, (n, posted_cents, pending_cents, day_cents) in enumerate(zip(*columns, strict=True), 1):
            command = commands[n]
            ref, amount, side, eventcode, _, _ = command.legs[0]
            posted = posted_cents * CENT
            held = pending_cents * CENT if pending_cents else nothing
            available = posted - held if pending_cents else posted
            day = posted if day_cents == posted_cents else day_cents * CENT
            balances = _tuple(Balances, (posted, held, available, day))
            line = _tuple(PostedLine, (self.ids[n], ref, side, amount, eventcode, command.dateref, balances))
            command.posting = _tuple(PostResult, (command.entry.tracekey, (line,), False))
            if count % _ANSWERED_AT_ONCE == 0:
                yield


class _Sized(dict[str, bytes]):
    """Keys that many accounts have in common."""

    def __missing__(self, key: str) -> bytes:
        made = self[key] = pg_binary.sized(key.encode())
        return made


class _Tails(dict[tuple[str, str | None], bytes]):
    """Descriptions and details, which many lines may have in common."""

    def __missing__(self, key: tuple[str, str | None]) -> bytes:
        description, details = key
        text = pg_binary.NULL if details is None else pg_binary.sized(b"\x01" + details.encode())  # jsonb's version
        made = self[key] = pg_binary.sized(description.encode()) + text
        return made

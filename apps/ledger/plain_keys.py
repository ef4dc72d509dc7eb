"""Claims of tracekeys as rows of COPY; not of reversals, which come one by one."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime

import numpy as np

from apps.common import pg_binary
from apps.common.pg_binary import Layout
from apps.ledger.commands import Command, check_forms
from apps.ledger.forms import LineForms

_AT_ONCE = 250  # sent: the server reads them while the next are checked, and writes a thousand at a time
_CHECKED_AT_ONCE = 50
_CLAIM = Layout({"tracekey": pg_binary.UUID, "bodyhash": "V32", "state": "S6", "dateref": ">i4", "createdat": ">i8"})
COPY = f"COPY ledger_posting_key ({', '.join(_CLAIM.names)}) FROM STDIN (FORMAT BINARY)"


def blocks(commands: Sequence[Command], made: dict[int, Command], *, now: datetime) -> Iterator[bytes]:
    """Check forms, and claim the key of each that is well formed, the first of each key; ``made`` gets them.

    A step each: some of the blocks are empty.
    """
    moment = pg_binary.microseconds(now)
    forms, days = LineForms(), dict[date, int]()
    yield pg_binary.COPY_HEAD
    for start in range(0, len(commands), _AT_ONCE):
        some = commands[start : start + _AT_ONCE]
        for checked in range(0, len(some), _CHECKED_AT_ONCE):
            check_forms(some[checked : checked + _CHECKED_AT_ONCE], forms)
            yield b""
        fresh = []
        for command in some:
            key = command.entry.tracekey.int if command.refusal is None else None
            if key is not None and key not in made:
                made[key] = command
                fresh.append(command)
                if command.dateref not in days:
                    days[command.dateref] = command.dateref.toordinal() - pg_binary.EPOCH
        rows = _CLAIM.rows(
            len(fresh),
            {
                "tracekey": pg_binary.uuids([command.entry.tracekey for command in fresh]),
                "bodyhash": np.frombuffer(b"".join([command.body_hash for command in fresh]), "V32"),
                "state": b"POSTED",
                "dateref": [days[command.dateref] for command in fresh],
                "createdat": moment,
            },
        )
        yield rows.tobytes()
    yield pg_binary.COPY_TAIL

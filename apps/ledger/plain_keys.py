"""Claims of tracekeys as rows of COPY; not of reversals, which come one by one."""

from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime

import numpy as np

from apps.common import pg_binary
from apps.common.pg_binary import Layout
from apps.ledger.commands import Command, check_forms

_AT_ONCE = 500  # checked, then sent: the server reads them while the next are checked, and writes a thousand at a time
_CLAIM = Layout({"tracekey": pg_binary.UUID, "bodyhash": "V32", "state": "S6", "dateref": ">i4", "createdat": ">i8"})
COPY = f"COPY ledger_posting_key ({', '.join(_CLAIM.names)}) FROM STDIN (FORMAT BINARY)"


def blocks(
    commands: Sequence[Command], made: dict[int, Command], *, now: datetime, meanwhile: Callable[[], None]
) -> Iterator[bytes]:
    """Check forms, and claim the key of each that is well formed, the first of each key; ``made`` gets them.

    Forms are checked while the server takes the claims before them; ``meanwhile`` is called while it takes the last.
    """
    moment = pg_binary.microseconds(now)
    days: dict[date, int] = {}
    yield pg_binary.COPY_HEAD
    for start in range(0, len(commands), _AT_ONCE):
        some = commands[start : start + _AT_ONCE]
        check_forms(some)
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
    meanwhile()

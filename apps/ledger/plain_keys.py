"""Claims of tracekeys as rows of COPY."""

from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime

import numpy as np

from apps.common import pg_binary
from apps.common.pg_binary import Layout
from apps.ledger.commands import Command, check_forms

# Checked, then sent: COPY writes rows as soon as it has 64 KiB of them, which are 555.
_AT_ONCE = 560
_CLAIM = Layout(
    {"tracekey": pg_binary.UUID, "bodyhash": "V32", "state": "S6", "dateref": ">i4", "createdat": ">i8"}, others=1
)
COPY = f"COPY ledger_posting_key ({', '.join(_CLAIM.names)}, reverses) FROM STDIN (FORMAT BINARY)"


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
                "tracekey": pg_binary.uuids(
                    b"".join([command.entry.tracekey.int.to_bytes(16, "big") for command in fresh])
                ),
                "bodyhash": np.frombuffer(b"".join([command.body_hash for command in fresh]), "V32"),
                "state": b"POSTED",
                "dateref": [days[command.dateref] for command in fresh],
                "createdat": moment,
            },
        )
        if any(reversing := [command.reverses for command in fresh]):
            raw, width = rows.tobytes(), rows.dtype.itemsize
            ends = [pg_binary.NULL if other is None else pg_binary.sized(other.bytes) for other in reversing]
            yield b"".join([raw[n * width : (n + 1) * width] + end for n, end in enumerate(ends)])
        else:
            yield pg_binary.with_null(rows)
    yield pg_binary.COPY_TAIL
    meanwhile()

"""Time and ids. Edges take the time once (``timezone.now()``) and pass it in; nothing below an edge looks at a clock.

The saga engine is an edge too: it measures how long its steps take, and what it does after a call is later than what it did
before. It asks ``now()``, which a simulation lets run by a clock of its own.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

_new, _set = object.__new__, object.__setattr__
_UNKNOWN = uuid.SafeUUID.unknown
BUSINESS_ZONE = ZoneInfo("America/Sao_Paulo")


def _of_the_machine() -> datetime:
    return datetime.now(UTC)


_clock: ContextVar[Callable[[], datetime]] = ContextVar("lastro_clock", default=_of_the_machine)


def now() -> datetime:
    """The present moment, for those few who measure."""
    return _clock.get()()


@contextmanager
def running_by(clock: Callable[[], datetime]) -> Iterator[None]:
    """Let ``now()`` tell the time of another clock, in this context, while the block runs."""
    token = _clock.set(clock)
    try:
        yield
    finally:
        _clock.reset(token)


def uuid7() -> uuid.UUID:
    """A time-ordered UUID (RFC 9562, version 7): Unix time to a quarter microsecond, as PostgreSQL 18's; 62 random bits.

    So what a process makes one after the other is in this order, also within a millisecond. Made here because PostgreSQL 16
    has no ``uuidv7()``, and because an id is often needed before its row exists.
    """
    return uuid.UUID(int=_time_bits() | (int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)))


def uuid7_after(earlier: uuid.UUID) -> uuid.UUID:
    """As ``uuid7``, and greater than one that was made before, perhaps by a process whose clock is ahead of ours."""
    made = uuid7()
    return made if made > earlier else uuid.UUID(int=earlier.int + 1)  # its 62 random bits are not all ones


def _time_bits() -> int:
    """Time, version and variant of an id. Method 3 of RFC 9562, 6.2: 12 bits behind the milliseconds are their parts."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    return (milliseconds << 80) | (0x7 << 76) | ((rest << 12) // 1_000_000 << 64) | (0x2 << 62)


def uuid7_run(count: int) -> Iterator[uuid.UUID]:
    """Many ids of one moment, each greater than the one before it: made faster, and written to an index faster, too.

    Method 2 of RFC 9562, 6.2: the first one is random, the others count on from it.
    """
    # The upper bit of the part that counts is left free, so counting never reaches the variant before it.
    first = _time_bits() | (int.from_bytes(os.urandom(8), "big") & ((1 << 61) - 1))
    for value in range(first, first + count):
        made = _new(uuid.UUID)  # the constructor takes four times as long, to check what is right here
        _set(made, "int", value)
        _set(made, "is_safe", _UNKNOWN)
        yield made


def first_uuid7(moment: datetime) -> uuid.UUID:
    """The lowest id that ``uuid7`` can make at a moment: ids begin with their time, so a range of ids is one of time."""
    milliseconds = max(int(moment.timestamp() * 1000), 0)
    return uuid.UUID(int=(milliseconds << 80) | (0x7 << 76) | (0x2 << 62))


def time_of_uuid7(value: uuid.UUID) -> datetime:
    """When an id was made, to the millisecond."""
    return datetime.fromtimestamp((value.int >> 80) / 1000, tz=UTC)


def business_date(moment: datetime) -> date:
    """The calendar day in São Paulo on which a moment falls: the default ``dateref`` of a posting."""
    return moment.astimezone(BUSINESS_ZONE).date()

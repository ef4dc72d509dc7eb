"""A single line in one round trip.

Note [One line]
    Most callers post one line, and what they wait for is round trips, not work. ``ledger_post_line`` (a function in the
    database) claims the tracekey, locks the account by updating it, then reads and writes: the same fences and the same
    rows as the engine's, every statement with a snapshot of its own. It knows only lines that nothing speaks against.
    Whatever needs an explanation or more than a look at one account (a repeat, a refusal, a ceiling, holds on a back-dated
    day, a debit of today when clocks differ and tomorrow has lines) it leaves undone and answers nothing; then the engine
    does it. So refusals are said in one place. That both ways write the same is tested: a batch of N is N single lines
    (``test_batch_differential``).

Note [Lines in flight]
    In a stream the next line is sent before the one before is answered: Note [In flight] in apps/common/in_flight.py. The
    engine may have to do what the function left undone, after the next line was posted. So only lines of different accounts
    and different tracekeys are in flight together: nobody can tell in which order they were.
"""

from collections import deque
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

from apps.common import prepared
from apps.common.clock import uuid7
from apps.common.in_flight import InFlight
from apps.ledger.commands import Command
from apps.ledger.rules import Balances, PostedLine, PostResult, is_in_window

_TYPES = (
    "%s::uuid, %s::uuid, %s::bytea, %s::text, %s::text, %s::text, %s::numeric, %s::text, %s::int, %s::text, %s::jsonb, "
    "%s::date, %s::date, %s::timestamptz"
)
_POST_LINE = f"SELECT ledger_post_line({_TYPES})"


def is_single(command: Command) -> bool:
    """Is it one well-formed line, and nothing else?"""
    return (
        command.check_form()
        and len(command.legs) == 1
        and not (command.concerns or command.entry.group or command.entry.up_to)
    )


def post_line(command: Command, *, today: date, now: datetime) -> PostResult | None:
    """Post it, or do nothing and leave it to the engine: None."""
    if not is_in_window(command.dateref, today=today):
        return None
    line_id = uuid7()
    (answer,) = prepared.first_row(_POST_LINE, _values(command, line_id, today=today, now=now))
    return _posting(command, line_id, answer)


def _values(command: Command, line_id: UUID, *, today: date, now: datetime) -> Sequence[Any]:
    ref, amount, side, eventcode, description, details = command.legs[0]
    return (
        line_id,
        command.entry.tracekey,
        command.body_hash,
        *ref,
        amount,
        side,
        eventcode,
        description,
        details,
        command.dateref,
        today,
        now,
    )


def _posting(command: Command, line_id: UUID, answer: Any) -> PostResult | None:
    if answer is None:
        return None
    ref, amount, side, eventcode, _, _ = command.legs[0]
    posted, pending, day = answer
    balances = Balances(posted, pending, posted - pending, day)
    line = PostedLine(line_id, ref, side, amount, eventcode, command.dateref, balances)
    return PostResult(command.entry.tracekey, (line,))


class Line:
    """Single lines that are sent and not answered yet, in order. See Note [Lines in flight]. To be closed."""

    def __init__(self) -> None:
        self._flight = InFlight(_POST_LINE)
        self._sent: deque[tuple[Command, UUID]] = deque()

    def send(self, command: Command, *, today: date, now: datetime) -> bool:
        """Send one more, which ``is_single``, if it may be in flight together with those that are."""
        ref, key = command.legs[0].account, command.entry.tracekey
        for other, _ in self._sent:
            if other.legs[0].account == ref or other.entry.tracekey == key:
                return False
        if not is_in_window(command.dateref, today=today):
            return False
        line_id = uuid7()
        if not self._flight.send(_values(command, line_id, today=today, now=now)):
            return False
        self._sent.append((command, line_id))
        return True

    def answer(self) -> PostResult | None:
        """The oldest one's posting, once it is committed. None: it was left to the engine. Raises Django's errors."""
        command, line_id = self._sent.popleft()
        (answer,) = self._flight.answer()
        return _posting(command, line_id, answer)

    def close(self) -> None:
        """Wait for what is in flight."""
        self._flight.close()

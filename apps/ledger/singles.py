"""A single line in one round trip.

Note [One line]
    Most callers post one line, and what they wait for is round trips, not work. ``ledger_post_line`` (a function in the
    database) claims the tracekey, locks the account by updating it, then reads and writes: the same fences and the same
    rows as the engine's, every statement with a snapshot of its own. It knows only lines that nothing speaks against.
    Whatever needs an explanation or more than a look at one account (a repeat, a refusal, a ceiling, holds on a back-dated
    day, a debit of today when clocks differ and tomorrow has lines) it leaves undone and answers nothing; then the engine
    does it. So refusals are said in one place. That both ways write the same is tested: a batch of N is N single lines
    (``test_batch_differential``).
"""

from datetime import date, datetime

from apps.common import prepared
from apps.common.clock import uuid7
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
    dateref = command.dateref
    if not is_in_window(dateref, today=today):
        return None
    ref, amount, side, eventcode, description, details = command.legs[0]
    line_id = uuid7()
    values = (
        line_id,
        command.entry.tracekey,
        command.body_hash,
        *ref,
        amount,
        side,
        eventcode,
        description,
        details,
        dateref,
        today,
        now,
    )
    (answer,) = prepared.first_row(_POST_LINE, values)
    if answer is None:
        return None
    posted, pending, day = answer
    balances = Balances(posted, pending, posted - pending, day)
    line = PostedLine(line_id, ref, side, amount, eventcode, dateref, balances)
    return PostResult(command.entry.tracekey, (line,))

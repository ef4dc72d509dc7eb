"""Streams that post to the same accounts take turns of many batches.

Note [Turns]
    Streams that share accounts wait for each other's locks anyway, one batch at a time, and each finds that the others have
    changed what it knew (Note [Known accounts]): all of them read everything anew for each batch, and the rows that they
    write are in each other's way. So a stream of whose accounts others have changed many since its last batch takes a turn
    of three seconds, in which it knows what it is doing, and then lets others have theirs.

    A turn is a row that says until when (a lease): it belongs to no session or transaction, who waits for it holds nothing,
    and who dies in it is waited for that long. It is a courtesy: locks and versions are looked at as always, so nothing
    goes wrong when two have a turn, or when somebody is impatient and goes on without one. Whoever posts a single batch, or
    lines one by one, never asks for a turn.
"""

import random
import time
from contextlib import suppress
from uuid import uuid4

from django.db import Error

from apps.common import prepared
from apps.common.transactions import in_transaction

TURN_S = 3.0  # a change of turns costs some 100 ms: the next stream looks up what was changed
_LOOK_AGAIN_S = 0.005  # at the end of a turn, which may end before its time
_LOOK_AGAIN = 16  # before that: in one part in so many of what is left of it, for each look costs 0.25 ms of a core
_RESTS = 2.5  # one's own turn is over: for so many looks of the others
WAIT_S_MAX = 30.0  # for one's turn: ten streams
_IMPATIENT = 50  # disputed batches, before a stream that waited in vain asks again

_LEFT = "SELECT extract(epoch FROM endsat - clock_timestamp())::float8 FROM ledger_stream_turn WHERE branch = %s"
_TAKE = """
INSERT INTO ledger_stream_turn AS t (branch, holder, endsat) VALUES (%s, %s, clock_timestamp() + %s * interval '1 second')
ON CONFLICT (branch) DO UPDATE SET holder = EXCLUDED.holder, endsat = EXCLUDED.endsat WHERE t.endsat <= clock_timestamp()
RETURNING 1
"""
_END = "UPDATE ledger_stream_turn SET endsat = clock_timestamp() WHERE branch = %s AND holder = %s RETURNING 1"


class Turns:
    """The turns of one stream. Everything here is done between its transactions, and nothing within its caller's: others
    would wait at the turn's row until that ends.
    """

    def __init__(self) -> None:
        self._holder = uuid4()
        self._wanted: str | None = None  # a branch
        self._impatient = 0
        self._taken: str | None = None  # the branch of the turn it has
        self._ends = self._looked = 0.0  # when; moments of time.monotonic
        self._is_judged = False

    def disputed(self, branch: str | None) -> None:
        """Have others changed many accounts since the last batch, in this branch? Then turns are wanted.

        Within a turn its first batch tells, by what happened before.
        """
        if self._is_judged:
            return
        self._is_judged = self._taken is not None
        if branch is not None and self._impatient:
            self._impatient -= 1
        else:
            self._wanted = branch

    def take(self) -> bool:
        """Wait for a turn, if one is wanted. Does a new one begin?"""
        if in_transaction():  # whose caller will hear of it from the batch
            return False
        now = time.monotonic()
        last, self._looked = now - self._looked, now
        if self._taken is not None:
            if now + last < self._ends:  # there is time for another batch
                return False
            left = self._ends - now
            self.close()
            if self._wanted is not None:  # somebody waits, and does not know yet that it is over
                time.sleep(_RESTS * _until_next_look(left))
        if self._wanted is None:
            return False
        give_up = now + WAIT_S_MAX
        while left := self._begin(self._wanted):
            if time.monotonic() > give_up:
                self._wanted, self._impatient = None, _IMPATIENT
                return False
            time.sleep(_until_next_look(left) * random.uniform(0.5, 1.0))  # noqa: S311  # not all of them at once
        self._looked = time.monotonic()
        return True

    def _begin(self, branch: str) -> float:
        """How long others still have their turn, in seconds; 0: this one has begun."""
        found = prepared.execute(_LEFT, [branch]).fetchone()
        if found and found[0] > 0:
            return float(found[0])
        ends = time.monotonic() + TURN_S
        if prepared.execute(_TAKE, [branch, self._holder, TURN_S]).fetchone() is None:
            return TURN_S
        self._taken, self._ends, self._is_judged = branch, ends, False
        return 0

    def close(self) -> None:
        """The turn ends before its time: others need not wait for that."""
        if self._taken is not None and time.monotonic() < self._ends and not in_transaction():
            with suppress(Error):  # of a connection that is lost, or a transaction that failed: the turn ends by itself
                prepared.execute(_END, [self._taken, self._holder])
        self._taken, self._is_judged = None, False


def _until_next_look(left: float) -> float:
    """At most, in seconds, if so much is left of somebody's turn."""
    return max(_LOOK_AGAIN_S, min(left, TURN_S) / _LOOK_AGAIN)

"""Semantic locks: keys that one run holds from its start to its end. Another one on the same key waits, or is refused.

Note [One key after the other]
A run asks for its keys in their order, and for the next one only when it holds those before it; until then it stands in no
queue but one. So whoever is waited for holds a smaller key than what he waits for himself, and no circle closes.

Note [Taking without waiting]
A start never waits inside the database for another transaction's key: the caller may hold rows that the other one wants.
It tries the key's advisory lock, which everybody who takes a key holds until his commit; if somebody has it, the key
counts as held. Who frees keys (apps/saga/endings.py), as the last deed of his commit, hands each to the first that waits
by changing that row and, if nobody has its run in this moment, by making the run due. A run that began to wait in between
was not seen: so each looks once more after its own commit, and again every LOOK_AGAIN. A free key is taken by the first
of its queue alone. The unique index says it again: a key has one holder.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import IntegrityError, connection
from django.db import transaction as django_transaction

from apps.common.errors import DomainError
from apps.common.transactions import transaction_required
from apps.saga import chains
from apps.saga.definition import REFUSE
from apps.saga.models import Lock, LockState, Run
from apps.saga.session import Session

KEYS_MAX = 20  # of a run: each is a row, and a queue that it may stand in
KEY_CHARACTERS_MAX = 200
LOOK_AGAIN = timedelta(seconds=30)  # handing over is a message after the commit; this is for the one that was lost
AHEAD_MAX = 1_000  # counted at most


class KeyHeld(DomainError):
    """Another run holds what this one needs: try again when it is over."""

    code, retryable = "R538", True


@dataclass(frozen=True, slots=True, kw_only=True)
class LockView:
    """A key of a run. ``holder``: the run that holds it, None: nobody does; ``ahead``: how many wait before this run."""

    key: str
    held: bool
    asked_at: datetime
    held_at: datetime | None
    holder: UUID | None
    holder_business_key: str
    ahead: int


# --- Taking -----------------------------------------------------------------------------------------------------------
@transaction_required
def take(session: Session) -> None:
    """Take the keys of a run that begins, or have it wait for the first that is held. Raises KeyHeld where that is said."""
    definition, run = session.definition, session.run
    if definition.locks is None:
        return
    keys = _keys(definition.locks(run.data))
    if not keys:
        return
    with django_transaction.atomic():  # a caller who catches the refusal has taken nothing
        waits = Lock.objects.bulk_create(
            Lock(key=key, run_id=run.id, state=LockState.LATER, asked_at=session.now) for key in keys
        )
        run.awaits_key = _go_on(waits, now=session.now)
        if run.awaits_key and definition.on_conflict == REFUSE:
            raise KeyHeld(f"Another run holds {run.awaits_key}.")
    if run.awaits_key:
        _wait(session)
        chains.wake_soon_after_commit(run.id)  # see Note [Taking without waiting]


def _keys(keys: Iterable[str]) -> list[str]:
    found = sorted(set(keys))
    if len(found) > KEYS_MAX:
        raise ValueError(f"{len(found)} keys, and a run has {KEYS_MAX} at most")
    for key in found:
        if not isinstance(key, str) or not 1 <= len(key) <= KEY_CHARACTERS_MAX or "\x00" in key:
            raise ValueError(f"{str(key)[:80]!r} is no key: it has 1 to {KEY_CHARACTERS_MAX} characters")
    return found


def _wait(session: Session) -> None:
    row = session.touch()
    row.retry_at = session.run.due_at = session.now + LOOK_AGAIN


# A key whose run is over without having freed it, whoever ended it and however, is nobody's. Waits for nobody.
_HOLDER = "SELECT id, run_id FROM saga_lock WHERE key = %s AND state = 'HELD'"
_ORPHAN = """
DELETE FROM saga_lock WHERE id IN (
    SELECT id FROM saga_lock WHERE id = %(id)s AND state = 'HELD'
    AND NOT EXISTS (SELECT FROM saga_run WHERE id = %(run)s AND finished_at IS NULL)
    FOR UPDATE SKIP LOCKED
)
"""


def _free_orphans(key: str | None) -> None:
    """See Note [Locked first] in sweeper.py: the run is named, so its partition is known before the statement runs."""
    with connection.cursor() as cursor:
        cursor.execute(_HOLDER, [key])
        for lock_id, run_id in cursor.fetchall():
            cursor.execute(_ORPHAN, {"id": lock_id, "run": run_id})


@transaction_required
def look(session: Session) -> bool:
    """Has a run that waits for a key got all of its keys by now? Otherwise it waits on."""
    _free_orphans(session.run.awaits_key)
    rows = list(Lock.objects.filter(run_id=session.run.id).exclude(state=LockState.HELD).order_by("key"))
    awaits = _go_on(rows, now=session.now)
    if not awaits:
        session.run.awaits_key = ""
        session.touch().retry_at = None
        return True
    due = session.row.retry_at
    if awaits != session.run.awaits_key or due is None or due <= session.now:
        session.run.awaits_key = awaits
        _wait(session)
    return False


def _go_on(rows: Iterable[Lock], *, now: datetime) -> str:
    """Take keys in their order. Empty: they are taken; else the one that is waited for."""
    for row in rows:
        if not _try(row, now=now):
            if row.state != LockState.WAITING:
                Lock.objects.filter(pk=row.pk).update(state=LockState.WAITING)
            return row.key
    return ""


# Only the first of the queue may have it, and only when nobody holds it.
_TAKE = """
UPDATE saga_lock mine SET state = 'HELD', held_at = %(now)s
WHERE mine.id = %(id)s AND NOT EXISTS (
    SELECT FROM saga_lock other WHERE other.key = %(key)s AND other.id <> %(id)s
    AND (other.state = 'HELD' OR (other.state = 'WAITING' AND other.id < %(id)s))
)
"""


def _try(row: Lock, *, now: datetime) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", [f"saga_lock:{row.key}"])
        if not cursor.fetchone()[0]:
            return False
        try:
            with django_transaction.atomic():
                cursor.execute(_TAKE, {"id": row.pk, "key": row.key, "now": now})
                return bool(cursor.rowcount == 1)
        except IntegrityError:  # handed to another one by a commit that came in between
            return False


# --- Questions --------------------------------------------------------------------------------------------------------
def locks_of(run_id: UUID) -> tuple[LockView, ...]:
    """The keys of a run that is not over, in their order, and who holds them."""
    mine = list(Lock.objects.filter(run_id=run_id).order_by("key")[:KEYS_MAX])
    held = Lock.objects.filter(key__in=[row.key for row in mine], state=LockState.HELD)
    holders = dict(held.values_list("key", "run_id"))
    names = dict(Run.objects.filter(pk__in=set(holders.values())).values_list("pk", "business_key"))
    return tuple(_view(row, holders.get(row.key), names) for row in mine)


def _view(row: Lock, holder: UUID | None, names: dict[UUID, str]) -> LockView:
    ahead = 0
    if row.state == LockState.WAITING:
        before = Lock.objects.filter(key=row.key, state=LockState.WAITING, pk__lt=row.pk)
        ahead = before.order_by()[:AHEAD_MAX].count()
    return LockView(
        key=row.key,
        held=row.state == LockState.HELD,
        asked_at=row.asked_at,
        held_at=row.held_at,
        holder=holder,
        holder_business_key=names.get(holder, "") if holder is not None else "",
        ahead=ahead,
    )

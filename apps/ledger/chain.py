"""The chain: what was posted is hashed, block after block, behind the writers' backs. Posting knows nothing of it.

Note [Settled]
    A line's ``seq`` is drawn while its transaction runs, so a higher number may be committed before a lower one, and a
    chain that followed the highest visible number would pass over lines. But whoever draws a number takes a lock on the
    sequence first (``nextval`` does, in RowExclusive mode, to the end of the transaction; a savepoint that is rolled back
    keeps it). So:
    1. read how far numbers were drawn (``last_value``);
    2. in a later statement, read who holds a lock on the sequence (``pg_locks``): everybody who drew one of these numbers
       and has not ended is among them;
    3. when none of those is left, each of these numbers is a committed line or a gap for ever.
    The two are noted in one row (``ledger_horizon``), so that a later call finds them settled. Nobody waits for anybody,
    and a writer that hangs delays the chain alone. A transaction that is prepared (2PC) is listed under another id
    afterwards, so any prepared one that holds the lock is waited for. Virtual ids are used anew after a restart: then a
    namesake is waited for in vain, and nothing else. Numbers that a session keeps for later would break this, so the
    sequence has CACHE 1, which is looked at each time. ``pg_snapshot_xmin`` would not do: a snapshot's ``xmax`` is one past
    the last transaction that *ended*, below some that run; other databases hold it back; and a line that is the first
    thing its transaction writes draws its number before the transaction has an id.

    The note's commit stands behind the sequence's own records in the log, so a crash or a fail-over can't take numbers
    back that were noted. A crash skips up to 32 numbers: a gap.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

from django.db import OperationalError, ProgrammingError

from apps.common.transactions import transaction
from apps.ledger.chain_lines import SELECTED, Line, Sum, block_hash, sums_of
from apps.ledger.chain_models import Block, BlockPart, Horizon
from apps.ledger.months import TRANSACTIONS
from apps.ledger.rows import fetch

logger = logging.getLogger(__name__)

# Numbers of one block, and so its lines at most: 0.1 s and some 10 MB of a worker.
BLOCK_NUMBERS_MAX = 10_000
# Blocks of one call: some 10 s. What is left waits for the next call.
BLOCKS_MAX = 100
NO_HASH = bytes(32)  # before the first block, and before the first sealed month
SUMMARISE_TIMEOUT = "1s"
_LOWEST = -(2**63)

_BEGIN = "SELECT pg_try_advisory_xact_lock(hashtext('ledger.chain')), current_setting('transaction_isolation')"
_DRAWN = """
SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END, q.seqcache
FROM ledger_transaction_seq s CROSS JOIN pg_sequence q WHERE q.seqrelid = 'ledger_transaction_seq'::regclass
"""
_WRITERS = """
SELECT DISTINCT virtualtransaction FROM pg_locks
WHERE locktype = 'relation' AND relation = 'ledger_transaction_seq'::regclass AND mode <> 'AccessShareLock' AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND pid IS DISTINCT FROM pg_backend_pid()
"""
_PREPARED = "-1/"  # how the virtual id of a prepared transaction begins

_LINES = f"SELECT {SELECTED} FROM ledger_transaction WHERE seq BETWEEN %s AND %s"  # noqa: S608 - a constant


def chain(*, now: datetime, blocks_max: int = BLOCKS_MAX) -> int:
    """Hash what is settled and not hashed yet, at most so many blocks of BLOCK_NUMBERS_MAX. How many blocks were made?

    Each block is a commit. Safe to repeat, beside itself (the second one does nothing), and when killed anywhere.
    """
    made = 0
    while made < blocks_max and _chain_next(now=now):
        made += 1
    if made:
        _summarise()
    return made


@transaction
def _chain_next(*, now: datetime) -> bool:
    """Make the next block. False: there is nothing, it is not settled, or somebody else is at it."""
    is_ours, isolation = fetch(_BEGIN, [])[0]
    if not is_ours:
        return False
    if isolation != "read committed":
        raise RuntimeError(f"A chain that is made in {isolation} may not see what was committed while it waited.")
    # A commit that the server may lose would let numbers come back that were noted.
    fetch("SELECT set_config('synchronous_commit', 'on', true)", [])
    head = Block.objects.order_by("-number").first()
    done = head.seq_to if head else 0
    seq = _settled(done, now=now)
    if seq <= done:
        return False
    share_partitions()
    _append(head, done + 1, min(seq, done + BLOCK_NUMBERS_MAX), now=now)
    return True


def _settled(done: int, *, now: datetime) -> int:
    """Up to which number everything is settled; not above ``done`` when that is not known now. See Note [Settled]."""
    horizon = Horizon.objects.filter(id=1).first()
    if horizon is None or horizon.seq <= done:
        drawn, cache = fetch(_DRAWN, [])[0]
        if cache != 1:
            raise RuntimeError("ledger_transaction_seq has a CACHE: numbers may be used long after they were drawn.")
        writers = _writers()  # a later statement than the one that read how far numbers were drawn
        horizon, _ = Horizon.objects.update_or_create(
            id=1, defaults={"seq": drawn, "writers": sorted(writers), "noted_at": now}
        )
    elif horizon.writers:
        writers = _writers()
    else:
        return horizon.seq
    open_ones = writers.intersection(horizon.writers) | {name for name in writers if name.startswith(_PREPARED)}
    if open_ones:
        return done
    Horizon.objects.filter(id=1).update(writers=[])
    return horizon.seq


def _writers() -> set[str]:
    return {name for (name,) in fetch(_WRITERS, [])}


def share_partitions() -> None:
    """Keep partitions from being opened, detached and attached until the commit: lines on their way are in neither.

    A statement that waits for the lock of a partition may already have planned without the one that lines move to.
    """
    fetch("SELECT pg_advisory_xact_lock_shared(hashtext(%s))", [TRANSACTIONS.table])


def lines_between(seq_from: int, seq_to: int, month: date | None = None, end: date | None = None) -> list[Line]:
    """Lines by seq, both ends included, in its order; perhaps of a month alone, which ends before ``end``."""
    dated, days = (" AND dateref >= %s AND dateref < %s", [month, end]) if month else ("", [])
    lines: list[Line] = [*fetch(f"{_LINES}{dated} ORDER BY seq, id", [seq_from, seq_to, *days])]
    return lines


def first_of(block: Block) -> int:
    """From where the lines of a block are looked for: nothing stands before the first one."""
    return _LOWEST if block.number == 1 else block.seq_from


def _append(head: Block | None, seq_from: int, seq_to: int, *, now: datetime) -> None:
    number, previous = (head.number + 1, bytes(head.hash)) if head else (1, NO_HASH)
    parts = sums_of(lines_between(seq_from if head else _LOWEST, seq_to))
    lines = sum(part.lines for part in parts.values())
    Block.objects.create(
        number=number,
        seq_from=seq_from,
        seq_to=seq_to,
        lines=lines,
        previous=previous,
        hash=block_hash(
            number=number,
            seq_from=seq_from,
            seq_to=seq_to,
            lines=lines,
            previous=previous,
            created_us=microseconds(now),
            parts=parts,
        ),
        created_at=now,
    )
    BlockPart.objects.bulk_create(BlockPart(number=number, month=month, **part._asdict()) for month, part in parts.items())


def microseconds(moment: datetime) -> int:
    """Since 1970 in UTC, exact."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def hash_of(block: Block, parts: Sequence[BlockPart]) -> bytes:
    """What a block's hash has to be, by its own row and its parts."""
    return block_hash(
        number=block.number,
        seq_from=block.seq_from,
        seq_to=block.seq_to,
        lines=block.lines,
        previous=bytes(block.previous),
        created_us=microseconds(block.created_at),
        parts={part.month: sum_of(part) for part in parts},
    )


def sum_of(part: BlockPart) -> Sum:
    """What a part says of its lines."""
    return Sum(part.lines, part.debits, part.credits, bytes(part.hash))


def head() -> Block | None:
    """The last block; its number and hash, noted elsewhere, prove that nothing was cut off and chained anew."""
    return Block.objects.order_by("-number").first()


_INDEXES = """
SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = to_regclass('ledger_transaction_seq_brin') ORDER BY 1 DESC
"""


def _summarise() -> None:
    """Bring the index on seq up to date; else every call reads all that came since the last vacuum."""
    try:
        _summarise_all()
    except (OperationalError, ProgrammingError) as error:  # somebody works on the table; or we do not own it
        logger.warning("the index of the chain was not brought up to date: %s", error)


@transaction
def _summarise_all() -> None:
    fetch("SELECT set_config('lock_timeout', %s, true)", [SUMMARISE_TIMEOUT])
    for (index,) in fetch(_INDEXES, []):
        fetch("SELECT brin_summarize_new_values(%s)", [index])


# Looked through until a line is found, as many numbers at once as a block has: the first may be of a batch that hangs
# or was rolled back. Who asks wants an age, not a proof.
OLDEST_LOOKS_MAX = 20
_OLDEST = "SELECT min(createdat) FROM ledger_transaction WHERE seq BETWEEN %s AND %s"


def waiting() -> tuple[int, datetime | None]:
    """How many numbers were drawn and are not chained, and when the first line among them was posted (None: no line)."""
    last = head()
    done = last.seq_to if last else 0
    drawn: int = fetch(_DRAWN, [])[0][0]
    if drawn <= done:
        return 0, None
    for first in range(done + 1, drawn + 1, BLOCK_NUMBERS_MAX)[:OLDEST_LOOKS_MAX]:
        if oldest := fetch(_OLDEST, [first, first + BLOCK_NUMBERS_MAX - 1])[0][0]:
            return drawn - done, oldest
    return drawn - done, None

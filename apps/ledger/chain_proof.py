"""Proves the chain from the lines: whatever was changed, taken out or put in behind the triggers' backs is found.

What it can't find by itself is a chain that somebody made anew from some block on, with all that follows: for that a head
(number and hash) has to be noted elsewhere. It is printed by every proof and logged once a day.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import chain as chain_of
from pathlib import Path

from apps.common.transactions import transaction
from apps.ledger import chain, month_files, months_behind, seals
from apps.ledger.chain_lines import SEQ, Line, Sum, after, sums_of
from apps.ledger.chain_models import Block, BlockPart, Month
from apps.ledger.rows import fetch
from apps.ledger.rules import ZERO

# Of one transaction, a second at most: partitions can't be opened or detached meanwhile.
BLOCKS_AT_ONCE = 200
NUMBERS_AT_ONCE = 20_000  # lines in memory: some 20 MB
DAMAGES_MAX = 20  # the first ones tell what happened; the others only fill a screen
SUSPECTS_MAX = 10

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is not as it was chained. ``number``: of the block; None for a month's seal or file."""

    number: int | None
    month: date | None
    what: str

    def as_dict(self) -> dict[str, str | int | None]:
        return {"block": self.number, "month": f"{self.month:%Y-%m}" if self.month else None, "what": self.what}

    def __str__(self) -> str:
        where = [f"block {self.number}"] if self.number is not None else []
        where += [f"month {self.month:%Y-%m}"] if self.month else []
        return f"{', '.join(where) or 'chain'}: {self.what}"


@dataclass(slots=True)
class Proof:
    """What was proved. ``by_parts``: months of which only the parts were read, because their lines are elsewhere."""

    blocks: int = 0
    lines: int = 0
    head: Block | None = None
    by_parts: set[date] = field(default_factory=set)
    damages: list[Damage] = field(default_factory=list)

    def add(self, number: int | None, month: date | None, what: str) -> None:
        self.damages.append(Damage(number, month, what))

    @property
    def is_full(self) -> bool:
        return len(self.damages) >= DAMAGES_MAX


def verify_chain(
    *,
    first: int = 1,
    blocks_max: int | None = None,
    heads: Mapping[int, bytes] | None = None,
    archive: Path | None = None,
    progress: Progress = lambda _done, _all: None,
) -> Proof:
    """Prove every block from number ``first`` on from its lines, and the seals of all months. Changes nothing.

    ``blocks_max``: so many blocks alone, and the seals only when these are the last ones.

    ``heads``: hashes by number, noted elsewhere. ``archive``: the folder of the exported months, whose files are then read,
    too; else blocks of detached months are proved by their parts. Writers may go on. Stops at DAMAGES_MAX damages.
    """
    proof = Proof(head=chain.head())
    whole = last = proof.head.number if proof.head else 0
    if blocks_max is not None:
        last = min(last, first + blocks_max - 1)
    before = Block.objects.filter(number=first - 1).first()
    if first > 1 and before is None:
        proof.add(first - 1, None, "it is missing, so what follows can't be proved")
        return proof
    number = first
    while number <= last and not proof.is_full:
        before, number = _prove_some(proof, before, number, last)
        progress(number - 1, last)
    if last < whole:
        return proof
    for noted, noted_hash in (heads or {}).items():
        _check_head(proof, noted, noted_hash)
    seals.check(proof.add)
    for row in Month.objects.filter(state=Month.State.DETACHED).order_by("month"):
        if archive is None:
            proof.by_parts.add(row.month)
        elif what := month_files.difference(row, archive) or month_files.closings_difference(row.month, archive):
            proof.add(None, row.month, what)
    return proof


def _check_head(proof: Proof, number: int, noted: bytes) -> None:
    there = Block.objects.filter(number=number).first()
    if there is None:
        proof.add(number, None, "it was noted elsewhere and is missing: the end of the chain was cut off")
    elif bytes(there.hash) != noted:
        proof.add(number, None, f"its hash is {bytes(there.hash).hex()}, and {noted.hex()} was noted elsewhere")


@transaction
def _prove_some(proof: Proof, before: Block | None, number: int, last: int) -> tuple[Block | None, int]:
    """Prove some blocks in one look at the partitions; the last one, and the number after it."""
    chain.share_partitions()
    detached = months_behind.detached()
    blocks = _few(Block.objects.filter(number__range=(number, min(number + BLOCKS_AT_ONCE - 1, last))).order_by("number"))
    if not blocks:
        proof.add(number, None, "it and those after it are missing")
        return before, number + BLOCKS_AT_ONCE
    parts: dict[int, list[BlockPart]] = {block.number: [] for block in blocks}
    for part in BlockPart.objects.filter(number__range=(blocks[0].number, blocks[-1].number)).order_by("month"):
        parts.setdefault(part.number, []).append(part)
    lines = iter(chain.lines_between(chain.first_of(blocks[0]), blocks[-1].seq_to))
    pending: list[Line] = []
    for block in blocks:
        pending, own = _take(lines, pending, block.seq_to)
        _prove_row(proof, block, before, parts[block.number])
        _prove_lines(proof, block, parts[block.number], own, detached)
        before = block
    return before, blocks[-1].number + 1


def _few(blocks: Iterable[Block]) -> list[Block]:
    """Those of these blocks whose lines are read together, at least one."""
    few: list[Block] = []
    for block in blocks:
        if few and block.seq_to - few[0].seq_from >= NUMBERS_AT_ONCE:
            break
        few.append(block)
    return few


def _take(lines: Iterator[Line], pending: list[Line], seq_to: int) -> tuple[list[Line], list[Line]]:
    """The lines up to a number, and the one read too far."""
    own: list[Line] = []
    for line in chain_of(pending, lines):
        if line[SEQ] > seq_to:
            return [line], own
        own.append(line)
    return [], own


def _prove_row(proof: Proof, block: Block, before: Block | None, parts: Sequence[BlockPart]) -> None:
    """Does the row follow the one before, and is its hash that of what it says?"""
    expected = before.number + 1 if before else 1
    if block.number != expected:
        proof.add(expected, None, f"it is missing: the next one is {block.number}")
    elif bytes(block.previous) != (bytes(before.hash) if before else chain.NO_HASH):
        proof.add(block.number, None, "it does not follow the block before, which was changed or made anew")
    if block.seq_from != (before.seq_to + 1 if before else 1):
        proof.add(block.number, None, f"it begins at seq {block.seq_from}, not behind the block before")
    if chain.hash_of(block, parts) != bytes(block.hash):
        proof.add(block.number, None, "its row or its parts were changed: they do not give its hash")
    proof.blocks += 1


def _prove_lines(
    proof: Proof, block: Block, parts: Sequence[BlockPart], lines: Sequence[Line], detached: frozenset[date]
) -> None:
    """Are the lines those that were chained?"""
    chained = {part.month: chain.sum_of(part) for part in parts}
    found = sums_of(lines)
    proof.lines += len(lines)
    nothing = Sum(0, ZERO, ZERO, b"")
    for month in sorted({*chained, *found}):
        if month in detached and month not in found:
            continue
        was, there = chained.get(month, nothing), found.get(month, nothing)
        if month in detached:
            proof.add(block.number, month, f"the month is detached, and {there.lines} of its lines are in the table")
        elif was != there:
            proof.add(block.number, month, _what_differs(block, month, was, there, lines))


def _what_differs(block: Block, month: date, was: Sum, there: Sum, lines: Sequence[Line]) -> str:
    """In words, with the lines that can be named."""
    facts = []
    for name, before, now in zip(("lines", "debits", "credits"), was, there, strict=False):
        if before != now:
            facts.append(f"{name}: {before} chained, {now} there")
    facts = facts or ["as many lines with the same sums, and another content or order"]
    if was.lines > there.lines:
        seqs = {line[SEQ] for line in lines}
        missing = [n for n in range(block.seq_from, block.seq_to + 1) if n not in seqs][:SUSPECTS_MAX]
        facts.append(f"seq without a line (some may never have had one): {', '.join(map(str, missing))}")
    elif suspects := _written_later(block, month, there.lines):
        facts.append(f"written after they were chained: {'; '.join(suspects)}")
    return ". ".join(facts)


# A row tells which transaction wrote it: what was changed or put in later is younger than its block. Of a database that
# was restored from a dump all rows are equally old, so it is a hint, not a proof.
_LATER = """
SELECT t.seq, t.id, t.tracekey FROM ledger_transaction t
WHERE t.seq BETWEEN %s AND %s AND t.dateref >= %s AND t.dateref < %s
    AND age(t.xmin) < (SELECT age(b.xmin) FROM ledger_block b WHERE b.number = %s)
ORDER BY t.seq LIMIT %s
"""


def _written_later(block: Block, month: date, lines: int) -> list[str]:
    found = fetch(
        _LATER, [chain.first_of(block), block.seq_to, month, after(month), block.number, min(SUSPECTS_MAX, lines)]
    )
    # All of them: the month came back from its file, or the database from a dump.
    if len(found) == lines > 1:
        return []
    return [f"seq {seq} (id {line_id}, tracekey {tracekey})" for seq, line_id, tracekey in found]

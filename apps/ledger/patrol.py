"""The chain is proved by itself, some blocks at a time, round after round: nobody has to remember the command."""

import logging
from datetime import datetime

from apps.common.transactions import transaction
from apps.ledger.chain_models import Block, Patrol
from apps.ledger.chain_proof import Proof, verify_chain

logger = logging.getLogger(__name__)

# Of one call: 3 s of a worker when blocks are full. Every five minutes that is more than a hundred million lines a day.
BLOCKS_MAX = 2_000
NUMBERS_MAX = 500_000


def patrol(*, now: datetime, blocks_max: int = BLOCKS_MAX) -> Proof:
    """Prove the next blocks, and begin anew behind the last one. What is wrong is logged, and kept until it is right again.

    Safe to repeat, and beside itself: then some blocks are proved twice.
    """
    row = Patrol.objects.filter(id=1).first() or Patrol(id=1)
    blocks_max = min(blocks_max, _blocks_from(row.number + 1))
    proof = verify_chain(first=row.number + 1, blocks_max=blocks_max)
    for damage in proof.damages:
        logger.error("the ledger's chain is damaged: %s", damage)
    _keep(row, proof, blocks_max, now=now)
    return proof


def _blocks_from(number: int) -> int:
    """How many blocks from this one on have no more than NUMBERS_MAX numbers; at least one."""
    first = Block.objects.filter(number=number).first()
    if first is None:
        return BLOCKS_MAX
    few = Block.objects.filter(number__range=(number, number + BLOCKS_MAX - 1), seq_to__lt=first.seq_from + NUMBERS_MAX)
    last = few.order_by("-number").first()
    return last.number - number + 1 if last else 1


@transaction
def _keep(row: Patrol, proof: Proof, blocks_max: int, *, now: datetime) -> None:
    if proof.head is None:
        return
    row.number += blocks_max
    row.damages += len(proof.damages)
    row.damage = str(proof.damages[0]) if proof.damages else row.damage
    if row.number >= proof.head.number:
        row.number, row.damages, row.damages_before, row.ended_at = 0, 0, row.damages, now
        row.damage = row.damage if row.damages_before else ""
    row.save()

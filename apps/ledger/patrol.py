"""The chain is proved by itself, some blocks at a time, round after round: nobody has to remember the command."""

import logging
from datetime import datetime

from apps.common.transactions import transaction
from apps.ledger.chain_models import Patrol
from apps.ledger.chain_proof import Proof, verify_chain

logger = logging.getLogger(__name__)

# Blocks of one call, every five minutes: 3 s of a worker when all are full, 0.1 s when they are those of a quiet ledger.
BLOCKS_MAX = 50


def patrol(*, now: datetime, blocks_max: int = BLOCKS_MAX) -> Proof:
    """Prove the next blocks, and begin anew behind the last one. What is wrong is logged, and kept until it is right again.

    Safe to repeat, and beside itself: then some blocks are proved twice.
    """
    row = Patrol.objects.filter(id=1).first() or Patrol(id=1)
    proof = verify_chain(first=row.number + 1, blocks_max=blocks_max)
    for damage in proof.damages:
        logger.error("the ledger's chain is damaged: %s", damage)
    _keep(row, proof, blocks_max, now=now)
    return proof


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

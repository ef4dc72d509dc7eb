"""The part of a call step that talks to the network: no transaction, no lock, only values."""

import logging
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection

from apps.common.errors import DomainError
from apps.common.transactions import durable
from apps.observability import ids
from apps.saga.definition import CallStep, Run

logger = logging.getLogger(__name__)

Outcome = dict[str, Any] | Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to make one call, until the lease is over."""

    step: CallStep
    run: Run
    token: UUID
    undo: bool


@durable
def talk(claim: Claim) -> Outcome:
    """Make the call, or find out that it was made. An error is an outcome too."""
    # The connection goes back to the pool: a slow partner must not hold one of ours. Without a pool the process keeps its
    # only one; a new one costs the server more than all the statements of the step.
    if not connection.in_atomic_block and getattr(connection, "pool", None) is not None:
        connection.close()
    with ids.bound(global_id=str(claim.run.global_id), run_id=str(claim.run.id)):
        try:
            return _talk(claim)
        except DomainError as refusal:
            return refusal
        except Exception as error:
            logger.warning("%s of %s failed", claim.run.step, claim.run.business_key, exc_info=error)
            return error


def _talk(claim: Claim) -> dict[str, Any]:
    if claim.undo:
        return claim.step.undo_call(claim.run)
    if claim.run.attempt > 1:
        happened = claim.step.did_it_happen(claim.run)
        if happened is not None:
            return happened
    return claim.step.call(claim.run)

"""Kafka's edge of the saga: what services and people ask of the state manager. (What services say to each other is heard
by apps/saga/choreography/hearing.py.)
"""

from django.db import transaction
from django.utils import timezone

from apps.common.errors import DomainError
from apps.messaging.contracts.saga import CompensationAnswered, CompensationRequested
from apps.messaging.public import Meta, handles, publish_many
from apps.saga.choreography import verbs

GROUP = "saga.gsm"


@handles(CompensationRequested, group=GROUP)
def on_compensation_requested(message: CompensationRequested, meta: Meta) -> None:
    """Turn a saga round, and answer. A refusal is an answer too."""
    now = timezone.now()
    global_id = message.global_id or meta.global_id
    run_id, refusal = None, None
    try:
        with transaction.atomic():
            run_id = verbs.run_of(global_id, message.branch)
            verbs.compensate(
                run_id, reason=message.reason, by=f"message:{message.requested_by}", code=message.code, now=now
            )
    except DomainError as error:
        refusal = error
    answer = CompensationAnswered(
        global_id=global_id,
        branch=message.branch,
        run_id=run_id,
        accepted=refusal is None,
        answered_at=now,
        code=refusal.code if refusal else "",
        reason=refusal.detail if refusal else "",
        retryable=refusal.retryable if refusal else False,
    )
    publish_many([(answer, global_id or "unknown")], answering=[meta])

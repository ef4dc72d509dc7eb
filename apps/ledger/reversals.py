"""What taking an entry back would do: the reversal itself, done and rolled back, so nothing else decides it."""

from datetime import datetime
from uuid import UUID

from django.db import transaction as django_transaction

from apps.common.transactions import transaction
from apps.ledger.postings import ReverseResult, reverse


@transaction
def reverse_dry(*, tracekey: UUID, reversal_tracekey: UUID, now: datetime) -> ReverseResult:
    """As ``reverse``, and nothing stays. Raises its refusals. Locks the entry's accounts for a moment, as a posting."""
    result = reverse(tracekey=tracekey, reversal_tracekey=reversal_tracekey, now=now)
    django_transaction.set_rollback(True)
    return result

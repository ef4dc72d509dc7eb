"""Kafka in: entries to post, in batches."""

from collections.abc import Sequence
from functools import partial

from django.db import transaction
from django.utils import timezone

from apps.ledger import logbook, queue
from apps.messaging.contracts.ledger import PostingRequested
from apps.messaging.public import Received, handles_batch

# One commit a batch: its locks are held for about 0.1 s, and the answers to all of it are written in one statement.
ROWS_MAX = 1_000


@handles_batch(PostingRequested, group="ledger", rows_max=ROWS_MAX)
def on_posting_requested(received: Sequence[Received[PostingRequested]]) -> None:
    """Post what is asked for and answer each request on ``ledger.accounts.posting.event``, in one commit.

    A refused entry is answered with its code and the others go on. What cannot be answered, because it follows no contract
    or breaks our code, goes to ``ledger.accounts.posting.error``. See Note [Refused or poisoned] in queue.py.
    """
    results = queue.answer_requests(received, now=timezone.now())
    transaction.on_commit(partial(logbook.tell_results, results))

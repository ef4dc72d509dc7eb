"""What a fork of a saga would have posted: read in the sandbox, before it is rolled back."""

from collections.abc import Mapping, Sequence
from typing import Any

from apps.ledger.models import Deferred, Hold, Transaction
from apps.saga import public as saga

ROWS_MAX = 1_000  # told of one fork


def lines(keys: saga.Keys) -> Sequence[Mapping[str, Any]]:
    """The lines under the trace keys of the fork's steps, as they would be posted; those of deferred accounts, too."""
    posted: list[Transaction | Deferred] = []
    for model in (Transaction, Deferred):
        posted += model.objects.filter(tracekey__in=keys.tracekeys).order_by("id")[:ROWS_MAX]
    rows = sorted(posted, key=lambda row: row.id)[:ROWS_MAX]
    return [
        {
            "account": f"{row.branch}/{row.account}/{row.currency}",
            "debitcredit": row.debit_credit,
            "amount": row.amount,
            "eventcode": row.event_code,
            "dateref": row.dateref,
            "tracekey": row.tracekey,
        }
        for row in rows
    ]


def holds(keys: saga.Keys) -> Sequence[Mapping[str, Any]]:
    """The holds under the keys of the fork's steps."""
    rows = Hold.objects.filter(key__in=keys.steps).order_by("id")[:ROWS_MAX]
    return [
        {"account": f"{row.branch}/{row.account}/{row.currency}", "amount": row.amount, "status": row.status}
        for row in rows
    ]

"""What a fork of a saga would have posted: read in the sandbox, before it is rolled back."""

from collections.abc import Mapping, Sequence
from typing import Any

from apps.ledger.keys import posted_lines
from apps.ledger.models import Hold
from apps.saga import public as saga

ROWS_MAX = 1_000  # told of one fork


def lines(keys: saga.Keys) -> Sequence[Mapping[str, Any]]:
    """The lines under the trace keys of the fork's steps, as they would be posted; those of deferred accounts, too."""
    posted = [(tracekey, line) for tracekey, lines in posted_lines(keys.tracekeys).items() for line in lines]
    return [
        {
            "account": "/".join(line.account),
            "debitcredit": line.debitcredit,
            "amount": line.amount,
            "eventcode": line.eventcode,
            "dateref": line.dateref,
            "tracekey": tracekey,
        }
        for tracekey, line in posted[:ROWS_MAX]
    ]


def holds(keys: saga.Keys) -> Sequence[Mapping[str, Any]]:
    """The holds under the keys of the fork's steps."""
    rows = Hold.objects.filter(key__in=keys.steps).order_by("id")[:ROWS_MAX]
    return [
        {"account": f"{row.branch}/{row.account}/{row.currency}", "amount": row.amount, "status": row.status}
        for row in rows
    ]

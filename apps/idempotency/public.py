"""The door of idempotency."""

from apps.idempotency.operations import (
    Begun,
    IdempotencyInFlight,
    IdempotencyMismatch,
    InvalidIdempotencyKey,
    Replay,
    begin,
    check_key,
    complete,
    provisional,
    settle,
)

__all__ = [
    "Begun",
    "IdempotencyInFlight",
    "IdempotencyMismatch",
    "InvalidIdempotencyKey",
    "Replay",
    "begin",
    "check_key",
    "complete",
    "provisional",
    "settle",
]

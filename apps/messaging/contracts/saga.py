"""What may be asked of the state manager by message, and what it answers."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from apps.messaging.contracts.base import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class CompensationRequested(Message):
    """Undo a saga whose steps live in other services, wherever it is. ``global_id`` empty: that of the message itself."""

    topic: ClassVar[str] = "saga.pipes.gsm.compensate"
    schema: ClassVar[str] = "saga.compensation_requested.v1"

    reason: str
    requested_by: str
    code: str = ""
    global_id: str = ""
    branch: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompensationAnswered(Message):
    """The undo was begun, or refused with a code: then nothing was changed."""

    topic: ClassVar[str] = "saga.pipes.gsm.event"
    schema: ClassVar[str] = "saga.compensation_answered.v1"

    global_id: str
    accepted: bool
    answered_at: datetime
    branch: str = ""
    run_id: UUID | None = None
    code: str = ""
    reason: str = ""
    retryable: bool = False

"""A run, its steps and their attempts as the engine holds them: values, without the ORM.

A model's instance costs more than all that the engine does with it in a step. The fields are those of models.py, by the
same names; a test compares them.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from apps.saga.models import StepStatus


@dataclass(slots=True, kw_only=True, eq=False)
class RunRow:
    """A row of saga_run."""

    id: UUID
    global_id: UUID
    use_case: str
    version: int
    subject_id: UUID
    business_key: str
    status: str
    cursor: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    failed_step: str = ""
    error_code: str = ""
    error_detail: str = ""
    token: UUID | None = None
    lease_until: datetime | None = None
    due_at: datetime | None = None
    held_by: UUID | None = None
    held_at: datetime | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    idempotency_key: str = ""
    renamed: dict[str, str] = field(default_factory=dict)
    late_answers: int = 0
    stale_outcomes: int = 0
    hook_failures: int | None = None
    started_at: datetime
    finished_at: datetime | None = None
    at_step: str = ""
    deadline_at: datetime | None = None
    parent_id: UUID | None = None
    parent_position: int | None = None
    branch: str = ""
    awaits_key: str | None = None


# What may change of a run after it was written.
RUN_CHANGES = (
    "status",
    "cursor",
    "failed_step",
    "error_code",
    "error_detail",
    "token",
    "lease_until",
    "due_at",
    "held_by",
    "held_at",
    "attributes",
    "late_answers",
    "stale_outcomes",
    "hook_failures",
    "finished_at",
    "at_step",
    "awaits_key",
)


@dataclass(slots=True, kw_only=True, eq=False)
class StepRow:
    """A row of saga_step. Its run is the session's."""

    position: int
    name: str
    kind: str
    shape: str
    status: str = StepStatus.PENDING
    attempts: int = 0
    undo_attempts: int = 0
    attempts_forgiven: int = 0
    undo_attempts_forgiven: int = 0
    retry_at: datetime | None = None
    waiting_until: datetime | None = None
    output: dict[str, Any] = field(default_factory=dict)
    error_code: str = ""
    error_detail: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    undo_started_at: datetime | None = None
    undone_at: datetime | None = None
    redone: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class AttemptRow:
    """A row of saga_attempt. ``started_at`` None: begun in an earlier commit, and only its end is known here."""

    position: int
    undo: bool
    number: int
    outcome: str = ""
    error_code: str = ""
    error_detail: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None

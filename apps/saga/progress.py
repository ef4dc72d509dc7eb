"""How far a run has come, in one statement: for an answer that somebody waits for. queries.py tells everything."""

import json
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

from apps.common import prepared
from apps.saga.session import Session

_PROGRESS = """
SELECT r.use_case, r.version, r.status, s.name, s.kind, s.status, s.attempts, s.started_at, s.finished_at, s.undone_at,
    s.error_code, s.error_detail, s.output
FROM saga_run r JOIN saga_step s ON s.run_id = r.id
WHERE r.id = %(id)s AND s.run_id = %(id)s ORDER BY s.position
"""


@dataclass(frozen=True, slots=True)
class StepProgress:
    """A step, without its tries."""

    name: str
    kind: str
    status: str
    attempts: int
    started_at: datetime | None
    finished_at: datetime | None
    undone_at: datetime | None
    error_code: str
    error_detail: str
    output: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """A run and its steps, in their order."""

    run_id: UUID
    use_case: str
    version: int
    status: str
    steps: tuple[StepProgress, ...]


_of_step = attrgetter(*[field.name for field in fields(StepProgress)])


def progress_of(session: Session) -> RunProgress:
    """How far a run has come that this transaction works on: what ``run_progress`` will say when it has committed."""
    run = session.run
    return RunProgress(
        run_id=run.id,
        use_case=run.use_case,
        version=run.version,
        status=str(run.status),
        steps=tuple(StepProgress(*_of_step(step)) for step in session.steps),
    )


def run_progress(run_id: UUID) -> RunProgress | None:
    """How far the run with this id has come. None: it is not in the database (any more)."""
    rows = prepared.execute(_PROGRESS, {"id": run_id}).fetchall()
    if not rows:
        return None
    use_case, version, status = rows[0][:3]
    steps = tuple(StepProgress(*(*row[3:-1], json.loads(row[-1]))) for row in rows)
    return RunProgress(run_id=run_id, use_case=use_case, version=version, status=status, steps=steps)

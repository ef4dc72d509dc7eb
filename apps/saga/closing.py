"""Closing a stuck run by hand: what stays half done, and how the journey's owner is told.

Nothing of it is done or undone. So whoever closes it is told before what stands, by the steps and by the use case itself
(``Hooks.left``), the audit keeps that, and the owner's own row ends with the run (``Hooks.on_handled``).
"""

import logging
from collections.abc import Iterable
from typing import Protocol

from django.db import Error as DatabaseError
from django.db import connection
from django.db import transaction as django_transaction

from apps.common.errors import DomainError
from apps.saga import hooks
from apps.saga.models import RunStatus, StepStatus
from apps.saga.session import Session
from apps.saga.telling import error_code, error_detail

logger = logging.getLogger(__name__)


class ClosedByHand(DomainError):
    """A person has closed the run as it was: what it had done stays done, and nothing more happens."""

    code = "R581"


class _Row(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def status(self) -> str: ...


# In the order in which they are told. What was not begun, was refused or failed, or is undone, has left nothing.
STANDS = {
    StepStatus.DONE: ("stays done", "stay done"),
    StepStatus.UNKNOWN: ("stays in doubt", "stay in doubt"),
    StepStatus.WAITING: ("stays without an answer", "stay without an answer"),
    StepStatus.UNDOING: ("is not undone for certain", "are not undone for certain"),
}


def standing(steps: Iterable[_Row]) -> str:
    """What stands of a run's steps, in words; empty when nothing does."""
    rows = list(steps)
    said = []
    for status, (one, many) in STANDS.items():
        names = [row.name.replace("_", " ") for row in rows if row.status == status]
        if names:
            said.append(f"{_listed(names)} {many if len(names) > 1 else one}")
    return ", ".join(said)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def left(session: Session) -> tuple[str, ...]:
    """What the use case says of it. It only looks; when it fails, that is told, because the rest stands all the same."""
    if session.at_end:
        return ()
    try:
        with django_transaction.atomic():
            return session.definition.hooks.left(session.view(whole=True))
    except Exception as error:
        logger.warning("what %s %s leaves is not known", session.run.use_case, session.run.business_key, exc_info=True)
        return (f"Nobody knows what else: {type(error).__name__} when the use case was asked.",)


def close(session: Session, reason: str) -> None:
    """End the run, and tell its owner in this commit. Raises HookFailed when he cannot be told; then nothing changes."""
    run = session.run
    before = f" Before: {run.error_code} at {run.failed_step}: {run.error_detail}" if run.error_code else ""
    closed = ClosedByHand(f"{reason}{'' if reason.endswith('.') else '.'}{before}")
    try:
        with django_transaction.atomic():
            session.definition.hooks.on_handled(
                session.view(whole=True), failed_step=run.failed_step, code=closed.code, detail=closed.detail
            )
    except Exception as error:
        if isinstance(error, DatabaseError) and not connection.is_usable():
            raise
        raise hooks.HookFailed(f"on_handled failed: {error_code(error)}: {error_detail(error)}") from error
    session.finish(RunStatus.HANDLED)

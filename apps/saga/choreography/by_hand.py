"""What a person does to a choreographed run: its services are told in the same commit."""

from collections.abc import Mapping
from typing import Any

from apps.common.transactions import transaction_required
from apps.saga.choreography import store
from apps.saga.choreography.settle import Work
from apps.saga.models import RunStatus
from apps.saga.session import Session


def _work(session: Session) -> Work:
    return Work(session, store.facts_of(session.run.id))


@transaction_required
def retry(session: Session, given: Mapping[str, Any], *, goes_back: bool) -> None:
    """Send the current step's message again now, with a new budget; ``given``: a change of the message's body.

    The service finds the same key, and is handed another body only if it has not done the step. Raises InvalidInput.
    """
    session.forgive()
    session.run.status = RunStatus.COMPENSATING if goes_back else RunStatus.RUNNING
    work = _work(session)
    if given and not goes_back:
        work.again(given)
    else:
        work.settle()


@transaction_required
def compensate(session: Session, *, code: str, reason: str) -> None:
    """Turn the run round."""
    _work(session).turn_round(code=code, reason=reason)


@transaction_required
def skip(session: Session, given: Mapping[str, Any], *, goes_back: bool) -> None:
    """Take the current step as done, and ask the next one with this output; or as undone."""
    session.run.status = RunStatus.COMPENSATING if goes_back else RunStatus.RUNNING
    _work(session).pass_over(dict(given), undo=goes_back)

"""Which question an answer belongs to."""

from uuid import UUID

from apps.saga.models import Attempt, AttemptOutcome
from apps.saga.session import Session

_WERE_ASKED = (AttemptOutcome.ASKED, AttemptOutcome.NO_ANSWER)


def parse_key(step_key: str) -> tuple[UUID | None, int, int, bool]:
    """The run, the step's position, how often it has begun anew, and whether it is of an undo."""
    run_text, _, rest = step_key.partition(":")
    place = rest.removesuffix(":undo")
    position, _, redone = place.partition("~")
    try:
        if position.isascii() and position.isdigit() and (place == position or (redone.isascii() and redone.isdigit())):
            return UUID(run_text), int(position), int(redone or 0), rest != place
    except ValueError:
        pass  # not an id of ours, or thousands of digits
    return None, 0, 0, False


def answered_attempt(session: Session, *, undo: bool) -> int | None:
    """The attempt of the current step to which an answer comes; None: the newest.

    An answer may come to an earlier question while asking again has failed: that one stays failed, it asked nobody.
    """
    if session.row.waiting_until is not None:
        return None
    mine = Attempt.objects.filter(run_id=session.run.id, position=session.position, undo=undo, outcome__in=_WERE_ASKED)
    return mine.order_by("-number").values_list("number", flat=True).first()

"""How a state looks: one tone, one icon and one word, the same everywhere. Colour is the third sign, never the only one."""

from apps.backoffice.components.formats import sentence
from apps.common.looks import Look

__all__ = ["LOOKS", "Look", "look"]


def _ok(word: str) -> Look:
    return Look("ok", "ok", word)


def _running(word: str) -> Look:
    return Look("run", "run", word)


def _waiting(word: str) -> Look:
    return Look("run", "wait", word)


def _near(word: str) -> Look:
    return Look("warn", "warn", word)


def _bad(word: str) -> Look:
    return Look("bad", "bad", word)


def _undo(word: str) -> Look:
    return Look("undo", "undo", word)


def _unknown(word: str) -> Look:
    return Look("unk", "unknown", word)


def _idle(word: str, icon: str = "bar") -> Look:
    return Look("idle", icon, word)


# A refusal by business (declined, sold out) is a normal answer and stays grey; red is for what somebody must act on.
LOOKS: dict[str, dict[str, Look]] = {
    "run": {
        "RUNNING": _running("Running"),
        "WAITING": _waiting("Waiting"),
        "COMPENSATING": _undo("Undoing"),
        "COMPLETED": _ok("Completed"),
        "COMPENSATED": _undo("Undone"),
        "STUCK": _bad("Stuck"),
        "HELD": _idle("Held"),
        "HANDLED": _idle("Handled", "lock"),
    },
    "action": {
        "ASKED": Look("warn", "eye", "Waits for approval"),
        "RUNNING": _running("Running"),
        "DONE": _ok("Done"),
        "CANCELLED": _idle("Stopped", "close"),
    },
    "item": {
        "PENDING": _idle("Waits", "clock"),
        "DONE": _ok("Done"),
        "REFUSED": _idle("Left alone", "skip"),
        "FAILED": _bad("Failed"),
        "CANCELLED": _idle("Stopped", "close"),
    },
    "step": {
        "PENDING": _idle("Not begun", "clock"),
        "RUNNING": _running("Running"),
        "WAITING": _waiting("Waiting"),
        "DONE": _ok("Done"),
        "FAILED": _bad("Failed"),
        "REFUSED": _idle("Refused", "close"),
        "UNKNOWN": _unknown("Unknown"),
        "ROLLED_BACK": _idle("Rolled back", "undo"),
        "UNDOING": _undo("Undoing"),
        "UNDONE": _undo("Undone"),
    },
    "attempt": {
        "": _running("Running"),
        "DONE": _ok("Done"),
        "ASKED": _waiting("Waiting"),
        "ANSWERED": _ok("Answered"),
        "NO_ANSWER": _unknown("No answer"),
        "REFUSED": _idle("Refused", "close"),
        "FAILED": _bad("Failed"),
        "UNKNOWN": _unknown("Unknown"),
        "ROLLED_BACK": _idle("Rolled back", "undo"),
    },
    "order": {
        "PENDING": _running("Pending"),
        "RESERVED": _running("Reserved"),
        "AWAITING_PAYMENT": _waiting("Awaiting payment"),
        "PAID": _running("Paid"),
        "COMPLETED": _ok("Completed"),
        "REJECTED": _idle("Rejected", "close"),
        "PAYMENT_NOT_COMPLETED": _idle("Payment not completed", "close"),
        "CANCELLED": _undo("Cancelled"),
        "STUCK": _bad("Stuck"),
        "RETURNED": _undo("Returned"),
        "HANDLED": _idle("Closed by hand", "lock"),
    },
    "return": {
        "REQUESTED": _waiting("Requested"),
        "ACCEPTED": _running("Accepted"),
        "COMPLETED": _ok("Completed"),
        "REFUSED": _idle("Refused", "close"),
        "STUCK": _bad("Stuck"),
        "HANDLED": _idle("Closed by hand", "lock"),
    },
    "message": {
        "PENDING": _waiting("To relay"),
        "PARKED": _bad("Parked"),
        "SENT": _ok("Sent"),
        "HANDLED": _ok("Handled"),
        "RETRYING": _near("Retrying"),
        "DEAD": _bad("Dead letter"),
        "REPLAYED": _idle("Replayed", "again"),
    },
    "payment": {
        "PENDING": _waiting("Waiting"),
        "UNKNOWN": _unknown("Unknown"),
        "AUTHORISED": _ok("Authorised"),
        "CAPTURED": _ok("Captured"),
        "REFUNDED": _undo("Refunded"),
        "REJECTED": _idle("Refused", "close"),
        "VOIDED": _undo("Voided"),
    },
    "document": {
        "DRAFT": _idle("Draft", "clock"),
        "NUMBERED": _running("Numbered"),
        "SIGNED": _running("Signed"),
        "OFFLINE": _waiting("Handed out"),
        "SENT": _waiting("Sent"),
        "UNKNOWN": _unknown("Unknown"),
        "REJECTED": _bad("Refused"),
        "AUTHORISED": _ok("Authorised"),
        "CANCELLED": _undo("Cancelled"),
        "NUMBER_VOIDED": _undo("Number voided"),
        "ABANDONED": _undo("Abandoned"),
    },
    "hold": {
        "OPEN": _waiting("Held"),
        "POSTED": _ok("Posted"),
        "VOIDED": _undo("Let go"),
        "EXPIRED": _idle("Expired", "clock"),
    },
    "approval": {
        "OPEN": _waiting("Waits"),
        "APPROVED": _ok("Approved"),
        "REFUSED": _idle("Refused", "close"),
        "EXPIRED": _near("Nobody decided"),
        "CLOSED": _undo("Not needed any more"),
    },
    "account": {
        "ACTIVE": _ok("Open"),
        "FROZEN": Look("warn", "lock", "Frozen"),
        "CLOSED": _idle("Closed", "lock"),
    },
    "fork": {
        "COMPLETED": _ok("Would complete"),
        "REFUSED": _idle("Would be refused", "close"),
        "FAILED": _bad("Would fail"),
    },
    "forked": {
        "DONE": _ok("Done"),
        "NOT_ASKED": _idle("Not asked", "skip"),
        "REFUSED": _idle("Refused", "close"),
        "FAILED": _bad("Failed"),
    },
    "reservation": {
        "RESERVED": _running("Reserved"),
        "RELEASED": _undo("Released"),
        "SOLD": _ok("Sold"),
        "RETURNED": _undo("Returned"),
    },
}


def look(kind: str, state: str) -> Look:
    """How this state of this kind of thing looks. An unknown state is grey, and is called by its own name."""
    return LOOKS.get(kind, {}).get(state) or _idle(sentence(state) or "—")

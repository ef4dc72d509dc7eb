"""What can go wrong, by who is to blame: the request, the message, the configuration, the broker, the store."""

from enum import StrEnum


class Refuse(Exception):  # it reads as a verb: raise Refuse("SOLD_OUT", "…")
    """A business error that no retry can mend: what was done before this step is undone, step by step backwards.

    ``code`` is stable and for machines, ``reason`` is a sentence for people. Neither may hold a secret: both travel.
    """

    def __init__(self, code: str, reason: str = "") -> None:
        self.code, self.reason = code, reason or code
        super().__init__(f"{code}: {self.reason}")


class Code(StrEnum):
    """Why a message became a dead letter although its handler did not fail. Never renamed, never reused."""

    UNREADABLE = "P001"  # no envelope: not JSON, too large, no meta and body
    BAD_META = "P002"  # an envelope without a usable global-id, steps or position
    NOT_IN_STEPS = "P003"  # this service does not stand where the message says
    NO_WAY_BACK = "P004"  # a compensation for a step that cannot be undone
    BAD_RESULT = "P005"  # what handle returned is not JSON, or too large
    NOT_PUBLISHED = "P006"  # the broker refuses what the step has to say; its effect is committed
    UNDO_REFUSED = "P007"  # compensate raised Refuse: nobody can refuse to undo
    REFUSED_LATE = "P008"  # a step behind the pivot raised Refuse: from there on there is only forward


class PipesError(Exception):
    """Base of our own errors."""


class Invalid(PipesError):
    """A message that no retry can mend. It becomes a dead letter at once."""

    def __init__(self, code: Code, reason: str) -> None:
        self.code = code
        super().__init__(reason)


class Misconfigured(PipesError):
    """The process cannot work as it is configured. The message says what to do."""


class BrokerDown(PipesError):
    """The broker does not answer. No message is to blame, so no attempt is counted."""


class StoreDown(PipesError):
    """The store does not answer. No message is to blame."""

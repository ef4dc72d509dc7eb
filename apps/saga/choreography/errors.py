"""What the state manager refuses of choreographed runs."""

from apps.common.errors import DomainError


class UnknownSaga(DomainError):
    """No choreographed run has this id; one that has just begun may not have been heard of yet."""

    code, retryable = "R570", True


class NotChoreographed(DomainError):
    """The steps of this run do not live in other services."""

    code = "R571"


class AlreadyUndone(DomainError):
    """The run is undone, or is being undone."""

    code = "R572"


class PastThePivot(DomainError):
    """A step was begun that nobody can undo."""

    code = "R573"


class GlobalIdTaken(DomainError):
    """Another run has this global id."""

    code = "R574"

"""Steps that live in other services, as the state manager sees them: use cases that are choreographed.

The services hand the saga on by themselves (pipes/PROTOCOL.md). A definition of pipe steps makes the state manager listen
to all their topics: it keeps each saga as a run with steps and attempts, beside the orchestrated ones, and acts where a
service did not: it asks again, undoes, or calls a person. Nothing here is on a message's way from service to service.
"""

from datetime import timedelta
from typing import Any, ClassVar

from apps.messaging.public import listens, read_elsewhere
from apps.saga.choreography.facts import ADDRESS, COMPENSATE, ERROR, EVENT, IN
from apps.saga.definition import COMPENSABLE, Hooks, Kind, Run, Step

GROUP = "saga.pipes"  # the state manager's consumer group
PATIENCE = timedelta(minutes=5)  # longer than a service's own attempts (about a minute), and than its restart


class PipeStep(Step):
    """A step in another service."""

    shape = "pipe"

    # Messages to the step before it is given up; each of them is tried several times by the service itself.
    attempts_max: ClassVar[int] = 4
    undo_attempts_max: ClassVar[int] = 8
    retry_delay: ClassVar[timedelta] = timedelta(seconds=30)  # after a dead letter; doubled each time
    retry_delay_max: ClassVar[timedelta] = timedelta(minutes=15)
    answer_within: timedelta = PATIENCE  # then it is asked again
    undoes_when_lost: bool = True  # what is done is undone when the step is given up; False: a person decides

    def __init__(
        self,
        service: str,
        *,
        name: str = "",
        kind: Kind = COMPENSABLE,
        answer_within: timedelta | None = None,
        undoes_when_lost: bool | None = None,
        told: str = "",
    ) -> None:
        """``service``: its address, ``domain.subdomain.service``. ``name``: by default the last word of it.

        ``told``: a sentence for those who look at the use case. Raises ValueError for what is no address.
        """
        if not ADDRESS.fullmatch(service):
            raise ValueError(f"{service!r} is no service's address, such as shop.stock.reserve")
        self.service = service
        self.name = name or service.rpartition(".")[2]  # type: ignore[misc]  # of this one, not of the class
        self.kind = kind  # type: ignore[misc]
        self.partner = service  # type: ignore[misc]
        self.__doc__ = told or f"A step in {service}."
        if answer_within is not None:
            self.answer_within = answer_within
        if undoes_when_lost is not None:
            self.undoes_when_lost = undoes_when_lost

    def registered(self) -> None:
        """Hear everything that the service is told and says."""
        from apps.saga.choreography.hearing import hear  # it leads to the engine's session, which knows definitions

        topics = [f"{self.service}.{kind}" for kind in (IN, COMPENSATE, ERROR, EVENT)]
        listens(topics, group=GROUP, function=hear)
        # Where the broker keeps records per group, the first message of all waits for a service that comes later.
        read_elsewhere(topics[:2], group=self.service)

    def written(self) -> dict[str, Any]:
        """The service: messages that are on their way name it."""
        return {"service": self.service}

    def delay(self, tries: int) -> timedelta:
        """How long after its so-manieth dead letter the step is asked again."""
        found: timedelta = min(self.retry_delay * 2 ** min(tries - 1, 20), self.retry_delay_max)
        return found


class PipeHooks(Hooks):
    """What the owner of a choreographed use case does at its end, in the commit that writes it."""

    def on_completed(self, run: Run) -> None:
        """Every step is done."""

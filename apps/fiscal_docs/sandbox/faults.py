"""Faults by script: what goes wrong, how often, decided by a test and never by dice."""

import threading
from dataclasses import dataclass
from enum import StrEnum

ANY_SERVICE = "*"


class Action(StrEnum):
    REFUSE_CONNECTION = "refuse connection"  # closed before the TLS handshake: nothing was sent
    LOSE_REQUEST = "lose request"  # read, then closed: nothing was decided
    LOSE_ANSWER = "lose answer"  # decided and committed, then closed
    DELAY = "delay"  # seconds before the answer, after the decision
    STATUS = "status"  # answer this cStat without deciding anything (108: service stopped)


@dataclass(slots=True, kw_only=True)
class Fault:
    """One kind of trouble for one service (or any), for the next ``times`` requests."""

    action: Action
    service: str = ANY_SERVICE
    status: str = ""
    seconds: float = 0.0
    times: int = 1


class Faults:
    """The script. Handler threads take from it; each entry is used up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._script: list[Fault] = []

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._script.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._script.clear()

    def take(self, service: str, *actions: Action) -> Fault | None:
        """The next fault for this service among ``actions``, used once."""
        with self._lock:
            for fault in self._script:
                if fault.action in actions and fault.service in (service, ANY_SERVICE):
                    fault.times -= 1
                    if fault.times <= 0:
                        self._script.remove(fault)
                    return fault
        return None

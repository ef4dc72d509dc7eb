"""The outside world: a partner that does what it is asked once, remembers it, and never unlearns an undo."""

from typing import Any


class Partner:
    """What has taken effect, by key. A second request with a key gets the first one's answer."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []  # do or undo, key: what took effect, in its order
        self._answers: dict[str, dict[str, Any]] = {}
        self._undone: set[str] = set()

    def do(self, key: str, *, refuses: bool) -> dict[str, Any]:
        """Do it, refuse it, or say what was said before. What was undone is refused from then on."""
        if key in self._undone:
            return {"status": "refused", "why": "undone"}
        if key not in self._answers:
            self._answers[key] = {"status": "refused" if refuses else "done", "by": key}
            if not refuses:
                self.log.append(("do", key))
        return self._answers[key]

    def undo(self, key: str) -> dict[str, Any]:
        """Undo it; what was not done yet will not be done."""
        if key not in self._undone:
            self._undone.add(key)
            if self.in_effect(key):
                self.log.append(("undo", key))
        return {"status": "done"}

    def happened(self, key: str) -> dict[str, Any] | None:
        """What was answered; None when nobody asked."""
        return {"status": "refused", "why": "undone"} if key in self._undone else self._answers.get(key)

    def forgive(self, step: str) -> None:
        """Forget that a step was refused, however often it began anew: somebody has talked to the partner."""
        for key in [key for key, answer in self._answers.items() if key.partition("~")[0] == step]:
            if self._answers[key]["status"] == "refused":
                del self._answers[key]

    def in_effect(self, key: str) -> bool:
        """Is it done, and not undone?"""
        return ("do", key) in self.log and ("undo", key) not in self.log


class Forgetful(Partner):
    """A partner that is no partner of a saga: it does everything as often as it is asked."""

    def do(self, key: str, *, refuses: bool) -> dict[str, Any]:
        self.log.append(("do", key))
        return {"status": "done", "by": key}

    def happened(self, key: str) -> dict[str, Any] | None:
        return None

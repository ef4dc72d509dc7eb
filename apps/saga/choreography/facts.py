"""A message on a pipe's topic as a fact about a step. Pure: values in, answer out; see pipes/PROTOCOL.md, sections 2 and 5.

Positions count forward here, whichever way a message goes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

IN, COMPENSATE, ERROR, EVENT = "in", "compensate", "error", "event"
ADDRESS = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+){1,2}")
BRANCH = re.compile(r"[A-Za-z0-9._:-]{1,100}")
STEP_SCHEMA, UNDO_SCHEMA, REPORT_SCHEMA = "pipes.step.v1", "pipes.undo.v1", "pipes.step_reported.v1"
NO_WAY_BACK, NOT_PUBLISHED = "P004", "P006"  # codes of dead letters; see pipes/PROTOCOL.md, section 10
BY_HAND = "BY_HAND"  # the code of what a person decided here
GLOBAL_ID_CHARACTERS_MAX = 200
BRANCH_CHARACTERS_MAX = 100
CODE_CHARACTERS_MAX = 50
REASON_CHARACTERS_MAX = 1_000
ATTEMPT_MAX = 10_000  # of one message, as far as we count
VERSION_MAX = 32_767
# Of a service's clock. A moment that was never set is the year 1 in some languages; what lies before it, or behind the year
# 9999, in any time zone, can be stored and not be read again.
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


class What(StrEnum):
    """What was heard of a message."""

    ASKED = "ASKED"
    SEEK = "SEEK"  # an undo that looks for the last step that was reached, and undoes nothing yet
    LETTER = "LETTER"  # it became a dead letter
    RETRYING = "RETRYING"
    DONE = "DONE"
    REFUSED = "REFUSED"
    UNDONE = "UNDONE"
    DEAD = "DEAD"
    IGNORED = "IGNORED"


REPORTED = frozenset({What.RETRYING, What.DONE, What.REFUSED, What.UNDONE, What.DEAD, What.IGNORED})


class Unusable(ValueError):
    """The message says nothing that a run could be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing that was heard about one message to one step. ``at``: when, by our clock; the others by the service's."""

    position: int
    undo: bool
    message_id: UUID
    what: What
    at: datetime
    attempt: int = 0
    asked_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    retry_at: datetime | None = None
    code: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A message as far as it can be read by one who does not know its saga yet.

    ``steps``: addresses, forward; empty when it names none. ``position``: forward; None when it does not say.
    ``output``: what a last step gave back; ``body``: what the step is asked with.
    """

    service: str
    global_id: str
    branch: str
    use_case: str
    version: int | None
    steps: tuple[str, ...]
    position: int | None
    undo: bool
    what: What
    message_id: UUID
    attempt: int = 0
    asked_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    retry_at: datetime | None = None
    code: str = ""
    reason: str = ""
    output: str = ""

    @property
    def is_asking(self) -> bool:
        """Is it the message itself, and not what came of one?"""
        return self.what in (What.ASKED, What.SEEK)

    def place(self, services: Sequence[str]) -> int:
        """The step of the run that it is about. Raises Unusable when that is not clear."""
        if self.steps == tuple(services) and self.position is not None and services[self.position] == self.service:
            return self.position
        found = [place for place, service in enumerate(services) if service == self.service]
        if len(found) != 1:
            raise Unusable(f"{self.service} stands {len(found)} times in the use case, and the message does not say where")
        return found[0]

    def fact(self, position: int, *, now: datetime) -> Fact:
        """It, as a fact about this step."""
        return Fact(
            position=position,
            undo=self.undo,
            message_id=self.message_id,
            what=self.what,
            at=now,
            attempt=self.attempt,
            asked_at=self.asked_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
            retry_at=self.retry_at,
            code=self.code,
            reason=self.reason,
        )


def resolve(step: str, *, beside: str) -> str:
    """The address of a step: a single word is a service beside the one whose topic this is."""
    return step if "." in step else f"{beside.rsplit('.', 1)[0]}.{step}"


def read(topic: str, meta: Mapping[str, Any], body: Any, *, message_id: UUID, group: str) -> Notice | None:
    """Read a message. None for what is not about a step: our own dead letters. Raises Unusable."""
    service, _, kind = topic.rpartition(".")
    given = meta.get("error")
    error: dict[str, Any] = given if isinstance(given, dict) else {}
    if kind == ERROR and error.get("group") == group:
        return None
    if kind == EVENT:
        return _report(service, meta, body)
    origin = str(error.get("topic") or topic) if kind == ERROR else topic
    undo = origin.rpartition(".")[2] == COMPENSATE
    steps, position = _steps(meta, service=service, undo=undo)
    what = What.LETTER if kind == ERROR else What.SEEK if undo and meta.get("seek-end") is True else What.ASKED
    says = error if kind == ERROR or undo else {}
    return Notice(
        service=service,
        steps=steps,
        position=position,
        undo=undo,
        what=what,
        message_id=_uuid(error.get("message-id"), message_id) if kind == ERROR else message_id,
        attempt=_attempt(error.get("attempts")) if kind == ERROR else 0,
        code=_code(says),
        reason=str(says.get("reason") or "")[:REASON_CHARACTERS_MAX],
        **_saga(meta),
    )


def _saga(meta: Mapping[str, Any]) -> dict[str, Any]:
    global_id, branch = meta.get("global-id"), meta.get("branch") or ""
    if not isinstance(global_id, str) or not 1 <= len(global_id) <= GLOBAL_ID_CHARACTERS_MAX:
        raise Unusable("it has no usable global-id")
    if not isinstance(branch, str) or len(branch) > BRANCH_CHARACTERS_MAX:
        raise Unusable("its branch is not usable")
    version = meta.get("use-case-version")
    known = isinstance(version, int) and not isinstance(version, bool) and 0 < version <= VERSION_MAX
    return {
        "global_id": global_id,
        "branch": branch,
        "use_case": str(meta.get("use-case") or ""),
        "version": version if known else None,
    }


def _steps(meta: Mapping[str, Any], *, service: str, undo: bool) -> tuple[tuple[str, ...], int | None]:
    """The message's steps and position, forward. Nothing where they cannot be used: the use case may tell."""
    given = meta.get("steps")
    if not isinstance(given, list) or not all(isinstance(step, str) for step in given):
        return (), None
    steps = tuple(resolve(step, beside=service) for step in given)
    position = meta.get("position")
    if isinstance(position, bool) or not isinstance(position, int) or not 0 <= position < len(steps):
        position = None
    if not undo:
        return steps, position
    return steps[::-1], None if position is None else len(steps) - 1 - position


def _report(service: str, meta: Mapping[str, Any], body: Any) -> Notice:
    if not isinstance(body, dict) or body.get("outcome") not in REPORTED or body.get("way") not in ("do", "undo"):
        raise Unusable("it is no report")
    steps, position = body.get("steps"), body.get("position")
    known = isinstance(steps, list) and isinstance(position, int) and 0 <= position < len(steps)
    return Notice(
        service=str(body.get("service") or service),
        steps=tuple(str(step) for step in steps or ()) if known else (),
        position=position if known else None,
        undo=body["way"] == "undo",
        what=What(body["outcome"]),
        message_id=_uuid(body.get("message_id"), None),
        attempt=_attempt(body.get("attempt")),
        asked_at=_moment(body.get("asked_at")),
        started_at=_moment(body.get("started_at")),
        finished_at=_moment(body.get("finished_at")),
        retry_at=_moment(body.get("retry_at")),
        code=_code(body),
        reason=str(body.get("reason") or "")[:REASON_CHARACTERS_MAX],
        output=str(body.get("output_json") or ""),
        **_saga(meta),
    )


def _uuid(text: Any, otherwise: UUID | None) -> UUID:
    try:
        return UUID(str(text))
    except ValueError:
        if otherwise is None:
            raise Unusable("it does not say which message it is about") from None
        return otherwise


def _attempt(value: Any) -> int:
    return min(value, ATTEMPT_MAX) if isinstance(value, int) and value > 0 else 0


def _code(says: Mapping[str, Any]) -> str:
    """The code; where there is none, the error's class, with which a reason of the SDK begins."""
    code = str(says.get("code") or "")
    if not code and says.get("kind") == "technical":
        named = str(says.get("reason") or "").partition(":")[0]
        code = named if named.isidentifier() else "technical"
    return code[:CODE_CHARACTERS_MAX]


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    is_possible = moment is not None and moment.tzinfo is not None and EARLIEST <= moment <= LATEST
    return moment if is_possible else None

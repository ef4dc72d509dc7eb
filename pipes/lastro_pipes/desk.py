"""One message at the desk: read it, call the step, write down what came of it, and say what is to be published.

Note [Three ways to fail]
A *refusal* is the business's answer: the step's effect is rolled back and the saga turns round. A *technical* failure is
tried again, and at last becomes a dead letter: the saga stands still until the state manager, or a person, tries again or
compensates. An *invalid* message is a dead letter at once. What is nobody's fault (StoreDown) is raised: the message
stays with the broker and no attempt is counted.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from lastro_pipes import addresses, envelope, ids, logs, records, routing, trace
from lastro_pipes.envelope import Envelope, plain
from lastro_pipes.errors import Code, Invalid, Refuse, StoreDown
from lastro_pipes.message import Done, Message
from lastro_pipes.records import Times
from lastro_pipes.retries import delay
from lastro_pipes.routing import Place, Sending, Way
from lastro_pipes.settings import Settings
from lastro_pipes.step import Kind, Loaded
from lastro_pipes.stores.base import DEAD, DONE, REFUSED, UNDONE, Key, Row, Store, Transaction
from lastro_pipes.transports.base import Incoming, Outgoing

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of a record. ``retry_s``: not done yet. ``key``: the row that says what is to be published."""

    outcome: str = ""
    outgoing: tuple[Outgoing, ...] = ()
    key: Key | None = None
    retry_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A message and its place, with what belongs to this one reading of it."""

    record: Incoming
    envelope: Envelope
    place: Place
    key: Key
    record_key: str
    trace: str
    started_at: datetime
    attempt: int = 0


class Desk:
    """See the module. For one thread."""

    def __init__(self, step: Loaded, settings: Settings, store: Store, *, clock: Callable[[], datetime]) -> None:
        self._step, self._settings, self._store, self._clock = step, settings, store, clock

    def take(self, record: Incoming) -> Taken:
        """Work on a record. Raises StoreDown; any other failure is the message's, and is an outcome."""
        try:
            case = self._open(record)
        except Invalid as error:
            logger.error("a record of %s is buried: %s", record.topic, error)
            return self._bury_at_once(record, error)
        if case is None:
            return Taken(outcome=records.IGNORED)
        with logs.bound(global_id=case.envelope.global_id, message_id=str(case.envelope.message_id), trace=case.trace):
            row = self._store.attempt(case.key, str(case.envelope.message_id))
            if row.state:
                return self._again(case, row)
            return self._attempt(replace(case, attempt=row.attempts))

    def cannot_publish(self, record: Incoming, reason: str, *, attempts: int) -> Taken:
        """What this record led to is refused by the broker for good: bury the record, the effect stays."""
        error = Invalid(Code.NOT_PUBLISHED, f"The step's answer is committed and cannot be published: {reason}")
        with contextlib.suppress(Invalid):
            found = envelope.decode(record.value)
            return Taken(records.DEAD, (self._letter(record, found, records.error_of(error), attempts),))
        return self._bury_at_once(record, error)

    def _open(self, record: Incoming) -> _Case | None:
        found = envelope.decode(record.value)
        if found.meta.get("for-group", self._settings.group) != self._settings.group:
            return None  # A replay for another group of the same topic.
        service = self._settings.service
        way = Way.UNDO if record.topic.endswith(addresses.COMPENSATE) else Way.DO
        place = routing.find(found.meta, way=way, service=service, next_steps=self._settings.next_steps)
        return _Case(
            record=record,
            envelope=found,
            place=place,
            key=Key(service, found.global_id, found.branch, place.position, str(way)),
            record_key=records.key_of(record, found),
            trace=trace.child(trace.incoming(record.headers, found.trace)),
            started_at=self._clock(),
        )

    def _bury_at_once(self, record: Incoming, error: Invalid) -> Taken:
        found: Envelope | None = None
        if error.code is not Code.UNREADABLE:
            with contextlib.suppress(Invalid):
                found = envelope.decode(record.value)
        return Taken(records.DEAD, (self._letter(record, found, records.error_of(error), 1),))

    def _letter(self, record: Incoming, found: Envelope | None, error: Mapping[str, Any], attempts: int) -> Outgoing:
        service, group = self._settings.service, self._settings.group
        parent = trace.incoming(record.headers, found.trace) if found else ""
        return records.dead_letter(
            record,
            found,
            error,
            service=service,
            group=group,
            attempts=attempts,
            trace=trace.child(parent) if found else "",
        )

    def _again(self, case: _Case, row: Row) -> Taken:
        """The way is finished: publish what was not, or what is asked for again by a new message."""
        is_copy = row.message_id == str(case.envelope.message_id)
        if row.state == UNDONE and case.place.way is Way.DO:
            if is_copy:
                return Taken(records.IGNORED)  # Done, and undone since: nobody waits for its answer any more.
            logger.warning("a message came after its step was undone, and is not worked on")
            return Taken(records.IGNORED, self._reports(case, records.IGNORED, message_id="ignored"))
        if is_copy and row.published:
            return Taken(records.IGNORED)
        logger.info("the step was %s before; what it had to say is published again", row.state)
        return Taken(row.state, row.outgoing, case.key)

    def _attempt(self, case: _Case) -> Taken:
        if case.attempt > self._attempts_max(case):
            # The last attempts were not answered by an exception, which would have ended it: they ended the process.
            error = RuntimeError(f"The process did not survive {case.attempt - 1} attempts.")
            return self._dead(case, records.error_of(error), error)
        try:
            return self._do(case) if case.place.way is Way.DO else self._undo(case)
        except StoreDown:
            raise
        except Refuse as refusal:
            return self._refused(case, refusal)
        except Invalid as error:
            return self._dead(case, records.error_of(error), error)
        except Exception as error:
            if not self._store.is_usable():
                raise StoreDown(f"The store went away under the step: {error!r}") from error
            return self._failed(case, error)

    # --- Forward ---

    def _do(self, case: _Case) -> Taken:
        with self._store.transaction(case.key) as work:
            if work.mine.state:
                return self._again(case, work.mine)  # Another member was quicker.
            result = self._step.handle(self._message(case, case.envelope.body, work))
            body = _as_json(case.envelope.body if result is None else result)
            onward = routing.onward(case.place, case.envelope, body, trace=case.trace)
            outgoing = self._answers(case, onward) + self._reports(case, records.DONE, sent=onward, output=body)
            work.finish(DONE, outgoing=outgoing, input=case.envelope.body, output=body)
        logger.info("done")
        return Taken(records.DONE, outgoing, case.key)

    def _refused(self, case: _Case, refusal: Refuse) -> Taken:
        if case.place.way is Way.UNDO:
            error = Invalid(Code.UNDO_REFUSED, f"compensate may not refuse, and did: {refusal}")
            return self._dead(case, records.error_of(error), error)
        if self._step.kind is Kind.RETRIABLE:
            error = Invalid(Code.REFUSED_LATE, f"A step behind the pivot may not refuse, and did: {refusal}")
            return self._dead(case, records.error_of(error), error)
        why = records.refusal_of(refusal, service=case.place.service)
        with self._store.transaction(case.key) as work:
            if work.mine.state:
                return self._again(case, work.mine)
            backward = routing.backward(case.place, case.envelope, case.envelope.body, trace=case.trace, error=why)
            outgoing = self._answers(case, backward) + self._reports(case, records.REFUSED, error=why, sent=backward)
            work.finish(REFUSED, outgoing=outgoing, input=case.envelope.body)
        logger.info("refused: %s", refusal)
        return Taken(records.REFUSED, outgoing, case.key)

    # --- Backward ---

    def _undo(self, case: _Case) -> Taken:
        with self._store.transaction(case.key) as work:
            if work.mine.state:
                return self._again(case, work.mine)
            self._check_way_back(work.do)
            if work.do.state == DONE and routing.is_seeking(case.envelope):
                chase = routing.chase(case.place, case.envelope, trace=case.trace)
                if chase is not None:  # Not finished: it comes back from where the saga had got to.
                    return Taken(records.IGNORED, self._answers(case, chase))
            if work.do.state != REFUSED:  # What refused has done nothing.
                self._compensate(case, work)
            # The step before gets back what it gave to this one.
            body = work.do.input if work.do.state in (DONE, REFUSED, DEAD) else case.envelope.body
            backward = routing.backward(case.place, case.envelope, body, trace=case.trace)
            outgoing = self._answers(case, backward) + self._reports(case, records.UNDONE, sent=backward)
            work.finish(UNDONE, outgoing=outgoing, input=case.envelope.body)
        logger.info("undone")
        return Taken(records.UNDONE, outgoing, case.key)

    def _check_way_back(self, do: Row) -> None:
        """Before anything else: a compensation from outside that may not be must leave the saga as it is."""
        if do.attempts == 0 or do.state == REFUSED or self._can_undo:
            return
        what = "is done" if do.state == DONE else "may have happened"
        raise Invalid(Code.NO_WAY_BACK, f"This step is {self._step.kind} and {what}: it cannot be undone.")

    @property
    def _can_undo(self) -> bool:
        return self._step.compensate is not None and self._step.kind is not Kind.RETRIABLE

    def _compensate(self, case: _Case, work: Transaction) -> None:
        done = Done(work.do.input, work.do.output) if work.do.state == DONE else None
        if self._step.compensate is not None and self._can_undo:
            # Also when nothing is known of a do: the store may be a new one.
            self._step.compensate(self._message(case, done.output if done else case.envelope.body, work, done=done))

    # --- Failing ---

    def _failed(self, case: _Case, error: Exception) -> Taken:
        settings = self._settings
        found = records.error_of(error)
        if case.attempt >= self._attempts_max(case):
            return self._dead(case, found, error)
        retry_s = delay(case.attempt, first_s=settings.retry_s, most_s=settings.retry_s_max)
        logger.warning("attempt %s failed, the next is in %.1f s", case.attempt, retry_s, exc_info=error)
        reports = self._reports(case, records.RETRYING, error=found, retry_s=retry_s)
        return Taken(records.RETRYING, reports, retry_s=retry_s)

    def _attempts_max(self, case: _Case) -> int:
        return self._settings.attempts_max if case.place.way is Way.DO else self._settings.undo_attempts_max

    def _dead(self, case: _Case, error: Mapping[str, Any], cause: Exception) -> Taken:
        logger.error("attempt %s failed, and there is no other", case.attempt, exc_info=cause)
        letter = self._letter(case.record, case.envelope, error, case.attempt)
        with self._store.transaction(case.key) as work:
            if work.mine.state:
                return self._again(case, work.mine)
            outgoing = (letter, *self._reports(case, records.DEAD, error=error))
            work.finish(DEAD, outgoing=outgoing, input=case.envelope.body)
        return Taken(records.DEAD, outgoing, case.key)

    # --- What is said ---

    def _message(self, case: _Case, body: Any, work: Transaction, *, done: Done | None = None) -> Message:
        error = case.envelope.meta.get("error")
        return Message(
            global_id=case.envelope.global_id,
            branch=case.envelope.branch,
            body=body,
            steps=case.place.addresses,
            position=case.place.position,
            key=case.record_key,
            attempt=case.attempt,
            now=case.started_at,
            trace=case.trace,
            meta=case.envelope.meta,
            error=error if isinstance(error, dict) else {},
            done=done,
            connection=work.connection,
        )

    def _answers(self, case: _Case, sending: Sending | None) -> tuple[Outgoing, ...]:
        return (records.message(sending, key=case.record_key),) if sending is not None else ()

    def _reports(
        self,
        case: _Case,
        outcome: str,
        *,
        error: Mapping[str, Any] | None = None,
        sent: Sending | None = None,
        output: Any = None,
        retry_s: float | None = None,
        message_id: str = "",
    ) -> tuple[Outgoing, ...]:
        if not self._settings.sends_reports:
            return ()
        now = self._clock()
        times = Times(
            asked_at=case.record.sent_at,
            started_at=case.started_at,
            finished_at=now,
            retry_at=now + timedelta(seconds=retry_s) if retry_s is not None else None,
        )
        return (
            records.report(
                case.place,
                case.envelope,
                outcome,
                topic=self._settings.reports_to,
                key=case.record_key,
                attempt=case.attempt,
                times=times,
                trace=case.trace,
                error=error,
                sent=sent,
                output=output,
                report_id=ids.derived(case.envelope.message_id, message_id) if message_id else ids.uuid7(),
            ),
        )


def _as_json(value: Any) -> Any:
    try:
        return plain(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise Invalid(Code.BAD_RESULT, f"What handle returned is no JSON: {error}.") from None

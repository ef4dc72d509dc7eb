"""What services say to each other, heard: a message becomes a fact of its saga's run, which the first one begins."""

import json
import logging
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from django.utils import timezone

from apps.common.transactions import transaction_required
from apps.messaging.public import Meta, Overheard
from apps.saga.choreography import facts, store
from apps.saga.choreography.facts import Notice, Unusable, What
from apps.saga.choreography.plan import ServiceFailed
from apps.saga.choreography.settle import Work
from apps.saga.definition import Definition, registered
from apps.saga.models import RunStatus
from apps.saga.pipes import GROUP, PipeStep
from apps.saga.rows import RunRow
from apps.saga.session import GRACE, Session
from apps.saga.terms import ErrorClass

logger = logging.getLogger(__name__)

# What an incident is made of. A dead letter is told by the report before it, and once a commit.
_ERRORS = {What.RETRYING: ErrorClass.TECHNICAL, What.LETTER: ErrorClass.TECHNICAL, What.REFUSED: ErrorClass.BUSINESS}


@transaction_required
def hear(heard: Overheard, meta: Meta) -> None:
    """Write down what a message says, and what follows from it, in the consumer's commit. Safe to repeat."""
    now = timezone.now()
    try:
        notice = facts.read(heard.topic, heard.meta, heard.body, message_id=meta.message_id, group=GROUP)
        if notice is None:
            return
        session = _session(notice, heard, now=now)
        if session is not None:
            _take(session, notice, heard)
    except Unusable as error:
        # Its service buries it if it is nothing to it either.
        logger.warning("a message on %s says nothing about a run: %s", heard.topic, error)


def _take(session: Session, notice: Notice, heard: Overheard) -> None:
    services = services_of(session.definition)
    position = notice.place(services)
    work = Work(session, store.facts_of(session.run.id))
    keeps = notice.is_asking or notice.what is What.LETTER
    envelope = json.dumps({"meta": heard.meta, "body": heard.body}, ensure_ascii=False) if keeps else ""
    is_new = work.add(notice.fact(position, now=session.now), key=heard.key, envelope=envelope)
    if is_new and notice.what in _ERRORS:
        fact = notice.fact(position, now=session.now)
        session.occurred(ServiceFailed(fact), _ERRORS[notice.what], step=session.steps[position].name)
    _learn(session, notice, position, heard.body)
    if notice.what is What.IGNORED and is_new:
        session.run.late_answers += 1
    work.settle()


def _learn(session: Session, notice: Notice, position: int, body: Any) -> None:
    """The data that a message brings: what the run began with, and what a step gave back."""
    if notice.what is What.ASKED and not notice.undo:
        if position == 0 and not session.run.data:
            session.run.data = as_object(body)
            store.set_data(session.run.id, session.run.data)
        elif position > 0 and not session.steps[position - 1].output:
            session.touch(position - 1).output = as_object(body)
    elif notice.what is What.DONE and notice.output:
        try:
            session.touch(position).output = as_object(json.loads(notice.output))
        except ValueError:
            logger.warning("a report's output is no JSON")


def as_object(body: Any) -> dict[str, Any]:
    """A body as rows keep it: an object."""
    return body if isinstance(body, dict) else {} if body is None else {"body": body}


def services_of(definition: Definition) -> tuple[str, ...]:
    """The addresses of its steps."""
    return tuple(step.service for step in definition.steps if isinstance(step, PipeStep))


# --- Which run ----------------------------------------------------------------------------------------------------------
def _session(notice: Notice, heard: Overheard, *, now: datetime) -> Session | None:
    """The saga's run, locked; a new one for a saga that nobody heard of. None when it is no use case of ours."""
    run_id = store.run_of(notice.global_id, notice.branch)
    if run_id is None:
        definition = _definition(notice)
        if definition is None:
            logger.info("%s of no registered use case is under way at %s", notice.global_id, notice.service)
            return None
        notice.place(services_of(definition))  # or it is no message of this use case
        run_id = store.new_id()
        if store.claim(notice.global_id, notice.branch, run_id):
            return Session.create(definition, _new_run(run_id, definition, notice, heard, now=now), now=now)
        run_id = store.run_of(notice.global_id, notice.branch)  # somebody else was quicker, and has committed
    found = Session.lock(run_id, now=now, wait=True) if run_id is not None else None
    if found is None:
        logger.warning("%s is archived; what comes of it now is not kept", notice.global_id)
    return found


def _definition(notice: Notice) -> Definition | None:
    """The use case of a message: the one that it names, else the only one with its steps; the newest version by default."""
    known = [each for each in registered() if each.is_choreographed and notice.service in services_of(each)]
    if notice.use_case:
        known = [each for each in known if each.use_case == notice.use_case]
        known = [each for each in known if each.version == notice.version] or known
    else:
        known = [each for each in known if services_of(each) == notice.steps]
    if len({each.use_case for each in known}) != 1:
        return None
    return max(known, key=lambda each: each.version)


def _new_run(run_id: UUID, definition: Definition, notice: Notice, heard: Overheard, *, now: datetime) -> RunRow:
    global_id = _as_uuid(notice.global_id)
    return RunRow(
        id=run_id,
        global_id=global_id,
        use_case=definition.use_case,
        version=definition.version,
        subject_id=_as_uuid(str(heard.meta.get("subject-id") or notice.global_id)),
        business_key=str(heard.meta.get("business-key") or notice.global_id)[:200],
        status=RunStatus.RUNNING,
        data=as_object(heard.body)
        if notice.what is What.ASKED and not notice.undo and _is_first(notice, definition)
        else {},
        due_at=now + GRACE,
        started_at=now,
        deadline_at=now + definition.deadline if definition.deadline is not None else None,
    )


def _is_first(notice: Notice, definition: Definition) -> bool:
    return notice.place(services_of(definition)) == 0


def _as_uuid(text: str) -> UUID:
    """A saga's id as a UUID: as it is when it is one, else the one that follows from it."""
    try:
        return UUID(text)
    except ValueError:
        return uuid5(NAMESPACE_URL, f"pipes:{text}")

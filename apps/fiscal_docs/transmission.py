"""The conversation of one document with the authority: what is sent, what is asked, and in which order.

Holds no transaction while it waits. What must outlive a crash is committed on its own, before and after the wire: that
an attempt begins, that no answer came, that the authority refused. An authorisation is handed back and recorded by the
caller's commit; when the caller dies before it, asking by key finds it again.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from django.db import transaction

from apps.common.errors import UnknownOutcome
from apps.common.transactions import durable
from apps.fiscal_docs import authority, certificates, schemas
from apps.fiscal_docs.authority import Answer, AuthorityUnavailable, AuthorityUnreachable
from apps.fiscal_docs.documents import draft
from apps.fiscal_docs.lifecycle import (
    DENIED,
    EVENT_ALREADY_THERE,
    EVENT_REGISTERED,
    NUMBER_VOIDED,
    NUMBER_WAS_USED,
    Event,
    Fact,
    Outcome,
    State,
    fold,
    never_sent,
    outcome_of,
)
from apps.fiscal_docs.models import BlobKind, Document
from apps.fiscal_docs.operations import cancel as cancelling
from apps.fiscal_docs.operations import correct, issue, journal
from apps.fiscal_docs.operations.cancel import Undo
from apps.fiscal_docs.operations.correct import Correct
from apps.fiscal_docs.operations.issue import Sending

logger = logging.getLogger(__name__)

# Ask, void, ask again (the number was used after all: our own late request), cancel. More rounds would go in circles.
UNDO_ROUNDS_MAX = 4

# A question may be refused (the certificate, the schema, too many questions): that says nothing about the key.
KNOWN_ABOUT_A_KEY = frozenset({Outcome.AUTHORISED, Outcome.CANCELLED, Outcome.UNKNOWN_KEY})

T = TypeVar("T")


def _commit(verb: Callable[..., T], **arguments: Any) -> T:
    with transaction.atomic(durable=True):
        return verb(**arguments)


def _bytes(document: Document, kind: BlobKind) -> bytes:
    found = journal.content(document, kind)
    if found is None:
        raise journal.NothingPrepared(f"Document {document.id} has no {kind.label}.")
    return found


def _connects(document: Document, now: datetime) -> UUID:
    """The certificate that opens the connection on which a document is sent: the one that signed it, while it is valid.

    Later it is the issuer's of today: the authority then says what it does not like, instead of closing the door.
    """
    own = document.certificate_id
    if own is not None and now < certificates.identity(own).certificate.not_valid_after_utc:
        return own
    return journal.acting_certificate(document)


def _consult(document: Document) -> Answer:
    """What the authority knows about the document, under whichever of its keys; the latest key's answer when nothing."""
    told = []
    for key in correct.keys_of(document):
        told.append(_consult_key(document, key))
        if outcome_of(told[-1].status) in (Outcome.AUTHORISED, Outcome.CANCELLED):
            return told[-1]
    return told[0]


def _consult_key(document: Document, key: str) -> Answer:
    answer = authority.consult(
        access_key=key,
        environment=document.environment,
        certificate_id=journal.acting_certificate(document),
    )
    told = outcome_of(answer.status) in KNOWN_ABOUT_A_KEY or answer.status in DENIED
    if not told or answer.key not in ("", key):
        raise AuthorityUnavailable(f"asked by key, and not told: {answer.status} {answer.reason}")
    return replace(answer, key=key)


def _about_another(document: Document, answer: Answer) -> bool:
    return answer.key not in ("", document.access_key)


def _issued(document: Document, answer: Answer, *, status: str = "100") -> dict[str, Any]:
    """The outcome of an issue: texts only, so that a saga can keep it."""
    return {
        "status": answer.status if outcome_of(answer.status) is Outcome.AUTHORISED else status,
        "reason": answer.reason,
        "access_key": answer.key or document.access_key or "",
        "protocol": answer.protocol,
        "at": answer.at,
        "digest": answer.digest,
        "answer_xml": answer.xml.decode(),
    }


def _already(document: Document) -> dict[str, Any]:
    """The outcome of what is recorded already; recording it again changes nothing."""
    return {
        "status": "100",
        "reason": "recorded before",
        "access_key": document.access_key or "",
        "protocol": document.protocol,
    }


def _handed_out(document: Document) -> dict[str, Any]:
    """The outcome of an issue in contingency: nothing was sent."""
    return {
        "status": issue.HANDED_OUT,
        "reason": "handed out before the authority has it",
        "access_key": document.access_key or "",
        "protocol": "",
    }


@durable
def transmit(
    *,
    step_key: str,
    now: datetime,
    sending: Sending | None = None,
    again: Correct | None = None,
    deliver: bool = False,
) -> dict[str, Any]:
    """Send the stored bytes and give the outcome to record. Safe to repeat: the authority knows the key.

    ``sending``: what ``begin_sending`` gave in an earlier commit of the caller's; without it the attempt is noted here,
    and ``again`` tells how a document that was refused is signed again for it. Ask the authority first (ask_authority).
    A document that was signed in contingency is handed out only, until somebody wants it delivered (``deliver``).
    Raises DocumentRejected or NumberConflict (kept before they are raised), IssueUndone, UnknownOutcome when no answer
    came, ConnectionError when nothing was sent or the authority decides nothing now.
    """
    begun = sending or _commit(issue.begin_sending, step_key=step_key, now=now, again=again, deliver=deliver)
    document = begun.document
    if not begun.attempt:
        return _already(document) if document.state == State.AUTHORISED else _handed_out(document)
    noted = _noter(step_key, begun.attempt, now)
    try:
        answer = authority.authorise(signed=begun.signed, certificate_id=_connects(document, now))
        return _decided(document, answer, noted)
    except UnknownOutcome:
        noted(Fact.UNKNOWN)
        raise
    except AuthorityUnreachable:
        noted(Fact.NOT_DELIVERED)
        raise


Noter = Callable[..., None]


def _noter(step_key: str, attempt: int, now: datetime) -> Noter:
    def noted(fact: Fact, status: str = "", reason: str = "", answer: bytes = b"") -> None:
        event = Event(fact=fact, seq=attempt, status=status, reason=reason)
        _commit(issue.note, step_key=step_key, event=event, now=now, answer=answer)

    return noted


def _decided(document: Document, answer: Answer, noted: Noter) -> dict[str, Any]:
    kind, said = outcome_of(answer.status), f"{answer.status} {answer.reason}"
    if _about_another(document, answer):
        raise UnknownOutcome(f"the answer is about another document: {said}")
    if kind is Outcome.AUTHORISED:
        return _issued(document, answer)
    if kind is Outcome.DUPLICATE:
        return _adopt(document)
    if kind is Outcome.CONFLICT and (earlier := _earlier_file(document)):
        return earlier
    if kind is Outcome.PENDING:
        raise UnknownOutcome(f"accepted and not decided: {said}")
    if kind is Outcome.UNAVAILABLE:
        noted(Fact.NOT_DELIVERED, answer.status, answer.reason)
        raise AuthorityUnavailable(said)
    noted(Fact.REJECTED, answer.status, answer.reason, answer.xml)
    if kind is Outcome.CONFLICT:
        logger.error("number conflict at the tax authority", extra={"document": str(document.id), "said": said})
        raise issue.NumberConflict(said)
    raise issue.DocumentRejected(said)


def _earlier_file(document: Document) -> dict[str, Any] | None:
    """The number is used under another key. Is it one that we signed the document under before, and that arrived late?"""
    if len(correct.keys_of(document)) == 1:
        return None
    try:
        answer = _consult(document)
    except ConnectionError as error:
        raise UnknownOutcome("the number is used, and an earlier key of ours could not be asked for") from error
    return _issued(document, answer) if outcome_of(answer.status) is Outcome.AUTHORISED else None


def _adopt(document: Document) -> dict[str, Any]:
    """The authority has this very key: an earlier request of ours arrived. Take its protocol."""
    try:
        answer = _consult(document)
    except ConnectionError as error:
        raise UnknownOutcome("sent twice, and the first protocol could not be asked for") from error
    if outcome_of(answer.status) is Outcome.AUTHORISED:
        return _issued(document, answer)
    raise UnknownOutcome(f"sent twice, and the key is {answer.status} {answer.reason}")


@durable
def ask_authority(*, step_key: str, now: datetime) -> dict[str, Any] | None:
    """Was the document authorised? Its outcome, or None when the authority does not know the key (send again).

    Raises IssueUndone when it was cancelled meanwhile, ConnectionError when the authority cannot be asked.
    """
    document = journal.read(step_key)
    known = journal.facts(document)
    life = fold(known)
    if life.state is State.AUTHORISED:
        return _already(document)
    if life.state is State.CANCELLED:
        raise issue.IssueUndone
    if never_sent(known):
        return None  # every attempt is noted before it is made, and what came of it after
    answer = _consult(document)
    kind = outcome_of(answer.status)
    if kind is Outcome.AUTHORISED:
        return _issued(document, answer)
    if kind is Outcome.CANCELLED:
        raise issue.IssueUndone(f"The authority says that the document is cancelled ({answer.status} {answer.reason}).")
    if life.state in (State.SENT, State.UNKNOWN):
        _noter(step_key, life.attempts, now)(Fact.NOT_DELIVERED, answer.status, answer.reason)
    return None


def _cancelled(answer: Answer) -> dict[str, Any] | None:
    """The outcome of a cancellation that the authority already has, from asking by key."""
    if outcome_of(answer.status) is not Outcome.CANCELLED:
        return None
    return {
        "status": answer.event_status or "135",
        "reason": answer.reason,
        "protocol": answer.event_protocol,
        "at": answer.at,
        "answer_xml": answer.event_xml.decode(),
    }


@durable
def cancel(*, step_key: str, now: datetime) -> dict[str, Any]:
    """Send the stored cancellation and give the outcome to record; a refusal is kept and handed back as an outcome too.

    A duplicate (573, 218) is asked about by key and is a success. Raises UnknownOutcome, ConnectionError.
    """
    document = _commit(cancelling.begin_cancelling, step_key=step_key, now=now)
    if document.state == State.CANCELLED:
        return {"status": "135", "reason": "recorded before", "protocol": "", "at": "", "answer_xml": ""}
    answer = authority.send_event(
        signed=_bytes(document, BlobKind.EVENT), certificate_id=journal.acting_certificate(document)
    )
    if _about_another(document, answer):
        raise UnknownOutcome(f"the answer is about another document: {answer.status} {answer.reason}")
    if answer.status in EVENT_ALREADY_THERE:
        found = _cancelled(_consult(document))
        if found is None:
            raise UnknownOutcome(f"{answer.status} {answer.reason}, and asking by key does not confirm it")
        return found
    if outcome_of(answer.status) is Outcome.UNAVAILABLE:
        raise AuthorityUnavailable(f"{answer.status} {answer.reason}")
    if answer.status not in EVENT_REGISTERED:
        _commit(cancelling.note_denial, step_key=step_key, status=answer.status, reason=answer.reason, now=now)
    return {
        "status": answer.status,
        "reason": answer.reason,
        "protocol": answer.protocol,
        "at": answer.at,
        "answer_xml": answer.xml.decode() if answer.status in EVENT_REGISTERED else "",
    }


@durable
def ask_cancelled(*, step_key: str, now: datetime) -> dict[str, Any] | None:  # noqa: ARG001  (the verbs of a step are alike)
    """Was the document cancelled? Its outcome, or None when it was not."""
    document = journal.read(step_key)
    if document.access_key is None:
        return None
    return _cancelled(_consult(document))


@durable
def undo_call(*, step_key: str, now: datetime) -> dict[str, Any]:
    """Undo an issue at the authority: cancel it, or void its number, or find that nothing is left. Safe to repeat.

    Signs and stores, in commits of its own, what turns out to be needed only after asking by key. Gives the outcome to
    record: "undone" is nothing, cancelled, denied, voided or abandoned. Raises UnknownOutcome, ConnectionError.
    """
    for _ in range(UNDO_ROUNDS_MAX):
        document = journal.read(step_key)
        left = cancelling.what_is_left(document)
        if left is Undo.NOTHING:
            return {"undone": "nothing"}
        if left is Undo.CANCEL:
            _commit(cancelling.prepare_cancel, step_key=step_key, now=now)
            outcome = cancel(step_key=step_key, now=now)
            return {"undone": "cancelled" if outcome["status"] in EVENT_REGISTERED else "denied", **outcome}
        answer = _consult(document) if left is Undo.ASK else None
        if answer and _take_over(document, answer, now):
            continue
        outcome = _void(document, now)
        if outcome["status"] in NUMBER_VOIDED:
            return {"undone": "voided", **outcome}
        if outcome["status"] != NUMBER_WAS_USED:
            raise AuthorityUnavailable(f"the number was not voided: {outcome['status']} {outcome['reason']}")
        if not _take_over(document, _consult(document), now):
            # The number is another document's (539), and ours does not exist there: nothing is left to undo.
            return {"undone": "abandoned", **outcome}
    raise UnknownOutcome("undoing went in circles")


def _take_over(document: Document, answer: Answer, now: datetime) -> bool:
    """Record what asking by key found out; False when the authority does not know the key."""
    kind, step_key = outcome_of(answer.status), document.step_key
    if kind not in (Outcome.AUTHORISED, Outcome.CANCELLED):
        return False
    _commit(issue.record_issue, step_key=step_key, outcome=_issued(document, answer), now=now)
    found = _cancelled(answer)
    if found:
        _commit(cancelling.record_cancel, step_key=step_key, outcome=found, now=now)
    return True


def _void(document: Document, now: datetime) -> dict[str, Any]:
    _commit(cancelling.prepare_voiding, step_key=document.step_key, now=now)
    answer = authority.void_number(
        signed=_bytes(document, BlobKind.VOID), certificate_id=journal.acting_certificate(document)
    )
    if outcome_of(answer.status) is Outcome.UNAVAILABLE:
        raise AuthorityUnavailable(f"{answer.status} {answer.reason}")
    return {
        "status": answer.status,
        "reason": answer.reason,
        "protocol": answer.protocol,
        "at": answer.at,
        "answer_xml": answer.xml.decode(),
    }


@durable
def undo_did_it_happen(*, step_key: str, now: datetime) -> dict[str, Any] | None:
    """Asked before an undo is repeated: the outcome when the document is found cancelled; None: undo_call may repeat."""
    document = journal.find(step_key)
    if document is None or not journal.life(document).attempts:
        return None
    found = ask_cancelled(step_key=step_key, now=now)
    return {"undone": "cancelled", **found} if found else None


def warm_up() -> None:
    """Load the bindings and compile the schemas now (0.4 s), so that the first order does not wait for it."""
    draft.warm_up()
    schemas.warm_up()

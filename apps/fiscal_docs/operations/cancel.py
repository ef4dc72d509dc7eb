"""Verbs of taking back: cancel what is authorised, void a number that never was, leave a tombstone for what never began.

Every verb is a part of the caller's commit, is keyed by ``step_key`` and may be repeated.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from apps.common.errors import DomainError
from apps.common.transactions import transaction_required
from apps.fiscal_docs import certificates, keys, schemas
from apps.fiscal_docs.documents import archive
from apps.fiscal_docs.documents.draft import printable
from apps.fiscal_docs.lifecycle import EVENT_REGISTERED, RETURN_NEEDED, Event, Fact, State
from apps.fiscal_docs.models import BlobKind, Document, DocumentKind, Environment
from apps.fiscal_docs.operations import journal
from apps.fiscal_docs.operations.issue import summary
from apps.fiscal_docs.signature import sign

EVENT_CANCEL = "110111"
CANCEL_REASON = "Compra desfeita: a venda nao se concluiu."
VOID_REASON = "Numero nao utilizado: a venda nao se concluiu."
REASON_LENGTH = range(15, 256)  # xJust


class NotAuthorised(DomainError):
    """Only an authorised document can be cancelled."""

    code = "R410"


class ReturnDocumentNeeded(DomainError):
    """The authority no longer cancels this document: a return document must be issued, and the document stays valid."""

    code = "R409"


class CancelRefused(DomainError):
    """The authority refused the cancellation: the document stays valid."""

    code = "R412"


class ReasonUnfit(DomainError):
    """A reason that a document carries has 15 to 255 characters."""

    code, status = "R415", 422


class Undo(StrEnum):
    """What is left to undo."""

    NOTHING = "nothing"
    CANCEL = "cancel"
    VOID = "void"
    ASK = "ask"  # it was sent, and nobody here knows what became of it


def _identity(document: Document) -> certificates.Identity:
    return certificates.identity(journal.acting_certificate(document))


def fit_reason(text: str) -> str:
    """A reason as the layout takes it (xJust). Raises ReasonUnfit."""
    reason = printable(text, REASON_LENGTH.stop - 1)
    if len(reason) not in REASON_LENGTH:
        raise ReasonUnfit(field="reason")
    return reason


@transaction_required
def prepare_cancel(*, step_key: str, now: datetime, reason: str = CANCEL_REASON) -> None:
    """Sign the cancellation and store its exact bytes before it is sent. Safe to repeat.

    Raises NotAuthorised, ReasonUnfit.
    """
    _sign_cancellation(journal.locked(step_key), reason, now)


def _sign_cancellation(document: Document, reason: str, now: datetime) -> None:
    current = journal.life(document)
    if current.state is State.CANCELLED or journal.has(document, Fact.CANCEL_SIGNED):
        return
    if current.state is not State.AUTHORISED:
        raise NotAuthorised(f"The document is {current.state}.")
    from apps.fiscal_docs.documents import requests

    xml, reference = requests.cancellation(
        key=keys.parse(document.access_key or ""),
        protocol=current.protocol,
        reason=fit_reason(reason),
        environment=document.environment,
        at=max(now, document.authorised_at or now),  # an event from before the authorisation is refused (579)
    )
    identity = _identity(document)
    signed = sign(xml.encode(), reference=reference, key=identity.key, certificate=identity.certificate)
    _must_be_valid(archive.event_batch(signed, "1"), schemas.ENV_EVENTO_CANCEL)
    journal.store(document, BlobKind.EVENT, signed, now=now)
    journal.append(document, Event(fact=Fact.CANCEL_SIGNED), now=now, event_type=EVENT_CANCEL)


def _must_be_valid(xml: bytes, schema: str) -> None:
    """What we build from our own data satisfies its schema, or we have a bug."""
    wrong = schemas.errors(xml, schema)
    if wrong:
        raise ValueError(f"built an invalid message: {wrong[0]}")


@transaction_required
def begin_cancelling(*, step_key: str, now: datetime) -> Document:
    """Note that the cancellation is about to be sent."""
    document = journal.locked(step_key)
    if document.state != State.CANCELLED:
        journal.append(document, Event(fact=Fact.CANCEL_SENT), now=now, event_type=EVENT_CANCEL)
    return document


@transaction_required
def note_denial(*, step_key: str, status: str, reason: str, now: datetime) -> None:
    """Keep a refused cancellation: the document stays authorised, and a person sees why."""
    event = Event(fact=Fact.CANCEL_DENIED, status=status, reason=reason)
    journal.append(journal.locked(step_key), event, now=now, event_type=EVENT_CANCEL)


@transaction_required
def record_cancel(*, step_key: str, outcome: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Record what became of a cancellation. Safe to repeat.

    Raises ReturnDocumentNeeded when the authority no longer cancels (late, goods in circulation, receipt confirmed): the
    document stays AUTHORISED and has to be reversed by a return document. Raises CancelRefused for any other refusal.
    """
    document = journal.locked(step_key)
    if document.state == State.CANCELLED:
        return summary(document)
    status, reason = str(outcome["status"]), str(outcome["reason"])
    if status not in EVENT_REGISTERED:
        refusal = ReturnDocumentNeeded if status in RETURN_NEEDED else CancelRefused
        raise refusal(f"{refusal.title()} ({status} {reason})")
    answer, signed = str(outcome["answer_xml"]).encode(), journal.content(document, BlobKind.EVENT)
    if answer:
        journal.store(document, BlobKind.ANSWER, answer, now=now)
    if answer and signed:
        journal.store(document, BlobKind.EVENT_PROC, archive.event_proc(signed, answer), now=now)
    event = Event(fact=Fact.CANCELLED, status=status, reason=reason, protocol=str(outcome["protocol"]))
    journal.append(document, event, now=now, event_type=EVENT_CANCEL)
    return summary(document)


@transaction_required
def undo_prepare(*, step_key: str, now: datetime, order_id: UUID | None = None, actor: str = "", reason: str = "") -> str:
    """Begin to undo an issue, and say what is left: "nothing", "cancel", "void" or "ask". Safe to repeat.

    From here on nothing more is sent for this step. What was never prepared leaves a tombstone, so that a late prepare is
    refused; what is authorised gets its cancellation signed; what was signed and never sent gets the voiding of its number
    signed; what was sent and is not known to be authorised is asked about first, over the network. ``actor``, ``reason``:
    the person who wants it, if one does.
    """
    if journal.find_alone(step_key) is None:
        return _tombstone(step_key, order_id, now)
    document = journal.locked(step_key)
    journal.append(document, Event(fact=Fact.UNDO_ASKED, actor=actor, reason=reason), now=now)
    left = what_is_left(document)
    if left is Undo.CANCEL:
        _sign_cancellation(document, CANCEL_REASON, now)
    elif left is Undo.VOID:
        _sign_voiding(document, now)
    return str(left)


def _tombstone(step_key: str, order_id: UUID | None, now: datetime) -> str:
    document = Document.objects.create(
        step_key=step_key,
        kind=DocumentKind.NFCE,
        environment=Environment.HOMOLOGATION,
        order_id=order_id,
        state=State.DRAFT,
        created_at=now,
        updated_at=now,
    )
    journal.append(document, Event(fact=Fact.ABANDONED), now=now)
    return str(Undo.NOTHING)


def what_is_left(document: Document) -> Undo:
    """What the facts say is still to be undone."""
    current = journal.life(document)
    if current.state in (State.CANCELLED, State.NUMBER_VOIDED, State.ABANDONED):
        return Undo.NOTHING
    if current.state is State.AUTHORISED:
        return Undo.CANCEL
    # Even a document that was rejected, or unknown when we last asked, may still be on its way: its key is asked for.
    return Undo.ASK if current.attempts else Undo.VOID


@transaction_required
def prepare_voiding(*, step_key: str, now: datetime) -> None:
    """Sign the voiding of the document's number and store its exact bytes before it is sent. Safe to repeat."""
    _sign_voiding(journal.locked(step_key), now)


def _sign_voiding(document: Document, now: datetime) -> None:
    if journal.has(document, Fact.VOID_SIGNED):
        return
    from apps.fiscal_docs.documents import requests

    key = keys.parse(document.access_key or "")
    xml, reference = requests.voiding(key=key, reason=VOID_REASON, environment=document.environment)
    identity = _identity(document)
    signed = sign(xml.encode(), reference=reference, key=identity.key, certificate=identity.certificate)
    _must_be_valid(signed, schemas.INUT_NFE)
    journal.store(document, BlobKind.VOID, signed, now=now)
    journal.append(document, Event(fact=Fact.VOID_SIGNED), now=now)


@transaction_required
def undo_record(*, step_key: str, outcome: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Record how an undo ended ("undone": nothing, cancelled, voided, abandoned or denied). Safe to repeat.

    Raises ReturnDocumentNeeded or CancelRefused when the document could not be cancelled.
    """
    undone = outcome["undone"]
    if undone in ("cancelled", "denied"):
        return record_cancel(step_key=step_key, outcome=outcome, now=now)
    document = journal.locked(step_key)
    ends = {"voided": Fact.NUMBER_VOIDED, "abandoned": Fact.ABANDONED}
    if undone in ends:
        status, reason = str(outcome["status"]), str(outcome["reason"])
        if outcome.get("answer_xml"):
            journal.store(document, BlobKind.ANSWER, str(outcome["answer_xml"]).encode(), now=now)
        event = Event(fact=ends[undone], status=status, reason=reason, protocol=str(outcome["protocol"]))
        journal.append(document, event, now=now)
    return summary(document)

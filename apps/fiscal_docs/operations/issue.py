"""Verbs of issuing: check, number and sign, note what was sent, record the authority's answer.

Every verb is a part of the caller's commit, is keyed by ``step_key`` and may be repeated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from apps.common.errors import DomainError
from apps.common.transactions import transaction_required
from apps.fiscal_docs import certificates
from apps.fiscal_docs.documents import archive, draft, sale
from apps.fiscal_docs.documents.consumer_urls import urls_of
from apps.fiscal_docs.documents.sale import SaleToDocument
from apps.fiscal_docs.keys import NORMAL, OFFLINE, AccessKey, new_key
from apps.fiscal_docs.lifecycle import Event, Fact, Outcome, State, fold, outcome_of
from apps.fiscal_docs.models import BlobKind, Document, DocumentKind
from apps.fiscal_docs.operations import correct, journal
from apps.fiscal_docs.operations.correct import Correct
from apps.fiscal_docs.operations.issuers import Ready, ready, take_number
from apps.fiscal_docs.operations.signing import signed

ISSUED = frozenset({State.AUTHORISED, State.CANCELLED})


class IssueUndone(DomainError):
    """This issue was undone: the document can no longer be prepared or sent."""

    code = "R406"


class DocumentRejected(DomainError):
    """The tax authority rejected the document."""

    code = "R407"


class NumberConflict(DomainError):
    """The authority knows another document under this number: a person must look."""

    code = "R408"


HANDED_OUT = "offline"  # in place of a cStat: the authority was not asked


class AnswerForOtherBytes(Exception):
    """The authority's answer is about another document than the one we signed. Never expected: stop and look."""


@transaction_required
def check_can_issue(*, sale: SaleToDocument, now: datetime) -> None:
    """Would this sale get its document? Looks only.

    Raises SaleNotDocumentable, NoIssuer, CertificateUnusable, NoNumberLeft or StateNotSupported.
    """
    _ready(sale, now)


def _ready(sold: SaleToDocument, now: datetime) -> Ready:
    sale.check(sold)
    issuer = ready(sold.issuer_cnpj, sold.kind, now)
    if sold.kind == DocumentKind.NFCE:
        urls_of(issuer.printed.uf_code, issuer.environment)
    return issuer


@transaction_required
def prepare_issue(*, step_key: str, sale: SaleToDocument, now: datetime) -> dict[str, Any]:
    """Give the sale a number and a key, sign it and store the exact bytes: all before anything is sent. Safe to repeat.

    Raises what check_can_issue raises, DocumentInvalid, and IssueUndone when the undo came first.
    """
    document = journal.find_alone(step_key)
    if document is None:
        document = _number_and_sign(step_key, sale, now)
    elif document.access_key is None or journal.has(document, Fact.UNDO_ASKED):
        raise IssueUndone
    return summary(document)


def _number_and_sign(step_key: str, sold: SaleToDocument, now: datetime) -> Document:
    issuer = _ready(sold, now)
    draft.warm_up()  # before the number's row is locked: the first import takes 0.3 s
    certificates.identity(issuer.certificate_id)  # and so is the key unsealed
    printed = issuer.printed
    series, number = take_number(issuer, sold.kind)
    key = new_key(
        uf_code=printed.uf_code,
        issued_at=now,
        cnpj=printed.cnpj,
        kind=sold.kind,
        series=series,
        number=number,
        emission_type=OFFLINE if issuer.offline else NORMAL,
    )
    planned = draft.Draft(
        issuer=printed, sale=sold, key=key, issued_at=now, environment=issuer.environment, offline=issuer.offline
    )
    content = signed(planned, certificate_id=issuer.certificate_id)
    document = _document(step_key, planned, issuer, now)
    facts = Event(fact=Fact.NUMBERED), Event(fact=Fact.SIGNED)
    journal.create(document, *facts, now=now, keep=[(BlobKind.SIGNED, content)])
    return document


def _document(step_key: str, planned: draft.Draft, issuer: Ready, now: datetime) -> Document:
    key: AccessKey = planned.key
    return Document(
        step_key=step_key,
        kind=key.kind,
        environment=planned.environment,
        access_key=str(key),
        issuer_id=issuer.id,
        certificate_id=issuer.certificate_id,
        issuer_cnpj=issuer.printed.cnpj,
        recipient=planned.sale.buyer_document,
        series=key.series,
        number=key.number,
        emission_type=key.emission_type,
        issued_at=planned.issued_at,
        total=planned.sale.total,
        order_id=planned.sale.order_id,
        account_id=planned.sale.account_id,
        state=State.DRAFT,
        schema_version=draft.schema_version(),
        created_at=now,
        updated_at=now,
    )


def summary(document: Document) -> dict[str, Any]:
    """What a saga keeps of a document: texts and numbers only."""
    return {
        "document_id": str(document.id),
        "access_key": document.access_key or "",
        "kind": document.kind,
        "series": document.series,
        "number": document.number,
        "state": str(document.state),
        "protocol": document.protocol,
    }


@dataclass(frozen=True, slots=True)
class Sending:
    """An attempt to send that was noted: who keeps it may make it, once. ``attempt`` 0: there is nothing to send."""

    document: Document
    attempt: int
    signed: bytes = b""


@transaction_required
def begin_sending(*, step_key: str, now: datetime, again: Correct | None = None, deliver: bool = False) -> Sending:
    """Note an attempt before it is made, so that a crash in the middle is seen as one. Raises IssueUndone, NothingPrepared.

    A document that is already authorised gets no attempt (0), and so does one that was signed in contingency, unless it is
    to be delivered now (``deliver``). An undo that was asked for fences later sends off.
    ``again``: how a document that was refused, or that was signed too long ago, is signed again for this attempt, in the
    same commit; without it the bytes that we have are sent. Raises NotCorrectable then, and what prepare_issue raises.
    """
    document, known = journal.locked_with_facts(step_key)
    current = fold(known)
    if current.state is State.AUTHORISED:
        return Sending(document, 0)
    if current.undo_asked or document.access_key is None or current.state in (State.CANCELLED, State.NUMBER_VOIDED):
        raise IssueUndone
    if document.emission_type == OFFLINE and not deliver:
        return Sending(document, 0)
    content = journal.content(document, BlobKind.SIGNED)
    if content is None:
        raise journal.NothingPrepared(f"Document {document.id} has no signed document.")
    anew = correct.sign_again(document, known, current, again, now) if again is not None else None
    if anew is not None:
        content, known = anew, journal.facts(document)
    if document.emission_type == OFFLINE and not deliver:
        return Sending(document, 0)  # signed again for it just now
    attempt = current.attempts + 1
    journal.append(document, Event(fact=Fact.SENT, seq=attempt), now=now, known=known)
    return Sending(document, attempt, content)


@transaction_required
def note(*, step_key: str, event: Event, now: datetime, answer: bytes = b"") -> None:
    """Add one fact about an attempt: no answer (UNKNOWN), not delivered, rejected; with the authority's own bytes."""
    keep = [(BlobKind.ANSWER, answer)] if answer else []
    journal.append(journal.locked(step_key), event, now=now, keep=keep)


@transaction_required
def record_issue(*, step_key: str, outcome: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Record an authorisation and archive the document with its protocol; or that it was handed out in contingency (its
    state is OFFLINE then, and it has to be delivered). Safe to repeat.

    Raises DocumentRejected for an outcome that is no authorisation, AnswerForOtherBytes when the answer is not ours.
    """
    document, known = journal.locked_with_facts(step_key)
    if document.state in ISSUED:
        return summary(document)
    status = str(outcome["status"])
    if status == HANDED_OUT:
        journal.append(document, Event(fact=Fact.OFFLINE), now=now, known=known)
        return summary(document)
    if outcome_of(status) is not Outcome.AUTHORISED:
        raise DocumentRejected(f"{status} {outcome['reason']}")
    content = correct.file_of(document, access_key=str(outcome["access_key"]), digest=str(outcome["digest"]))
    if content is None:
        raise AnswerForOtherBytes(f"document {document.id}")
    if any(event.fact is Fact.SIGNED_AGAIN for event in known):
        correct.show_as(document, content)  # the authority may have an earlier file of ours
    answer = str(outcome["answer_xml"]).encode()
    document.authorised_at = datetime.fromisoformat(outcome["at"])
    event = Event(fact=Fact.AUTHORISED, status=status, reason=str(outcome["reason"]), protocol=str(outcome["protocol"]))
    keep = [(BlobKind.ANSWER, answer), (BlobKind.PROC, archive.nfe_proc(content, answer))]
    journal.append(document, event, now=now, keep=keep, known=known)
    return summary(document)

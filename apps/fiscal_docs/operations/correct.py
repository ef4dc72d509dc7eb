"""Sign a document again under its own number: the authority refused it, or its hour of emission is too long ago.

Note [One number, several files]
A refusal leaves the number free, so the corrected document takes the same one. Its key stays the same, too, unless the
month of emission is another one: the random part is kept. So whatever was sent before, and arrives late, meets the new
file at the authority: under one key it answers 204, under another key of the number 539, and it never has both. Which of
our files it has is told by the digest in its answer. That is why no earlier file is ever thrown away, why a document of
which nobody knows anything is asked for under all its keys, and why what is recorded is the file that the answer is about.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from lxml import etree

from apps.common.errors import DomainError
from apps.fiscal_docs import keys
from apps.fiscal_docs.documents import draft, sale
from apps.fiscal_docs.documents.archive import NAMESPACE
from apps.fiscal_docs.documents.consumer_urls import urls_of
from apps.fiscal_docs.documents.sale import SaleToDocument
from apps.fiscal_docs.keys import AccessKey
from apps.fiscal_docs.lifecycle import NUMBER_TAKEN, Event, Fact, Life, State, never_sent
from apps.fiscal_docs.models import BlobKind, Contingency, Document, DocumentKind
from apps.fiscal_docs.operations import journal
from apps.fiscal_docs.operations.issuers import Ready, ready, take_number
from apps.fiscal_docs.operations.journal import FILES_MAX
from apps.fiscal_docs.operations.signing import signed
from apps.fiscal_docs.signature import digest_value, read_xml

# The authority shuts an issuer out for an hour who has the same document refused thirty times.
REFUSALS_MAX = 20
# Tried every five minutes, late each time, for more than a day. All files are read when an answer comes.
SIGNED_MAX = FILES_MAX - 1
JUST_SIGNED = timedelta(minutes=1)  # so long nobody looks whether contingency was switched on since then
# Past this an authority refuses the hour of emission (704: five minutes, 228: seven days). With some air for the way.
FRESH = {DocumentKind.NFCE: timedelta(minutes=4), DocumentKind.NFE: timedelta(days=6)}
HANDED_OUT = "Signed again to be handed out in contingency: it was never sent."
LATE = "Signed again before it was sent: its hour of emission was too long ago."


class NotCorrectable(DomainError):
    """This document cannot be signed again under its number."""

    code = "R416"


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What the document shall say now, and who had it corrected, and why.

    ``instead_of``: its number, when the authority says that another document has it (539 …) and a person has made sure
    that this is no document of the same order: it gets the next number then.
    """

    sale: SaleToDocument
    actor: str = ""
    reason: str = ""
    instead_of: int | None = None


Correct = Callable[[], Correction]  # asked only when there is something to correct


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One field of the layout, by its path: as it was signed, and as it would be. Empty: it is not there."""

    field: str
    before: str
    after: str


def sign_again(document: Document, known: Sequence[Event], current: Life, correct: Correct, now: datetime) -> bytes | None:
    """Build and sign it anew, keep the bytes and the fact; None when the bytes that we have are good. The row is locked.

    Raises NotCorrectable, SaleNotDocumentable, NoIssuer, CertificateUnusable, StateNotSupported, DocumentInvalid, and
    NoNumberLeft when it needs another number.
    """
    if current.state is State.REJECTED:
        return _corrected(document, known, current, correct(), now)
    if current.state is not State.SIGNED or _signed(known) >= SIGNED_MAX:
        return None  # what may be at the authority already goes as it is; what was handed out stays as it was
    if _may_be_handed_out(document, known, current, now):
        planned, issuer = _planned(document, correct().sale, now, contingency=True)
        reason = HANDED_OUT
    elif _is_late(document, now):
        planned, issuer = _planned(document, correct().sale, now)
        reason = LATE
    else:
        return None
    event = Event(fact=Fact.SIGNED_AGAIN, seq=current.attempts, reason=reason)
    return _kept(document, planned, event, known=known, issuer=issuer, now=now)


def _corrected(
    document: Document, known: Sequence[Event], current: Life, correction: Correction, now: datetime
) -> bytes | None:
    taken = current.refusal_code in NUMBER_TAKEN
    if taken and correction.instead_of != document.number:
        return None  # a correction under this number is in vain
    if sum(event.fact is Fact.REJECTED for event in known) >= REFUSALS_MAX or _signed(known) >= SIGNED_MAX:
        raise NotCorrectable("It was refused, or signed again, too often: find the cause first.")
    planned, issuer = _planned(document, correction.sale, now, other_number=taken)
    was = f"It was number {document.number} of series {document.series}, which is taken. " if taken else ""
    event = Event(fact=Fact.SIGNED_AGAIN, seq=current.attempts, reason=f"{was}{correction.reason}", actor=correction.actor)
    return _kept(document, planned, event, known=known, issuer=issuer, now=now)


def _signed(known: Sequence[Event]) -> int:
    return sum(event.fact is Fact.SIGNED_AGAIN for event in known)


def _may_be_handed_out(document: Document, known: Sequence[Event], current: Life, now: datetime) -> bool:
    """Contingency was switched on since it was signed, and the authority has certainly got nothing of it."""
    usual = document.kind == DocumentKind.NFCE and document.emission_type == keys.NORMAL
    just_signed = document.issued_at is not None and now - document.issued_at < JUST_SIGNED
    if not usual or (just_signed and not current.attempts) or not never_sent(known):
        return False
    return Contingency.objects.filter(kind=document.kind, ended_at=None).exists()


def _is_late(document: Document, now: datetime) -> bool:
    if document.emission_type == keys.OFFLINE or document.issued_at is None:
        return False  # a receipt of a contingency is taken however late, in the words that a customer may have
    return now - document.issued_at > FRESH[DocumentKind(document.kind)]


def _kept(
    document: Document, planned: draft.Draft, event: Event, *, known: Sequence[Event], issuer: Ready, now: datetime
) -> bytes:
    content = signed(planned, certificate_id=issuer.certificate_id)
    document.certificate_id, document.schema_version = issuer.certificate_id, draft.schema_version()
    show_as(document, content)
    journal.append(document, event, now=now, keep=[(BlobKind.SIGNED, content)], known=known)
    if journal.content(document, BlobKind.SIGNED) != content:
        raise RuntimeError(f"document {document.id}: a file signed before counts as newer; do the clocks agree?")
    return content


def _planned(
    document: Document, sold: SaleToDocument, now: datetime, *, other_number: bool = False, contingency: bool = False
) -> tuple[draft.Draft, Ready]:
    """The same number, in the words of today."""
    if (sold.order_id, sold.kind) != (document.order_id, document.kind):
        raise NotCorrectable("A correction is about the same order, and of the same kind.")
    sale.check(sold)
    issuer = ready(document.issuer_cnpj, document.kind, now, number_needed=other_number)
    if issuer.environment != document.environment:
        raise NotCorrectable("Its number belongs to another environment than the issuer's of today.")
    if document.kind == DocumentKind.NFCE:
        urls_of(issuer.printed.uf_code, issuer.environment)
    draft.warm_up()  # before a number's row is locked
    before = _offline(document)
    offline = issuer.offline if contingency else before
    issued_at = document.issued_at if before and document.issued_at else now  # a customer has it with that hour
    key = (_another_key if other_number else _same_number)(issuer, document, issued_at)
    planned = draft.Draft(
        issuer=issuer.printed,
        sale=replace(sold, issuer_cnpj=document.issuer_cnpj),
        key=replace(key, emission_type=keys.OFFLINE if offline else keys.NORMAL),
        issued_at=issued_at,
        environment=issuer.environment,
        offline=offline,
    )
    return planned, issuer


def _offline(document: Document) -> draft.Offline | None:
    """Why it was handed out before the authority had it: as its first file says."""
    content = journal.content(document, BlobKind.SIGNED) if document.emission_type == keys.OFFLINE else None
    if content is None:
        return None
    ide = _inf(content).find(f"{_NS}ide")
    assert ide is not None  # noqa: S101  # the schema was checked
    since, reason = ide.findtext(f"{_NS}dhCont") or "", ide.findtext(f"{_NS}xJust") or ""
    return draft.Offline(since=datetime.fromisoformat(since), reason=reason)


def _same_number(issuer: Ready, document: Document, issued_at: datetime) -> AccessKey:
    first = keys.parse(document.access_key or "")
    return replace(first, uf_code=issuer.printed.uf_code, year_month=keys.year_month_of(issued_at))


def _another_key(issuer: Ready, document: Document, issued_at: datetime) -> AccessKey:
    series, number = take_number(issuer, document.kind)
    printed = issuer.printed
    return keys.new_key(
        uf_code=printed.uf_code,
        issued_at=issued_at,
        cnpj=printed.cnpj,
        kind=document.kind,
        series=series,
        number=number,
    )


# --- Several files --------------------------------------------------------------------------------------------------------
_NS = f"{{{NAMESPACE}}}"
_ID = re.compile(rb'<infNFe[^>]* Id="NFe([0-9A-Z]{44})"')


def key_in(content: bytes) -> str:
    """The key that a signed file of ours carries."""
    found = _ID.search(content)
    if found is None:
        raise ValueError("this is no file of ours")
    return found[1].decode()


def _inf(content: bytes) -> etree._Element:
    (found,) = read_xml(content).iter(f"{_NS}infNFe")
    return found


def keys_of(document: Document) -> list[str]:
    """All keys under which it may be at the authority, the latest first; usually one. See the note above."""
    if document.state in (State.AUTHORISED, State.CANCELLED):
        return [document.access_key or ""]
    return list(dict.fromkeys(key_in(content) for content in journal.contents(document, BlobKind.SIGNED)))


def file_of(document: Document, *, access_key: str, digest: str) -> bytes | None:
    """The signed file that an answer is about, the latest first; None when we never signed it."""
    for content in journal.contents(document, BlobKind.SIGNED):
        if digest_value(content) == digest and key_in(content) == access_key:
            return content
    return None


def show_as(document: Document, content: bytes) -> None:
    """Let the document's row say what this file of it says."""
    inf = _inf(content)
    document.access_key = key_in(content)
    document.issued_at = datetime.fromisoformat(inf.findtext(f"{_NS}ide/{_NS}dhEmi") or "")
    buyer = inf.find(f"{_NS}dest")
    names = ("CPF", "CNPJ")
    said = [] if buyer is None else [buyer.findtext(f"{_NS}{name}") for name in names]
    document.recipient = next(filter(None, said), "")
    document.total = Decimal(inf.findtext(f"{_NS}total/{_NS}ICMSTot/{_NS}vNF") or 0)
    key = keys.parse(document.access_key)
    document.series, document.number, document.emission_type = key.series, key.number, key.emission_type
    shown = (
        *("access_key", "series", "number", "emission_type", "issued_at", "recipient", "total"),
        *("certificate_id", "schema_version"),
    )
    Document.objects.filter(pk=document.pk).update(**{name: getattr(document, name) for name in shown})


TIME = frozenset({"ide/dhEmi", "ide/cDV"})  # the check digit of the key follows the month of emission


# --- To look at -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What would be signed in place of a refused file. ``closed`` tells why it would not; empty: it would."""

    document_id: str
    refusal_code: str
    refusal_reason: str
    changes: tuple[Change, ...] = ()
    closed: str = ""
    taken_number: int | None = None  # another document has it: ``Correction.instead_of`` takes the next one

    @property
    def only_time(self) -> bool:
        """Would nothing else be said than that it is later now?"""
        return {change.field for change in self.changes} <= TIME


def preview(*, step_key: str, sale: SaleToDocument, now: datetime) -> Preview | None:
    """What a retry would sign in place of a file that the authority refused; None when it refused none. Looks only."""
    document = journal.find(step_key)
    if document is None or document.state != State.REJECTED:
        return None
    told = Preview(document_id=str(document.id), refusal_code=document.refusal_code, refusal_reason=document.refusal_reason)
    if document.refusal_code in NUMBER_TAKEN:
        closed = "Its number is taken at the authority: the same file would be sent again."
        return replace(told, closed=closed, taken_number=document.number)
    before = journal.content(document, BlobKind.SIGNED)
    try:
        planned, issuer = _planned(document, sale, now)
        after = signed(planned, certificate_id=issuer.certificate_id)
    except DomainError as refusal:
        return replace(told, closed=refusal.detail)
    return replace(told, changes=tuple(changes(before or b"", after)))


def changes(before: bytes, after: bytes) -> Iterator[Change]:
    """The fields in which two signed files differ, in the layout's order."""
    old, new = dict(_fields(_inf(before))), dict(_fields(_inf(after)))
    for field in {**new, **old}:
        if old.get(field, "") != new.get(field, ""):
            yield Change(field=field, before=old.get(field, ""), after=new.get(field, ""))


def _fields(element: etree._Element, path: str = "") -> Iterator[tuple[str, str]]:
    for child in element:
        place = child.get("nItem")
        name = f"{path}{etree.QName(child).localname}{f'[{place}]' if place else ''}"
        if len(child):
            yield from _fields(child, f"{name}/")
        else:
            yield name, child.text or ""

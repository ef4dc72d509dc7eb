"""Questions about documents. Values out, never models."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.conf import settings

from apps.common.errors import InvalidRequest, NotFound
from apps.common.pagination import Page, cut, newest_ids, only
from apps.fiscal_docs import danfe
from apps.fiscal_docs.danfe import Printed
from apps.fiscal_docs.keys import KEY_PATTERN
from apps.fiscal_docs.lifecycle import State
from apps.fiscal_docs.models import BlobKind, Document, DocumentBlob
from apps.fiscal_docs.operations import journal
from apps.fiscal_docs.operations.correct import Change, changes

UNSETTLED = (State.SIGNED, State.OFFLINE, State.SENT, State.UNKNOWN, State.REJECTED)
FILES_MAX = 200  # a document has about four; one that is signed and refused again and again must not fill the page
ORDER_DOCUMENTS_MAX = 20  # an order has one document, and a few more when it was retried under new steps


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentView:
    """A document as others see it."""

    id: UUID
    kind: str
    state: str
    access_key: str
    series: int | None
    number: int | None
    total: Decimal
    issuer_cnpj: str
    order_id: UUID | None
    environment: str
    issued_at: datetime | None
    authorised_at: datetime | None
    protocol: str
    refusal_code: str
    refusal_reason: str
    links: dict[str, str]


def view(document: Document) -> DocumentView:
    here = f"/fiscal-documents/{document.id}"
    links = {"self": here}
    if document.access_key:
        links |= {"xml": f"{here}/xml", "danfe": f"{here}/danfe"}
    return DocumentView(
        id=document.id,
        kind=document.kind,
        state=document.state,
        access_key=document.access_key or "",
        series=document.series,
        number=document.number,
        total=document.total,
        issuer_cnpj=document.issuer_cnpj,
        order_id=document.order_id,
        environment=document.environment,
        issued_at=document.issued_at,
        authorised_at=document.authorised_at,
        protocol=document.protocol,
        refusal_code=document.refusal_code,
        refusal_reason=document.refusal_reason,
        links=links,
    )


def document_of(*, step_key: str) -> DocumentView | None:
    """The document of a saga's step."""
    document = journal.find(step_key)
    return view(document) if document else None


def documents_of_order(*, order_id: UUID) -> tuple[DocumentView, ...]:
    """The documents of an order, the latest first, without the tombstones of steps that were undone before they began."""
    rows = Document.objects.filter(order_id=order_id, access_key__isnull=False).order_by("-id")
    return tuple(view(row) for row in rows[:ORDER_DOCUMENTS_MAX])


def document_of_order(order_id: UUID) -> DocumentView | None:
    """The latest document of an order."""
    found = documents_of_order(order_id=order_id)
    return found[0] if found else None


def authorised_of_order(order_id: UUID) -> str | None:
    """The step key of the document under which an order was sold; None when it has no authorised one."""
    rows = Document.objects.filter(order_id=order_id, state=State.AUTHORISED).order_by("-id")
    return rows.values_list("step_key", flat=True).first()


def unsettled_of_order(order_id: UUID) -> str | None:
    """The step key of an order's document that is signed, and neither authorised nor taken back: it may be valid yet."""
    rows = Document.objects.filter(order_id=order_id, state__in=UNSETTLED).order_by("-id")
    return rows.values_list("step_key", flat=True).first()


def _readable(account_id: str) -> set[str]:
    """Whose documents an account may read: those of its own orders and, where anybody may order, of orders of nobody."""
    return {account_id, ""} if settings.ORDERS_ALLOW_ANONYMOUS else {account_id}


def _one(document_id: UUID, account_id: str) -> Document:
    document = Document.objects.filter(pk=document_id, account_id__in=_readable(account_id)).first()
    if document is None:
        raise NotFound("There is no such fiscal document.")
    return document


def document(*, document_id: UUID, account_id: str) -> DocumentView:
    """Raises NotFound for another's document too."""
    return view(_one(document_id, account_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """Exact bytes that are kept for a document. ``changes``: in what a signed file differs from the one before it."""

    id: UUID
    label: str
    at: datetime
    size_bytes: int
    sha256: str
    changes: tuple[Change, ...] = ()


def files(document: Document) -> list[File]:
    """All that was signed, sent and answered, the first one first. Raises ArchiveDamaged."""
    # First: a file that is signed meanwhile is behind those that are asked for.
    kept = list(DocumentBlob.objects.filter(document=document).defer("gzip_bytes").order_by("id")[:FILES_MAX])
    signed = iter(journal.contents(document, BlobKind.SIGNED)[::-1])
    told, before = [], b""
    for row in kept:
        differs: tuple[Change, ...] = ()
        if row.kind == BlobKind.SIGNED:
            content = next(signed)
            differs, before = tuple(changes(before, content)) if before else (), content
        label = str(BlobKind(row.kind).label)
        told.append(
            File(id=row.id, label=label, at=row.created_at, size_bytes=row.size_bytes, sha256=row.sha256, changes=differs)
        )
    return told


def file(document: Document, file_id: UUID) -> bytes | None:
    """One of them. Raises ArchiveDamaged."""
    return journal.content_of(document, file_id)


def legal_xml(document: Document) -> bytes | None:
    """The exact file: with the protocol when it is authorised, else as signed."""
    return journal.content(document, BlobKind.PROC) or journal.content(document, BlobKind.SIGNED)


def xml(*, document_id: UUID, account_id: str) -> tuple[str, bytes]:
    """File name and exact bytes. Raises NotFound."""
    found = _one(document_id, account_id)
    content = legal_xml(found)
    if content is None:
        raise NotFound("Nothing was signed for this document.")
    suffix = "procNFe" if found.authorised_at else "nfe"
    return f"{found.access_key}-{suffix}.xml", content


def printed(*, document_id: UUID, account_id: str) -> Printed:
    """The DANFE as a PDF. Raises NotFound."""
    drawn = danfe.render(_one(document_id, account_id))
    if drawn is None:
        raise NotFound("Nothing was signed for this document.")
    return drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What a caller looks for; empty values match everything."""

    order_id: UUID | None = None
    access_key: str = ""
    state: str = ""


def search(*, account_id: str, wanted: Search, cursor: str | None, rows: int) -> Page[DocumentView]:
    """A page, the newest first. Raises InvalidRequest for what is no key, or a cursor that is not ours."""
    if wanted.access_key and not KEY_PATTERN.fullmatch(wanted.access_key):
        raise InvalidRequest("An access key has 44 characters.", field="access_key")
    columns = {"access_key": wanted.access_key or None, "order_id": wanted.order_id, "state": wanted.state or None}
    found: list[Document] = []
    for readable in _readable(account_id):  # apart: those of two are in no index in the order of the list
        of_one = only(Document, {**columns, "account_id": readable})
        found += newest_ids(of_one, rows_max=rows + 1, cursor=cursor).rows
    return cut(sorted(found, key=lambda document: document.id, reverse=True), rows).each(view)

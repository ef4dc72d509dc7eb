"""Write down what happened: facts and bytes are appended, the document's row is their projection."""

import gzip
import hashlib
from datetime import datetime

from django.db import connection

from apps.common.errors import DomainError
from apps.fiscal_docs.lifecycle import Event, Fact, Life, fold
from apps.fiscal_docs.models import BlobKind, Document, DocumentBlob, DocumentEvent

REASON_MAX = 255


class NothingPrepared(DomainError):
    """There is no fiscal document for this step."""

    code, status = "R411", 404


def one_at_a_time(step_key: str) -> None:
    """A do and an undo of one step may meet before there is a row to lock: the second waits for the first one's commit."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 4))", [f"fiscal_docs:{step_key}"])


def find(step_key: str) -> Document | None:
    return Document.objects.filter(step_key=step_key).first()


def read(step_key: str) -> Document:
    """Raises NothingPrepared."""
    document = find(step_key)
    if document is None:
        raise NothingPrepared(f"There is no fiscal document for step {step_key}.")
    return document


def locked(step_key: str) -> Document:
    """The document, its row locked: facts about one document are written one after another. Raises NothingPrepared."""
    document = Document.objects.select_for_update().filter(step_key=step_key).first()
    if document is None:
        raise NothingPrepared(f"There is no fiscal document for step {step_key}.")
    return document


def life(document: Document) -> Life:
    rows = DocumentEvent.objects.filter(document=document).values_list("fact", "seq", "status", "reason", "protocol")
    return fold(
        Event(fact=Fact(fact), seq=seq, status=status, reason=reason, protocol=protocol)
        for fact, seq, status, reason, protocol in rows
    )


def has(document: Document, fact: Fact) -> bool:
    return DocumentEvent.objects.filter(document=document, fact=fact).exists()


def append(document: Document, *events: Event, now: datetime, event_type: str = "") -> Life:
    """Add facts (each once) and bring the row's projection up to date. The row must be locked or new. Safe to repeat."""
    rows = [
        DocumentEvent(
            document=document,
            fact=event.fact,
            seq=event.seq,
            status=event.status,
            reason=event.reason[:REASON_MAX],
            protocol=event.protocol,
            event_type=event_type,
            happened_at=now,
        )
        for event in events
    ]
    DocumentEvent.objects.bulk_create(rows, ignore_conflicts=True)
    return project(document, now=now)


def project(document: Document, *, now: datetime) -> Life:
    """Write the fold of the facts into the document's row."""
    current = life(document)
    document.state = current.state
    document.protocol = current.protocol
    document.refusal_code = current.refusal_code
    document.refusal_reason = current.refusal_reason
    document.updated_at = now
    document.save(update_fields=["state", "protocol", "refusal_code", "refusal_reason", "authorised_at", "updated_at"])
    return current


def store(document: Document, kind: BlobKind, content: bytes, *, now: datetime) -> None:
    """Keep exact bytes. Safe to repeat: the same bytes are kept once."""
    row = DocumentBlob(
        document=document,
        kind=kind,
        sha256=hashlib.sha256(content).hexdigest(),
        gzip_bytes=gzip.compress(content, 6, mtime=0),
        size_bytes=len(content),
        created_at=now,
    )
    DocumentBlob.objects.bulk_create([row], ignore_conflicts=True)


class ArchiveDamaged(Exception):
    """Stored bytes no longer have the hash they were stored with."""


def content(document: Document, kind: BlobKind) -> bytes | None:
    """The latest stored bytes of a kind, their hash checked. Raises ArchiveDamaged."""
    row = DocumentBlob.objects.filter(document=document, kind=kind).order_by("-id").first()
    if row is None:
        return None
    unpacked = gzip.decompress(bytes(row.gzip_bytes))
    if hashlib.sha256(unpacked).hexdigest() != row.sha256:
        raise ArchiveDamaged(f"blob {row.id} of document {document.id}")
    return unpacked

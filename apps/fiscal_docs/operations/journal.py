"""Write down what happened: facts and bytes are appended, the document's row is their projection.

Every order passes here several times, so the statements are prepared, and a verb's facts, bytes and projection are one.
"""

import gzip
import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from apps.common import prepared
from apps.common.clock import uuid7
from apps.common.errors import DomainError
from apps.fiscal_docs.lifecycle import Event, Fact, Life, State, fold
from apps.fiscal_docs.models import ACTOR_MAX, REASON_MAX, BlobKind, Document, DocumentBlob, DocumentEvent, Issuer
from apps.messaging.contracts.fiscal import DocumentChanged
from apps.messaging.public import publish
from apps.webhooks.public import listens

Kept = tuple[BlobKind, bytes]
TOLD = frozenset({State.AUTHORISED, State.REJECTED, State.CANCELLED, State.NUMBER_VOIDED})  # the authority has decided


class NothingPrepared(DomainError):
    """There is no fiscal document for this step."""

    code, status = "R411", 404


# --- Reading ------------------------------------------------------------------------------------------------------------
_FIELDS = [field.attname for field in Document._meta.concrete_fields]
_FIND = f"SELECT {', '.join(_FIELDS)} FROM fiscal_docs_document WHERE step_key = %(step_key)s"  # noqa: S608  # columns


_LOCK = f"{_FIND} FOR UPDATE"
_FACTS = "SELECT fact, seq, status, reason, protocol FROM fiscal_docs_documentevent WHERE document_id = %(id)s"
_FACTS_BY_KEY = _FACTS.replace("%(id)s", "(SELECT id FROM fiscal_docs_document WHERE step_key = %(step_key)s)")
_ALONE = "SELECT pg_advisory_xact_lock(hashtextextended(%(key)s, 4))"


def find(step_key: str) -> Document | None:
    return _document(prepared.execute(_FIND, {"step_key": step_key}).fetchall())


def find_alone(step_key: str) -> Document | None:
    """A do and an undo of one step may meet before there is a row to lock: the second waits for the first one's commit."""
    _, found = prepared.fetch_each((_ALONE, {"key": f"fiscal_docs:{step_key}"}), (_FIND, {"step_key": step_key}))
    return _document(found)


def _document(found: list[tuple[Any, ...]]) -> Document | None:
    return Document.from_db("default", _FIELDS, found[0]) if found else None


def read(step_key: str) -> Document:
    """Raises NothingPrepared."""
    return _there(find(step_key), step_key)


def locked(step_key: str) -> Document:
    """The document, its row locked: facts about one document are written one after another. Raises NothingPrepared."""
    return _there(_document(prepared.execute(_LOCK, {"step_key": step_key}).fetchall()), step_key)


def locked_with_facts(step_key: str) -> tuple[Document, list[Event]]:
    """The same, and all that happened to it. Raises NothingPrepared."""
    key = {"step_key": step_key}
    found, happened = prepared.fetch_each((_LOCK, key), (_FACTS_BY_KEY, key))
    return _there(_document(found), step_key), _events_of(happened)


def _there(document: Document | None, step_key: str) -> Document:
    if document is None:
        raise NothingPrepared(f"There is no fiscal document for step {step_key}.")
    return document


def facts(document: Document) -> list[Event]:
    """All that happened to it."""
    return _events_of(prepared.execute(_FACTS, {"id": document.id}).fetchall())


def _events_of(rows: list[tuple[Any, ...]]) -> list[Event]:
    return [
        Event(fact=Fact(fact), seq=seq, status=status, reason=reason, protocol=protocol)
        for fact, seq, status, reason, protocol in rows
    ]


def life(document: Document) -> Life:
    return fold(facts(document))


def has(document: Document, fact: Fact) -> bool:
    return DocumentEvent.objects.filter(document=document, fact=fact).exists()


def acting_certificate(document: Document) -> UUID:
    """The certificate that acts for the document now: its issuer's. Its own may be out of date, or revoked, by then.

    Raises NothingPrepared.
    """
    issuers = Issuer.objects.filter(pk__in=[document.issuer_id] if document.issuer_id else [])
    acting = issuers.values_list("certificate_id", flat=True).first() or document.certificate_id
    if acting is None:
        raise NothingPrepared(f"Nothing was prepared for step {document.step_key}.")
    return acting


# --- Writing ------------------------------------------------------------------------------------------------------------
_BLOBS = """
blob AS (
    INSERT INTO fiscal_docs_documentblob (id, document_id, kind, sha256, size_bytes, gzip_bytes, created_at)
    SELECT k.id, %(id)s, k.kind, k.sha256, k.size, k.content, %(now)s
    FROM unnest(%(blob_ids)s::uuid[], %(kinds)s::text[], %(sha256)s::text[], %(sizes)s::int[], %(contents)s::bytea[])
        AS k (id, kind, sha256, size, content)
    ON CONFLICT DO NOTHING
)
"""
_EVENTS = """
event AS (
    INSERT INTO fiscal_docs_documentevent (document_id, fact, seq, event_type, status, reason, protocol, actor, happened_at)
    SELECT %(id)s, k.fact, k.seq, %(event_type)s, k.status, k.reason, k.protocol, k.actor, %(now)s
    FROM unnest(%(facts)s::text[], %(seqs)s::smallint[], %(statuses)s::text[], %(reasons)s::text[], %(protocols)s::text[],
                %(actors)s::text[])
        WITH ORDINALITY AS k (fact, seq, status, reason, protocol, actor, place)
    ORDER BY place
    ON CONFLICT DO NOTHING
)
"""
_CREATE = f"""
WITH {_BLOBS}, {_EVENTS}
INSERT INTO fiscal_docs_document ({", ".join(_FIELDS)}) VALUES ({", ".join(f"%(d_{name})s" for name in _FIELDS)})
"""  # noqa: S608  # names of columns
_APPEND = f"""
WITH {_BLOBS}, {_EVENTS}
UPDATE fiscal_docs_document SET state = %(state)s, protocol = %(protocol)s, refusal_code = %(refusal_code)s,
    refusal_reason = %(refusal_reason)s, authorised_at = %(authorised_at)s, updated_at = %(now)s
WHERE id = %(id)s
"""  # noqa: S608  # a constant
_STORE = f"WITH {_BLOBS} SELECT 1"


def create(document: Document, *events: Event, now: datetime, keep: Sequence[Kept] = ()) -> Life:
    """Write a new document with its first facts and bytes."""
    current = _project(document, events, now)
    row = {f"d_{name}": getattr(document, name) for name in _FIELDS}
    prepared.execute(_CREATE, {**row, **_events(document, events, now, ""), **_blobs(keep)})
    document._state.adding, document._state.db = False, "default"
    return current


def append(
    document: Document,
    *events: Event,
    now: datetime,
    event_type: str = "",
    keep: Sequence[Kept] = (),
    known: Sequence[Event] | None = None,
) -> Life:
    """Add facts (each once) and bytes, and bring the row's projection up to date. The row must be locked. Safe to repeat.

    ``known``: the facts that the caller has read behind the lock.
    """
    before, state = (facts(document) if known is None else known), str(document.state)
    there = {(event.fact, event.seq, event.status) for event in before}
    fresh = [event for event in events if (event.fact, event.seq, event.status) not in there]
    current = _project(document, (*before, *fresh), now)
    projected = {name: getattr(document, name) for name in ("protocol", "refusal_code", "refusal_reason", "authorised_at")}
    written = _events(document, fresh, now, event_type)
    prepared.execute(_APPEND, {**projected, "state": str(document.state), **written, **_blobs(keep)})
    if str(document.state) != state and current.state in TOLD:
        _tell(document, now)
    return current


def _tell(document: Document, now: datetime) -> None:
    """Publish what the authority has decided, if the document's account has anybody who listens."""
    if not listens(document.account_id):
        return
    fact = DocumentChanged(
        document_id=document.pk,
        account_id=document.account_id,
        kind=str(document.kind),
        state=str(document.state),
        access_key=document.access_key or "",
        total=document.total,
        changed_at=now,
        order_id=document.order_id,
        refusal_code=document.refusal_code,
    )
    publish(fact, key=str(document.pk))


def _project(document: Document, events: Iterable[Event], now: datetime) -> Life:
    """The fold of the facts, in the document's fields."""
    current = fold(events)
    document.state = current.state
    document.protocol = current.protocol
    document.refusal_code = current.refusal_code
    document.refusal_reason = current.refusal_reason[:REASON_MAX]
    document.updated_at = now
    return current


def _events(document: Document, events: Iterable[Event], now: datetime, event_type: str) -> dict[str, Any]:
    listed = list(events)
    return {
        "id": document.id,
        "now": now,
        "event_type": event_type,
        "facts": [event.fact.value for event in listed],
        "seqs": [event.seq for event in listed],
        "statuses": [event.status for event in listed],
        "reasons": [event.reason[:REASON_MAX] for event in listed],
        "protocols": [event.protocol for event in listed],
        "actors": [event.actor[:ACTOR_MAX] for event in listed],
    }


def _blobs(keep: Sequence[Kept]) -> dict[str, Any]:
    return {
        "blob_ids": [uuid7() for _ in keep],
        "kinds": [kind.value for kind, _ in keep],
        "sha256": [hashlib.sha256(content).hexdigest() for _, content in keep],
        "sizes": [len(content) for _, content in keep],
        "contents": [gzip.compress(content, 6, mtime=0) for _, content in keep],
    }


def store(document: Document, kind: BlobKind, content: bytes, *, now: datetime) -> None:
    """Keep exact bytes. Safe to repeat: the same bytes are kept once."""
    prepared.execute(_STORE, {"id": document.id, "now": now, **_blobs([(kind, content)])})


class ArchiveDamaged(Exception):
    """Stored bytes no longer have the hash they were stored with."""


_CONTENT = """
SELECT id, sha256, gzip_bytes FROM fiscal_docs_documentblob WHERE document_id = %(id)s AND kind = %(kind)s
ORDER BY id DESC LIMIT %(rows)s
"""
FILES_MAX = 500  # of one kind: no document is signed again more often


def content(document: Document, kind: BlobKind) -> bytes | None:
    """The latest stored bytes of a kind, their hash checked. Raises ArchiveDamaged."""
    return next(iter(contents(document, kind, rows_max=1)), None)


def contents(document: Document, kind: BlobKind, *, rows_max: int = FILES_MAX) -> list[bytes]:
    """All stored bytes of a kind, the latest first, their hashes checked. Raises ArchiveDamaged."""
    values = {"id": document.id, "kind": kind.value, "rows": rows_max}
    return [_unpacked(document, *row) for row in prepared.execute(_CONTENT, values).fetchall()]


def content_of(document: Document, blob_id: UUID) -> bytes | None:
    """The stored bytes with this id, their hash checked. Raises ArchiveDamaged."""
    rows = DocumentBlob.objects.filter(document=document, pk=blob_id).values_list("id", "sha256", "gzip_bytes")
    return next((_unpacked(document, *row) for row in rows), None)


def _unpacked(document: Document, blob_id: UUID, sha256: str, packed: bytes | memoryview) -> bytes:
    unpacked = gzip.decompress(packed)
    if hashlib.sha256(unpacked).hexdigest() != sha256:
        raise ArchiveDamaged(f"blob {blob_id} of document {document.id}")
    return unpacked

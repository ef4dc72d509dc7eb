"""Facts about the fiscal documents of a merchant who listens (apps/webhooks): others' are not published."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import ClassVar
from uuid import UUID

from apps.messaging.contracts.base import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentChanged(Message):
    """The tax authority has decided on a document: AUTHORISED, REJECTED, CANCELLED or NUMBER_VOIDED.

    ``kind`` is the model's number: 55 (NF-e) or 65 (NFC-e). ``refusal_code`` is the authority's (cStat).
    """

    topic: ClassVar[str] = "fiscal.documents.document.event"
    schema: ClassVar[str] = "fiscal.document_changed.v1"

    document_id: UUID
    account_id: str
    kind: str
    state: str
    access_key: str
    total: Decimal
    changed_at: datetime
    order_id: UUID | None = None
    refusal_code: str = ""

"""Issuers and their certificates, numbers, documents, and what happened to them.

Blobs and events are append-only (a trigger refuses anything else): the exact bytes are the document, and a state is a
projection of events.
"""

from django.db import models
from django.db.models import Q

from apps.common.clock import uuid7
from apps.fiscal_docs.keys import NUMBER_MAX, SERIES_MAX
from apps.fiscal_docs.lifecycle import Fact, State
from apps.fiscal_docs.sandbox.models import (
    SandboxCounter,
    SandboxDocument,
    SandboxEvent,
    SandboxVoidedRange,
)

__all__ = [
    "BlobKind",
    "Certificate",
    "Contingency",
    "Document",
    "DocumentBlob",
    "DocumentEvent",
    "DocumentKind",
    "Environment",
    "Issuer",
    "NumberRange",
    "SandboxCounter",
    "SandboxDocument",
    "SandboxEvent",
    "SandboxVoidedRange",
]

# TStat, TProt and TMotivo of the layout. The tax reform's rejections (1026, 1115) have four digits.
STATUS_MAX, PROTOCOL_MAX, REASON_MAX = 4, 17, 255
ACTOR_MAX = 200  # as wide as the saga's audit, which names the same people


class DocumentKind(models.TextChoices):
    NFE = "55", "NF-e"
    NFCE = "65", "NFC-e"


class Environment(models.TextChoices):
    PRODUCTION = "1", "production"
    HOMOLOGATION = "2", "homologation"


class Issuer(models.Model):
    """A company in whose name documents are issued."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    cnpj = models.CharField("CNPJ", max_length=14, unique=True)
    name = models.CharField(max_length=60)
    state_registration = models.CharField("state registration (IE)", max_length=14)
    tax_regime = models.CharField("tax regime (CRT)", max_length=1, default="1")
    street = models.CharField(max_length=60)
    street_number = models.CharField(max_length=60)
    district = models.CharField(max_length=60)
    city_code = models.CharField("city (IBGE code)", max_length=7)
    city = models.CharField(max_length=60)
    uf = models.CharField("state", max_length=2)
    uf_code = models.CharField("state (IBGE code)", max_length=2)
    postal_code = models.CharField(max_length=8)
    environment = models.CharField(max_length=1, choices=Environment.choices, default=Environment.HOMOLOGATION)
    certificate = models.ForeignKey("Certificate", on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(cnpj__regex=r"^[0-9A-Z]{12}[0-9]{2}$"), name="fiscal_issuer_cnpj")
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.cnpj})"


class Certificate(models.Model):
    """An A1 certificate. The PKCS#12 is encrypted with a password of ours, and that password with the site's key."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    issuer = models.ForeignKey(Issuer, on_delete=models.PROTECT, related_name="certificates")
    subject = models.CharField(max_length=255)
    cnpj = models.CharField("CNPJ", max_length=14)
    fingerprint = models.CharField("SHA-256", max_length=64, unique=True)
    not_before = models.DateTimeField()
    not_after = models.DateTimeField()
    pkcs12 = models.BinaryField()
    sealed_password = models.BinaryField()
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.subject}, until {self.not_after:%Y-%m-%d}"


class Contingency(models.Model):
    """A time in which documents of a kind are handed out before the authority has them. One at a time is open."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=2, choices=DocumentKind.choices)
    began_at = models.DateTimeField()
    began_by = models.CharField(max_length=ACTOR_MAX)
    reason = models.CharField(max_length=REASON_MAX, help_text="Stands on every document of that time.")
    ended_at = models.DateTimeField(null=True, blank=True)
    ended_by = models.CharField(max_length=ACTOR_MAX, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["kind"], condition=Q(ended_at__isnull=True), name="fiscal_contingency_one")
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} since {self.began_at:%Y-%m-%d %H:%M}"


class NumberRange(models.Model):
    """The next number of one series. Its row is locked while a number is taken, so there are no gaps and no twins."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    issuer = models.ForeignKey(Issuer, on_delete=models.PROTECT, related_name="number_ranges")
    environment = models.CharField(max_length=1, choices=Environment.choices)
    kind = models.CharField(max_length=2, choices=DocumentKind.choices)
    series = models.PositiveSmallIntegerField()
    next_number = models.PositiveIntegerField(default=1)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["issuer", "environment", "kind", "series"], name="fiscal_range_once"),
            models.CheckConstraint(condition=Q(series__lte=SERIES_MAX), name="fiscal_range_series"),
            models.CheckConstraint(
                condition=Q(next_number__gte=1, next_number__lte=NUMBER_MAX + 1), name="fiscal_range_next_number"
            ),
        ]


class Document(models.Model):
    """One fiscal document; ``state`` is the fold of its events. Without a number it is the tombstone of an early undo."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    step_key = models.CharField(max_length=200, unique=True)
    kind = models.CharField(max_length=2, choices=DocumentKind.choices)
    environment = models.CharField(max_length=1, choices=Environment.choices)
    access_key = models.CharField(max_length=44, unique=True, null=True, blank=True)
    issuer = models.ForeignKey(Issuer, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    certificate = models.ForeignKey(Certificate, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    issuer_cnpj = models.CharField("issuer CNPJ", max_length=14, blank=True)
    recipient = models.CharField("recipient CPF or CNPJ", max_length=14, blank=True)
    series = models.PositiveSmallIntegerField(null=True, blank=True)
    number = models.PositiveIntegerField(null=True, blank=True)
    emission_type = models.CharField(max_length=1, default="1")
    issued_at = models.DateTimeField(null=True, blank=True)
    total = models.DecimalField(max_digits=15, decimal_places=2, default=0)
    order_id = models.UUIDField(null=True, blank=True)
    account_id = models.CharField(max_length=64, blank=True, help_text="Whose order it is; empty: nobody's in particular.")
    state = models.CharField(max_length=16, choices=[(state.value, state.value) for state in State])
    protocol = models.CharField(max_length=PROTOCOL_MAX, blank=True)
    authorised_at = models.DateTimeField(null=True, blank=True)
    refusal_code = models.CharField(max_length=STATUS_MAX, blank=True)
    refusal_reason = models.CharField(max_length=REASON_MAX, blank=True)
    schema_version = models.CharField(max_length=20, blank=True)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["issuer_cnpj", "environment", "kind", "series", "number"],
                condition=Q(number__isnull=False),
                name="fiscal_document_number_once",
            ),
            models.CheckConstraint(
                condition=Q(access_key__isnull=True, number__isnull=True, series__isnull=True)
                | Q(access_key__regex=r"^[0-9]{6}[0-9A-Z]{12}[0-9]{26}$", number__isnull=False, series__isnull=False),
                name="fiscal_document_key_with_number",
            ),
            models.CheckConstraint(condition=Q(state__in=[state.value for state in State]), name="fiscal_document_state"),
            models.CheckConstraint(condition=Q(total__gte=0), name="fiscal_document_total"),
        ]
        indexes = [
            models.Index(fields=["order_id", "id"], name="fiscal_document_order"),
            models.Index(fields=["state", "id"], name="fiscal_document_by_state"),
            # The lists of a merchant: all, and those in a state.
            models.Index(fields=["account_id", "-id"], name="fiscal_document_list"),
            models.Index(fields=["state", "account_id", "-id"], name="fiscal_document_list_state"),
        ]

    def __str__(self) -> str:
        return (
            f"{self.get_kind_display()} {self.series}/{self.number}" if self.number else f"never issued ({self.step_key})"
        )


class BlobKind(models.TextChoices):
    SIGNED = "signed", "signed document"
    PROC = "proc", "document with protocol"
    EVENT = "event", "signed event"
    EVENT_PROC = "event_proc", "event with answer"
    VOID = "void", "signed number voiding"
    ANSWER = "answer", "answer of the authority"


class DocumentBlob(models.Model):
    """Exact bytes, gzipped, with the hash of what was packed. Append-only."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    document = models.ForeignKey(Document, on_delete=models.PROTECT, related_name="blobs")
    kind = models.CharField(max_length=12, choices=BlobKind.choices)
    sha256 = models.CharField("SHA-256", max_length=64)
    size_bytes = models.PositiveIntegerField()
    gzip_bytes = models.BinaryField()
    created_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["document", "kind", "sha256"], name="fiscal_blob_once")]


class DocumentEvent(models.Model):
    """Something that happened to a document, once. Append-only."""

    # Not a UUID: two facts of one commit share their millisecond, and people read them in the order they were written.
    id = models.BigAutoField(primary_key=True)
    document = models.ForeignKey(Document, on_delete=models.PROTECT, related_name="events")
    fact = models.CharField(max_length=16, choices=[(fact.value, fact.value) for fact in Fact])
    seq = models.PositiveSmallIntegerField(default=1, help_text="Attempt, or nSeqEvento of an event.")
    event_type = models.CharField("tpEvento", max_length=6, blank=True)
    status = models.CharField("cStat", max_length=STATUS_MAX, blank=True)
    reason = models.CharField(max_length=REASON_MAX, blank=True)
    protocol = models.CharField(max_length=PROTOCOL_MAX, blank=True)
    # The default stands in the database, too: processes of the version before write rows without it.
    actor = models.CharField(max_length=ACTOR_MAX, blank=True, default="", db_default="", help_text="Who wanted it.")
    happened_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["document", "fact", "seq", "status"], name="fiscal_event_once"),
            models.CheckConstraint(condition=Q(fact__in=[fact.value for fact in Fact]), name="fiscal_event_fact"),
        ]

"""What the sandbox authority remembers: its own books, with the exact bytes it was sent.

The product never reads these tables; it asks over the wire, as it would ask the real authority.
"""

from django.db import models


class SandboxCounter(models.Model):
    """One row. Whoever changes the authority's books locks it first, so decisions come one after another."""

    id = models.PositiveSmallIntegerField(primary_key=True)
    next_protocol = models.PositiveBigIntegerField(default=1)

    class Meta:
        app_label = "fiscal_docs"


class SandboxDocument(models.Model):
    """A document that this authority authorised."""

    access_key = models.CharField(max_length=44, primary_key=True)
    cnpj = models.CharField(max_length=14)
    kind = models.CharField(max_length=2)
    series = models.PositiveSmallIntegerField()
    number = models.PositiveIntegerField()
    protocol = models.CharField(max_length=15, unique=True)
    received_at = models.DateTimeField()
    xml = models.BinaryField()
    answer = models.BinaryField()

    class Meta:
        app_label = "fiscal_docs"
        constraints = [
            models.UniqueConstraint(fields=["cnpj", "kind", "series", "number"], name="fiscal_sandbox_number_once")
        ]


class SandboxEvent(models.Model):
    """An event registered for a document."""

    id = models.BigAutoField(primary_key=True)
    access_key = models.CharField(max_length=44)
    event_type = models.CharField(max_length=6)
    seq = models.PositiveSmallIntegerField()
    protocol = models.CharField(max_length=15, unique=True)
    registered_at = models.DateTimeField()
    xml = models.BinaryField()
    answer = models.BinaryField()

    class Meta:
        app_label = "fiscal_docs"
        constraints = [
            models.UniqueConstraint(fields=["access_key", "event_type", "seq"], name="fiscal_sandbox_event_once")
        ]


class SandboxVoidedRange(models.Model):
    """Numbers that were declared unused for ever."""

    id = models.BigAutoField(primary_key=True)
    cnpj = models.CharField(max_length=14)
    kind = models.CharField(max_length=2)
    series = models.PositiveSmallIntegerField()
    first = models.PositiveIntegerField()
    last = models.PositiveIntegerField()
    protocol = models.CharField(max_length=15, unique=True)
    registered_at = models.DateTimeField()
    xml = models.BinaryField()

    class Meta:
        app_label = "fiscal_docs"
        constraints = [
            models.UniqueConstraint(fields=["cnpj", "kind", "series", "first", "last"], name="fiscal_sandbox_range_once")
        ]

"""The processor's own tables. It shares the database with us for now, and not one row."""

from django.db import models
from django.db.models import F, Q

from apps.common.clock import uuid7


class ProcessorTransaction(models.Model):
    """A card transaction as the processor sees it. ``status`` is approved or rejected, never anything between."""

    class Status(models.TextChoices):
        APPROVED = "approved", "approved"
        REJECTED = "rejected", "rejected"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    payment_id = models.UUIDField(unique=True, help_text="The payment that the gateway asked about.")
    status = models.CharField(max_length=10, choices=Status, blank=True, help_text="Empty: voided before it was asked.")
    amount = models.DecimalField(max_digits=15, decimal_places=2, null=True)
    currency = models.CharField(max_length=3, blank=True)
    card_bin = models.CharField("BIN", max_length=6, blank=True)
    card_last4 = models.CharField("last four", max_length=4, blank=True)
    card_brand = models.CharField("brand", max_length=20, blank=True)
    captured_amount = models.DecimalField(max_digits=15, decimal_places=2, default=0)
    refunded_amount = models.DecimalField(max_digits=15, decimal_places=2, default=0)
    voided_at = models.DateTimeField(null=True, blank=True)
    error_code = models.CharField(max_length=40, blank=True)
    error_message = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        verbose_name = "processor transaction"
        constraints = [
            models.CheckConstraint(
                condition=Q(refunded_amount__gte=0, captured_amount__gte=F("refunded_amount"))
                & (Q(amount__isnull=True, captured_amount=0) | Q(amount__gte=F("captured_amount"))),
                name="processor_transaction_sums",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["approved", "rejected"]) | Q(status="", voided_at__isnull=False),
                name="processor_transaction_status",
            ),
            models.CheckConstraint(
                condition=~Q(status="rejected") | ~Q(error_code=""), name="processor_transaction_reason"
            ),
            # Money is taken or given free, never both.
            models.CheckConstraint(
                condition=Q(voided_at__isnull=True) | Q(captured_amount=0), name="processor_transaction_void"
            ),
        ]

    def __str__(self) -> str:
        return str(self.payment_id)


class ProcessorOperation(models.Model):
    """A request by its key, and the one answer that it gets however often it is asked."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    transaction = models.ForeignKey(ProcessorTransaction, on_delete=models.PROTECT, related_name="operations")
    operation_key = models.CharField(max_length=220, unique=True)
    kind = models.CharField(max_length=10)
    amount = models.DecimalField(max_digits=15, decimal_places=2, null=True)
    status = models.CharField(max_length=10, choices=ProcessorTransaction.Status)
    reference = models.CharField(max_length=64)
    error_code = models.CharField(max_length=40, blank=True)
    error_message = models.CharField(max_length=300, blank=True)
    reply_to = models.CharField(max_length=200, blank=True)
    times_asked = models.IntegerField(default=1)
    times_answered = models.IntegerField(default=0)
    answered_at = models.DateTimeField(help_text="When it was decided.")

    class Meta:
        verbose_name = "processor operation"
        constraints = [
            models.CheckConstraint(condition=Q(status__in=["approved", "rejected"]), name="processor_operation_status"),
            models.CheckConstraint(condition=~Q(status="rejected") | ~Q(error_code=""), name="processor_operation_reason"),
        ]

    def __str__(self) -> str:
        return self.operation_key

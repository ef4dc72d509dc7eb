"""Cards as tokens, payments, and what was asked of the processor about them.

Note [The payment's row is the lock]
An answer, a retry, a void and the API may meet on one payment. Each of them first locks its row (found by the step key,
which is unique), then looks at its state, then moves it forward or leaves it. Nothing moves it backward.
"""

from django.db import models
from django.db.models import F, Q

from apps.common.clock import uuid7
from apps.payments.processor.models import ProcessorOperation, ProcessorTransaction

__all__ = ["CardToken", "Payment", "PaymentOperation", "ProcessorOperation", "ProcessorTransaction"]


class CardToken(models.Model):
    """A card in the vault. The number is ciphertext (AES-256-GCM); the CVV is nowhere."""

    # Not the token: an id is written into addresses and logs, and the token is all that it takes to pay.
    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    token = models.CharField(max_length=64, unique=True, help_text="tok_ and 192 random bits; says nothing about the card.")
    owner_id = models.CharField(max_length=64, db_index=True, help_text="The account or customer that saved it.")
    key_id = models.CharField(max_length=16, help_text="Which vault key encrypted it.")
    nonce = models.BinaryField(max_length=12)
    ciphertext = models.BinaryField(max_length=64)
    fingerprint = models.BinaryField(
        max_length=32, help_text="Keyed digest (HMAC): the same card again, without its number."
    )
    bin6 = models.CharField("BIN", max_length=6)
    last4 = models.CharField("last four", max_length=4)
    brand = models.CharField(max_length=20)
    exp_month = models.SmallIntegerField()
    exp_year = models.SmallIntegerField()
    created_at = models.DateTimeField()

    class Meta:
        verbose_name = "card"
        constraints = [
            models.CheckConstraint(
                condition=Q(bin6__regex=r"^[0-9]{6}$", last4__regex=r"^[0-9]{4}$"), name="payments_card_digits"
            ),
            models.CheckConstraint(condition=Q(exp_month__range=(1, 12)), name="payments_card_month"),
        ]
        indexes = [models.Index(fields=["fingerprint"], name="payments_card_fingerprint")]

    def __str__(self) -> str:
        return f"{self.brand} {self.bin6}******{self.last4}"


class Payment(models.Model):
    """One payment by card. Its state is the sum of its operations, kept here under the row's lock."""

    class State(models.TextChoices):
        PENDING = "PENDING", "pending"
        UNKNOWN = "UNKNOWN", "outcome unknown"
        AUTHORISED = "AUTHORISED", "authorised"
        CAPTURED = "CAPTURED", "captured"
        REFUNDED = "REFUNDED", "refunded"
        REJECTED = "REJECTED", "rejected"
        VOIDED = "VOIDED", "voided"

    class Method(models.TextChoices):
        CARD = "card", "card"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    step_key = models.CharField(max_length=200, unique=True, help_text="Whose request it is: one payment for each key.")
    reply_to = models.CharField(
        max_length=200, blank=True, help_text="The saga step that waits; empty for a merchant's own."
    )
    account_id = models.CharField(max_length=44, blank=True)
    order_ref = models.CharField("reference", max_length=100, blank=True)
    method = models.CharField(max_length=10, choices=Method, default=Method.CARD)
    amount = models.DecimalField(
        max_digits=15, decimal_places=2, null=True, help_text="Empty: voided before it was asked for."
    )
    currency = models.CharField(max_length=3, default="BRL")
    card = models.ForeignKey(CardToken, on_delete=models.PROTECT, null=True, blank=True, related_name="payments")
    card_fingerprint = models.BinaryField(
        max_length=32, null=True, help_text="The card's, as it was then: refusals of one card are counted by it."
    )
    card_bin = models.CharField("BIN", max_length=6, blank=True)
    card_last4 = models.CharField("last four", max_length=4, blank=True)
    card_brand = models.CharField("brand", max_length=20, blank=True)
    captures_itself = models.BooleanField(default=False, help_text="Captured as soon as it is authorised.")
    state = models.CharField(max_length=10, choices=State, default=State.PENDING)
    captured_amount = models.DecimalField(max_digits=15, decimal_places=2, default=0)
    refunded_amount = models.DecimalField(max_digits=15, decimal_places=2, default=0)
    error_code = models.CharField(max_length=40, blank=True)
    error_message = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(amount__gt=0) | Q(amount__isnull=True, state="VOIDED"), name="payments_payment_amount"
            ),
            models.CheckConstraint(
                condition=Q(refunded_amount__gte=0, captured_amount__gte=F("refunded_amount"))
                & (Q(amount__isnull=True, captured_amount=0) | Q(amount__gte=F("captured_amount"))),
                name="payments_payment_sums",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["CAPTURED", "REFUNDED"], captured_amount__gt=0)
                | (~Q(state__in=["CAPTURED", "REFUNDED"]) & Q(captured_amount=0)),
                name="payments_payment_captured",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["PENDING", "UNKNOWN", "AUTHORISED", "CAPTURED", "REFUNDED", "REJECTED", "VOIDED"]),
                name="payments_payment_state",
            ),
            models.CheckConstraint(condition=~Q(state="REJECTED") | ~Q(error_code=""), name="payments_payment_reason"),
        ]
        indexes = [
            # The lists of a merchant: all, those in a state, those under a reference. The last one finds an order's, too.
            models.Index(fields=["account_id", "-created_at", "-id"], name="payments_payment_list"),
            models.Index(fields=["state", "account_id", "-created_at", "-id"], name="payments_payment_list_state"),
            models.Index(fields=["order_ref", "account_id", "-created_at", "-id"], name="payments_payment_list_ref"),
            # For apps/payments/card_testing.py. No column of them changes, so an answer changes no index.
            models.Index(
                fields=["card_fingerprint", "created_at"],
                name="payments_payment_card",
                condition=Q(card_fingerprint__isnull=False),
            ),
            models.Index(fields=["account_id", "-id"], name="payments_payment_tried", condition=Q(card__isnull=False)),
        ]

    def __str__(self) -> str:
        return str(self.pk)


class PaymentOperation(models.Model):
    """One thing that was asked of the processor, and its answer. Rows are added and answered once, never changed back."""

    class Kind(models.TextChoices):
        AUTHORISE = "authorise", "authorise"
        CAPTURE = "capture", "capture"
        VOID = "void", "void"
        REFUND = "refund", "refund"

    class Status(models.TextChoices):
        REQUESTED = "REQUESTED", "requested"
        APPROVED = "APPROVED", "approved"
        REJECTED = "REJECTED", "rejected"
        NOT_NEEDED = "NOT_NEEDED", "not needed"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="operations")
    kind = models.CharField(max_length=10, choices=Kind)
    step_key = models.CharField(max_length=200)
    reply_to = models.CharField(max_length=200, blank=True)
    amount = models.DecimalField(max_digits=15, decimal_places=2, null=True)
    status = models.CharField(max_length=10, choices=Status, default=Status.REQUESTED)
    processor_reference = models.CharField(max_length=64, blank=True)
    error_code = models.CharField(max_length=40, blank=True)
    error_message = models.CharField(max_length=300, blank=True)
    # With the database's own default: a process of the release before, which does not know it, goes on writing.
    reason = models.CharField(max_length=200, blank=True, db_default="", help_text="Why a merchant gives it back.")
    times_asked = models.SmallIntegerField(default=1, help_text="More than once: an answer was late or lost.")
    late_answers = models.IntegerField(default=0, help_text="Answers that came after the first, or too late to matter.")
    requested_at = models.DateTimeField()
    asked_at = models.DateTimeField(help_text="The last time that it was asked.")
    answered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "operation"
        constraints = [
            # A void carries the key of the authorisation that it undoes, so the kind is a part of the key.
            models.UniqueConstraint(fields=["step_key", "kind"], name="payments_operation_once"),
            models.UniqueConstraint(
                fields=["payment"],
                condition=Q(kind="capture", status__in=["REQUESTED", "APPROVED"]),
                name="payments_operation_one_capture",
            ),
            models.CheckConstraint(
                condition=Q(amount__gt=0) | Q(amount__isnull=True, kind="void"), name="payments_operation_amount"
            ),
            models.CheckConstraint(
                condition=Q(kind__in=["authorise", "capture", "void", "refund"]), name="payments_operation_kind"
            ),
            models.CheckConstraint(
                condition=Q(status="REQUESTED", answered_at__isnull=True)
                | Q(status__in=["APPROVED", "REJECTED", "NOT_NEEDED"], answered_at__isnull=False),
                name="payments_operation_answered",
            ),
        ]
        indexes = [
            models.Index(fields=["asked_at"], condition=Q(status="REQUESTED"), name="payments_operation_open"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.step_key}"

    @property
    def operation_key(self) -> str:
        """What the processor knows the operation by."""
        return f"{self.step_key}:{self.kind}"

"""The "once only" stamp: what was asked under a key, and what was answered."""

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models

from apps.common.clock import uuid7


class IdempotencyKey(models.Model):
    """One Idempotency-Key of one account. Inserted in the transaction of the work that it stands for."""

    class State(models.TextChoices):
        IN_FLIGHT = "IN_FLIGHT", "in flight"
        DONE = "DONE", "done"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account_id = models.CharField(max_length=44, blank=True, help_text="Empty: a caller without an account.")
    key = models.CharField(max_length=255)
    route = models.CharField(max_length=200, help_text="The method and the path.")
    fingerprint = models.BinaryField(
        max_length=32, help_text="A keyed digest (HMAC) of the body; the body itself is not kept."
    )
    state = models.CharField(max_length=10, choices=State, default=State.IN_FLIGHT)
    status = models.SmallIntegerField(null=True, blank=True, help_text="The answer's HTTP status.")
    body = models.JSONField(null=True, blank=True, encoder=DjangoJSONEncoder)
    headers = models.JSONField(default=dict, blank=True)
    lease_id = models.UUIDField(default=uuid7, help_text="Who works on it: only the holder may store the answer.")
    lease_until = models.DateTimeField(
        help_text="Until then a repetition is told to wait; afterwards the stored answer counts."
    )
    created_at = models.DateTimeField()

    class Meta:
        verbose_name = "idempotency key"
        constraints = [
            models.UniqueConstraint(fields=["account_id", "key"], name="idempotency_key_once"),
            models.CheckConstraint(
                condition=models.Q(state="IN_FLIGHT") | models.Q(state="DONE", status__isnull=False),
                name="idempotency_done_is_answered",
            ),
        ]
        indexes = [models.Index(fields=["created_at"], name="idempotency_created")]

    def __str__(self) -> str:
        return self.key

"""Where a merchant wants to be told, what happened, and how the telling went.

Note [Who holds which lock]
Whoever takes a delivery, or notes that it failed, first locks the endpoint's row and then the delivery's: so the number of
deliveries in flight is counted by one at a time, and nobody waits in a circle. A delivery in flight holds no lock, only a
lease: while a worker waits for the merchant's server there is no transaction, and when it dies the lease runs out.
"""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from apps.common.clock import uuid7

URL_CHARACTERS_MAX = 500
DESCRIPTION_CHARACTERS_MAX = 200
TYPES_MAX = 50  # there are fewer
ERROR_CHARACTERS_MAX = 200
ANSWER_CHARACTERS_MAX = 500


class Endpoint(models.Model):
    """An address of a merchant's, and the events it is told of. A deleted one stays until its deliveries are forgotten."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account_id = models.CharField(max_length=44)
    url = models.CharField("URL", max_length=URL_CHARACTERS_MAX)
    description = models.CharField(max_length=DESCRIPTION_CHARACTERS_MAX, blank=True)
    event_types = ArrayField(models.CharField(max_length=50), size=TYPES_MAX)
    sealed_secret = models.BinaryField(help_text="The signing secret, encrypted.")
    sealed_previous = models.BinaryField(null=True, blank=True, help_text="The one before it, which still signs.")
    previous_until = models.DateTimeField(null=True, blank=True)
    disabled_at = models.DateTimeField(null=True, blank=True)
    disabled_reason = models.CharField(max_length=ERROR_CHARACTERS_MAX, blank=True)
    failures = models.PositiveIntegerField(default=0, help_text="Attempts in a row that failed.")
    failing_since = models.DateTimeField(null=True, blank=True)
    paused_until = models.DateTimeField(null=True, blank=True, help_text="Nothing is sent before that.")
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account_id", "url"], condition=Q(deleted_at__isnull=True), name="webhooks_endpoint_once"
            ),
            models.CheckConstraint(
                condition=Q(sealed_previous__isnull=True, previous_until__isnull=True)
                | Q(sealed_previous__isnull=False, previous_until__isnull=False),
                name="webhooks_endpoint_previous",
            ),
            models.CheckConstraint(
                condition=Q(disabled_at__isnull=True) | ~Q(disabled_reason=""), name="webhooks_endpoint_reason"
            ),
        ]

    def __str__(self) -> str:
        return str(self.pk)


class Event(models.Model):
    """Something that happened to what belongs to a merchant, as his endpoints are told of it. It never changes.

    A later event of one object has a higher ``sequence``.
    """

    sequence = models.BigAutoField(primary_key=True)
    id = models.UUIDField(unique=True, help_text="webhook-id: the message's of which it was made.")
    account_id = models.CharField(max_length=44)
    type = models.CharField(max_length=50)
    object_id = models.UUIDField(null=True, blank=True, help_text="The order, payment, return or document.")
    data = models.JSONField()
    occurred_at = models.DateTimeField()
    created_at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["object_id"], name="webhooks_event_object", condition=Q(object_id__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.id}"


class Delivery(models.Model):
    """One event on its way to one endpoint."""

    class State(models.TextChoices):
        PENDING = "PENDING", "pending"
        DELIVERED = "DELIVERED", "delivered"
        FAILED = "FAILED", "given up"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    endpoint = models.ForeignKey(Endpoint, on_delete=models.PROTECT, related_name="deliveries", db_index=False)
    event = models.ForeignKey(Event, on_delete=models.PROTECT, related_name="deliveries", db_index=False)
    state = models.CharField(max_length=9, choices=State, default=State.PENDING)
    attempts = models.PositiveIntegerField(default=0, help_text="All of them.")
    tries = models.PositiveIntegerField(default=0, help_text="Attempts since it was last asked for.")
    due_at = models.DateTimeField()
    lease_until = models.DateTimeField(null=True, blank=True, help_text="Somebody is sending it until then.")
    last_status = models.SmallIntegerField(null=True, blank=True, help_text="The HTTP status of the last answer.")
    last_error = models.CharField(max_length=ERROR_CHARACTERS_MAX, blank=True)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "deliveries"
        permissions = [("redeliver_delivery", "Can deliver an event again")]
        # Each foreign key is the beginning of an index below.
        constraints = [
            models.UniqueConstraint(fields=["event", "endpoint"], name="webhooks_delivery_once"),
            models.CheckConstraint(
                condition=Q(state="PENDING", finished_at__isnull=True)
                | Q(state__in=["DELIVERED", "FAILED"], finished_at__isnull=False, lease_until__isnull=True),
                name="webhooks_delivery_finished",
            ),
        ]
        indexes = [
            models.Index(fields=["endpoint", "due_at"], name="webhooks_delivery_due", condition=Q(state="PENDING")),
            models.Index(fields=["endpoint", "-id"], name="webhooks_delivery_endpoint"),
            models.Index(
                fields=["endpoint", "lease_until"], name="webhooks_delivery_flying", condition=Q(lease_until__isnull=False)
            ),
            models.Index(fields=["endpoint", "id"], name="webhooks_delivery_failed", condition=Q(state="FAILED")),
        ]

    def __str__(self) -> str:
        return str(self.pk)


class Attempt(models.Model):
    """One request to an endpoint. One without ``took_ms`` is under way, or its worker died."""

    id = models.BigAutoField(primary_key=True)
    delivery = models.ForeignKey(Delivery, on_delete=models.CASCADE, related_name="tried", db_index=False)
    number = models.PositiveIntegerField()
    started_at = models.DateTimeField()
    took_ms = models.PositiveIntegerField(null=True, blank=True)
    status = models.SmallIntegerField(null=True, blank=True)
    error = models.CharField(max_length=ERROR_CHARACTERS_MAX, blank=True)
    answer = models.CharField(max_length=ANSWER_CHARACTERS_MAX, blank=True, help_text="The beginning of the answer's body.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["delivery", "number"], name="webhooks_attempt_once")]

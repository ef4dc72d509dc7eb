"""What went wrong, in groups, and what people asked for about it: incidents, their trend, actions on many runs."""

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import Q

from apps.common.clock import uuid7


class Incident(models.Model):
    """Errors of one kind: use case, step and code. One row for ever, opened again when the error comes back."""

    class Status(models.TextChoices):
        OPEN = "OPEN", "Open"
        HANDLED = "HANDLED", "Handled"

    id = models.UUIDField(primary_key=True, editable=False, help_text="Made from use case, step and code.")
    use_case = models.CharField(max_length=100)
    step = models.CharField(max_length=100)
    error_code = models.CharField(max_length=50)
    error_class = models.CharField(max_length=9, help_text="business, technical or unknown.")
    detail = models.TextField(blank=True, default="", help_text="What the newest error said.")
    first_seen = models.DateTimeField()
    last_seen = models.DateTimeField()
    count = models.BigIntegerField(help_text="Failed attempts, not runs.")
    status = models.CharField(max_length=7, choices=Status, default=Status.OPEN)
    openings = models.PositiveIntegerField(
        default=1, help_text="How often it was opened: once, and each time it came back."
    )
    handled_by = models.CharField(max_length=200, blank=True, default="")
    handled_at = models.DateTimeField(null=True)
    handled_reason = models.TextField(blank=True, default="")
    # Who sees to it, and until when nobody wants to hear of it. Both end when it is handled.
    owner = models.CharField(max_length=200, blank=True, default="", db_default="")
    owner_note = models.TextField(blank=True, default="", db_default="")
    owned_at = models.DateTimeField(null=True)
    silenced_until = models.DateTimeField(null=True)
    silenced_by = models.CharField(max_length=200, blank=True, default="", db_default="")
    silenced_reason = models.TextField(blank=True, default="", db_default="")

    class Meta:
        indexes = [
            models.Index(fields=["-last_seen", "id"], name="saga_incident_seen"),
            models.Index(fields=["status", "-last_seen"], name="saga_incident_status"),
        ]

    def __str__(self) -> str:
        return f"{self.error_code} at {self.step} of {self.use_case}"


class IncidentTrend(models.Model):
    """How often an incident occurred in five minutes."""

    pk = models.CompositePrimaryKey("incident_id", "bucket")
    incident_id = models.UUIDField()
    bucket = models.DateTimeField(help_text="The start of the five minutes.")
    count = models.BigIntegerField()

    class Meta:
        db_table = "saga_incident_trend"
        indexes = [models.Index(fields=["bucket"], name="saga_incident_trend_bucket")]


class Occurrence(models.Model):
    """A failed attempt that is not counted yet: appended by the engine, folded into its incident within a second."""

    id = models.BigAutoField(primary_key=True)
    incident_id = models.UUIDField()
    use_case = models.CharField(max_length=100)
    step = models.CharField(max_length=100)
    error_code = models.CharField(max_length=50)
    error_class = models.CharField(max_length=9)
    detail = models.TextField()
    at = models.DateTimeField()
    counts = models.BooleanField(default=True, db_default=True, help_text="False: it was counted where it happened.")


class BulkAction(models.Model):
    """Something that a person asked to have done to runs: which, why, who agreed, and how far it is."""

    class Status(models.TextChoices):
        ASKED = "ASKED", "Waits for a second person"
        RUNNING = "RUNNING", "Running"
        DONE = "DONE", "Done"
        CANCELLED = "CANCELLED", "Cancelled"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    action = models.CharField(max_length=12)
    status = models.CharField(max_length=9, choices=Status)
    told = models.TextField(help_text="Which runs, in words.")
    given = models.JSONField(default=dict, encoder=DjangoJSONEncoder, help_text="The input to merge, or the output.")
    incident_id = models.UUIDField(null=True)
    reason = models.TextField()
    runs = models.PositiveIntegerField()
    amount = models.DecimalField(max_digits=30, decimal_places=2, help_text="At risk when it was asked for.")
    asked_by = models.CharField(max_length=200)
    asked_at = models.DateTimeField()
    approved_by = models.CharField(max_length=200, blank=True, default="")
    approved_at = models.DateTimeField(null=True)
    cancelled_by = models.CharField(max_length=200, blank=True, default="")
    cancelled_at = models.DateTimeField(null=True)
    worked_until = models.DateTimeField(null=True, help_text="A worker is at it; later than this it did not come back.")
    finished_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "saga_bulk_action"
        indexes = [
            models.Index(fields=["-asked_at"], name="saga_bulk_asked"),
            models.Index(
                fields=["incident_id", "-asked_at"],
                name="saga_bulk_incident",
                condition=Q(incident_id__isnull=False),
            ),
            models.Index(fields=["id"], name="saga_bulk_running", condition=Q(status="RUNNING")),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.told}"


class BulkItem(models.Model):
    """One run of an action, and what became of it."""

    class Status(models.TextChoices):
        PENDING = "PENDING", "Waits"
        DONE = "DONE", "Done"
        REFUSED = "REFUSED", "Left alone"
        FAILED = "FAILED", "Failed"
        CANCELLED = "CANCELLED", "Cancelled"

    pk = models.CompositePrimaryKey("action", "run_id")
    action = models.ForeignKey(BulkAction, on_delete=models.CASCADE, related_name="items", db_index=False)
    run_id = models.UUIDField()
    business_key = models.CharField(max_length=200)
    amount = models.DecimalField(max_digits=30, decimal_places=2, null=True)
    seen = models.CharField(max_length=80, help_text="The state of the run when it was asked for.")
    status = models.CharField(max_length=9, choices=Status, default=Status.PENDING)
    code = models.CharField(max_length=50, blank=True, default="")
    detail = models.TextField(blank=True, default="")
    at = models.DateTimeField(null=True)

    class Meta:
        db_table = "saga_bulk_item"
        indexes = [
            models.Index(fields=["action", "run_id"], name="saga_bulk_pending", condition=Q(status="PENDING")),
            models.Index(fields=["run_id"], name="saga_bulk_of_run"),
        ]

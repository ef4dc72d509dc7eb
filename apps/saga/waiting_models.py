"""What runs wait for, beside answers and moments: a person's decision, and keys that other runs hold."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from apps.common.clock import uuid7


class ApprovalStatus(models.TextChoices):
    """Where a question to a person is. Only the first one waits."""

    OPEN = "OPEN", "Waits for a decision"
    APPROVED = "APPROVED", "Approved"
    REFUSED = "REFUSED", "Refused"
    EXPIRED = "EXPIRED", "Nobody decided in time"
    CLOSED = "CLOSED", "Not needed any more"


class Approval(models.Model):
    """A step that waits for a person. Changed under its run's lock alone."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    run_id = models.UUIDField()
    position = models.PositiveSmallIntegerField()
    use_case = models.CharField(max_length=100)
    step = models.CharField(max_length=100)
    business_key = models.CharField(max_length=200)
    question = models.TextField()
    facts = models.JSONField(default=list, help_text="What whoever decides has to know: pairs of name and text, in order.")
    deciders = ArrayField(models.CharField(max_length=200), help_text="group:…, permission:… or scope:…")
    delegates = ArrayField(models.CharField(max_length=200), default=list, help_text="Who decides after the deadline.")
    delegated_at = models.DateTimeField(null=True, help_text="Since then the delegates decide, and nobody else.")
    asked_by = models.CharField(
        max_length=200, blank=True, default="", db_default="", help_text="Who wants it, and does not decide it."
    )
    status = models.CharField(max_length=8, choices=ApprovalStatus, default=ApprovalStatus.OPEN)
    asked_at = models.DateTimeField()
    until = models.DateTimeField()
    decided_at = models.DateTimeField(null=True)
    decided_by = models.CharField(max_length=200, blank=True, default="")
    reason = models.TextField(blank=True, default="")

    class Meta:
        indexes = [
            models.Index(fields=["-id"], name="saga_approval_open", condition=Q(status="OPEN")),
            models.Index(fields=["run_id"], name="saga_approval_run"),
            models.Index(fields=["business_key"], name="saga_approval_business_key"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["run_id", "position"], name="saga_approval_once", condition=Q(status="OPEN")),
        ]

    def __str__(self) -> str:
        return f"{self.use_case} {self.business_key}"


class LockState(models.TextChoices):
    """What a run has of a key."""

    HELD = "HELD", "Held"
    WAITING = "WAITING", "Waits for it"
    LATER = "LATER", "Asks for it when it has those before it"


class Lock(models.Model):
    """A key of a run that is not over; see apps/saga/locks.py. The rows of a run go with its end."""

    id = models.BigAutoField(primary_key=True)
    key = models.CharField(max_length=200)
    run_id = models.UUIDField()
    state = models.CharField(max_length=7, choices=LockState)
    asked_at = models.DateTimeField()
    held_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["key", "id"], name="saga_lock_queue"),
            models.Index(fields=["run_id", "key"], name="saga_lock_run"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["key"], name="saga_lock_holder", condition=Q(state="HELD")),
        ]

    def __str__(self) -> str:
        return self.key

"""What people, and the breakers, decided about the runs: pauses, the failures that led to them, and who did what."""

from django.contrib.postgres.fields import ArrayField
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import Q

from apps.common.clock import uuid7


class Pause(models.Model):
    """A use case that begins no run, or a step that is not begun. It stays as history when it is lifted."""

    class Kind(models.TextChoices):
        MANUAL = "MANUAL", "By a person"
        BREAKER = "BREAKER", "By the breaker"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    use_case = models.CharField(max_length=100)
    step = models.CharField(max_length=100, blank=True, default="", help_text="Empty: no new run of the use case begins.")
    kind = models.CharField(max_length=7, choices=Kind)
    refuses = models.BooleanField(default=False, help_text="New runs are refused; otherwise they wait.")
    holds_undo = models.BooleanField(default=True, help_text="The undo of the step waits too.")
    reason = models.TextField()
    paused_by = models.CharField(max_length=200)
    paused_at = models.DateTimeField()
    lifted_by = models.CharField(max_length=200, blank=True, default="")
    lifted_at = models.DateTimeField(null=True)
    lift_reason = models.TextField(blank=True, default="")
    released_at = models.DateTimeField(null=True, help_text="Since then no run is held by it.")

    class Meta:
        indexes = [
            models.Index(fields=["-paused_at"], name="saga_pause_paused"),
            models.Index(
                fields=["lifted_at"],
                name="saga_pause_releasing",
                condition=Q(lifted_at__isnull=False, released_at__isnull=True),
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["use_case", "step", "kind"], name="saga_pause_once", condition=Q(lifted_at__isnull=True)
            ),
            models.CheckConstraint(name="saga_pause_refuses_runs", condition=Q(refuses=False) | Q(step="")),
        ]

    def __str__(self) -> str:
        return f"{self.use_case} {self.step}".strip()


class Circuit(models.Model):
    """A step's breaker: its last failures in a row and, while it is open, who tries next."""

    id = models.BigAutoField(primary_key=True)
    use_case = models.CharField(max_length=100)
    step = models.CharField(max_length=100)
    failed_at = ArrayField(models.DateTimeField(), default=list, help_text="Without a success in between.")
    pause_id = models.UUIDField(null=True, help_text="The pause that holds the runs while it is open.")
    probe_at = models.DateTimeField(null=True, help_text="When the next run may try.")
    probe_run = models.UUIDField(null=True, help_text="The run that tries.")

    class Meta:
        indexes = [models.Index(fields=["probe_at"], name="saga_circuit_probe", condition=Q(probe_at__isnull=False))]
        constraints = [models.UniqueConstraint(fields=["use_case", "step"], name="saga_circuit_once")]

    def __str__(self) -> str:
        return f"{self.use_case} {self.step}"


class Audit(models.Model):
    """Who intervened, when, why, and what came of it. Written in the commit of the deed; never changed."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    at = models.DateTimeField()
    actor = models.CharField(max_length=200, help_text="account:…, user:…, command:…, or the breaker.")
    action = models.CharField(max_length=40)
    use_case = models.CharField(max_length=100)
    step = models.CharField(max_length=100, blank=True, default="")
    run_id = models.UUIDField(null=True)
    reason = models.TextField()
    detail = models.JSONField(default=dict, encoder=DjangoJSONEncoder)

    class Meta:
        verbose_name = "intervention"
        indexes = [
            models.Index(fields=["use_case", "-id"], name="saga_audit_use_case"),
            models.Index(fields=["run_id"], name="saga_audit_run", condition=Q(run_id__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.use_case} {self.step}".strip()

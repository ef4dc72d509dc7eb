"""Forks: what a run would do if it went on from a step once more, tried out in a sandbox.

They are a table of their own, not rows of saga_run with a flag: nothing that lists, counts, measures, searches, sweeps or
archives runs can take one for a run by mistake.
"""

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models

from apps.common.clock import uuid7


class Fork(models.Model):
    """One try in the sandbox. Never changed."""

    class Status(models.TextChoices):
        COMPLETED = "COMPLETED", "Completed"
        REFUSED = "REFUSED", "Refused by a business rule"
        FAILED = "FAILED", "Failed"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    forked_from = models.UUIDField(help_text="The run of which it is a fork.")
    use_case = models.CharField(max_length=100)
    version = models.PositiveSmallIntegerField()
    subject_id = models.UUIDField()
    business_key = models.CharField(max_length=200)
    from_step = models.CharField(max_length=100)
    status = models.CharField(max_length=10, choices=Status)
    failed_step = models.CharField(max_length=100, blank=True, default="")
    error_code = models.CharField(max_length=50, blank=True, default="")
    error_detail = models.TextField(blank=True, default="")
    data = models.JSONField(default=dict, help_text="The input: the run's, or an edited one.")
    edited = models.BooleanField(default=False, help_text="Is the input an edited one?")
    steps = models.JSONField(default=list, help_text="Of each step: how it came to its output, the output, error, time.")
    published = models.JSONField(default=list, help_text="Topic, schema and key of the messages that it would have sent.")
    posted = models.JSONField(
        default=dict, encoder=DjangoJSONEncoder, help_text="What it would have written, as its witnesses tell it."
    )
    reason = models.TextField()
    made_by = models.CharField(max_length=200)
    made_at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["forked_from", "-id"], name="saga_fork_run"),
            models.Index(fields=["use_case", "-id"], name="saga_fork_use_case"),
        ]

    def __str__(self) -> str:
        return f"{self.use_case} {self.business_key} from {self.from_step}"

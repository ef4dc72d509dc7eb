"""What was heard of runs whose steps live in other services."""

from django.db import models

from apps.common.clock import uuid7


class PipeRun(models.Model):
    """Which run a global id is. Whoever hears of a saga first writes the row; a second one waits for it, and finds it."""

    run_id = models.UUIDField(primary_key=True, default=uuid7)
    global_id = models.CharField(max_length=200, help_text="As it stands in the messages: any text.")
    branch = models.CharField(max_length=100, blank=True, default="", help_text="Of several routes of one saga.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["global_id", "branch"], name="saga_piperun_once")]

    def __str__(self) -> str:
        return self.global_id


class PipeFact(models.Model):
    """One thing that was heard about one message to one step. Only added, never changed: order and copies do not matter."""

    pk = models.CompositePrimaryKey("run_id", "position", "undo", "message_id", "what", "attempt")
    run_id = models.UUIDField()
    position = models.PositiveSmallIntegerField()
    undo = models.BooleanField()
    message_id = models.UUIDField(help_text="Of the message that this is about.")
    what = models.CharField(max_length=8)
    attempt = models.PositiveSmallIntegerField(default=0)
    at = models.DateTimeField(help_text="When it was heard, or said by us: our clock.")
    asked_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True, help_text="The service's clock.")
    finished_at = models.DateTimeField(null=True)
    retry_at = models.DateTimeField(null=True)
    code = models.CharField(max_length=50, blank=True, default="")
    reason = models.TextField(blank=True, default="")
    key = models.CharField(max_length=200, blank=True, default="")
    envelope = models.TextField(blank=True, default="", help_text="The message itself: what another try sends again.")

    def __str__(self) -> str:
        return f"{self.what} {self.message_id}"

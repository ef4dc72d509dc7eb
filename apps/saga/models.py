"""A run, its steps and their attempts: the truth about every business transaction.

Note [Months]
The three tables are partitioned by month over the run's id, whose first bits are its time (apps/saga/months.py). So steps
and attempts lie in the month of their run, are found by its id, and old months go whole (apps/saga/retention.py). Their
keys begin with the run's id, and no foreign key binds them: its trigger would cost every row of the hot path a look-up,
and the engine is the only writer, which writes a run with its steps in one statement (apps/saga/storage.py).
"""

from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import Q

from apps.common.clock import uuid7
from apps.saga.control_models import Audit, Circuit, Pause
from apps.saga.fork_models import Fork
from apps.saga.pipe_models import PipeFact, PipeRun
from apps.saga.triage_models import BulkAction, BulkItem, Incident, IncidentTrend, Occurrence
from apps.saga.waiting_models import Approval, ApprovalStatus, Lock, LockState

__all__ = [
    "IN_ERROR",
    "LIVE",
    "OPEN",
    "Approval",
    "ApprovalStatus",
    "Attempt",
    "AttemptOutcome",
    "Audit",
    "BulkAction",
    "BulkItem",
    "Circuit",
    "Fork",
    "Incident",
    "IncidentTrend",
    "Lock",
    "LockState",
    "Occurrence",
    "Pause",
    "PipeFact",
    "PipeRun",
    "Run",
    "RunStatus",
    "Step",
    "StepStatus",
]


class RunStatus(models.TextChoices):
    """Where a run is. The first three are live: such a run has a ``due_at``, or is held by a pause."""

    RUNNING = "RUNNING", "Running"
    WAITING = "WAITING", "Waiting for an answer"
    COMPENSATING = "COMPENSATING", "Undoing"
    COMPLETED = "COMPLETED", "Completed"
    COMPENSATED = "COMPENSATED", "Undone"
    STUCK = "STUCK", "Stuck: needs a person"
    HANDLED = "HANDLED", "Handled by a person"


LIVE = (RunStatus.RUNNING, RunStatus.WAITING, RunStatus.COMPENSATING)
OPEN = ["RUNNING", "WAITING", "COMPENSATING", "STUCK"]  # somebody or something has still to do with it
FAILED = ["COMPENSATING", "COMPENSATED", "STUCK"]  # it did not go as it should
# Not over, and in trouble: a step failed and is tried again, it is undoing, or it is stuck.
IN_ERROR = Q(finished_at__isnull=True) & (~Q(error_code="") | Q(status__in=["COMPENSATING", "STUCK"]))


class StepStatus(models.TextChoices):
    """Where a step of a run is."""

    PENDING = "PENDING", "Not begun"
    RUNNING = "RUNNING", "Running"
    WAITING = "WAITING", "Waiting for an answer"
    DONE = "DONE", "Done"
    FAILED = "FAILED", "Failed"
    UNKNOWN = "UNKNOWN", "Outcome unknown"
    ROLLED_BACK = "ROLLED_BACK", "Rolled back before it was committed"
    UNDOING = "UNDOING", "Undoing"
    UNDONE = "UNDONE", "Undone"


class Run(models.Model):
    """One business transaction: a use case, run once."""

    id = models.UUIDField(primary_key=True, default=uuid7)
    global_id = models.UUIDField(help_text="Travels in every message as global-id.")
    use_case = models.CharField(max_length=100)
    version = models.PositiveSmallIntegerField(help_text="A run finishes on the version it began with.")
    subject_id = models.UUIDField(db_index=True, help_text="What the run is about: an order's id.")
    business_key = models.CharField(max_length=200, help_text="The name by which people look for it.")
    status = models.CharField(max_length=12, choices=RunStatus)
    cursor = models.PositiveSmallIntegerField(default=0, help_text="Position of the step to do, or to undo.")
    data = models.JSONField(default=dict, help_text="The input: ids and values, never secrets.")
    idempotency_key = models.CharField(max_length=255, blank=True, default="", help_text="Of the request that began it.")
    attributes = models.JSONField(default=dict, help_text="What it is found by; see apps/saga/attributes.py.")
    renamed = models.JSONField(default=dict, help_text="Steps that a newer version renamed: what they began as.")
    failed_step = models.CharField(max_length=100, blank=True, default="")
    error_code = models.CharField(max_length=50, blank=True, default="")
    error_detail = models.TextField(blank=True, default="")
    token = models.UUIDField(null=True, help_text="Fencing: only the holder of this token may record an outcome.")
    lease_until = models.DateTimeField(null=True, help_text="Until when the holder of the token may record.")
    due_at = models.DateTimeField(
        null=True, help_text="When the sweeper wakes it at the latest; null when it is over, or held."
    )
    held_by = models.UUIDField(null=True, help_text="The pause that holds it: nobody wakes it until that is lifted.")
    held_at = models.DateTimeField(null=True)
    late_answers = models.PositiveIntegerField(default=0, help_text="Answers that came when nobody waited: refused.")
    stale_outcomes = models.PositiveIntegerField(default=0, help_text="Outcomes of owners that had lost the run: refused.")
    rescues = models.PositiveIntegerField(
        default=0, db_default=0, help_text="How often the sweeper had to wake it because nobody else had in time."
    )
    hook_failures = models.PositiveSmallIntegerField(
        null=True, help_text="The run came to an end, and its hook failed so often; null when no hook is awaited."
    )
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    at_step = models.CharField(
        max_length=100, blank=True, default="", db_default="", help_text="Name of the step to do, or to undo."
    )
    deadline_at = models.DateTimeField(null=True, help_text="Before the pivot it is undone when this moment passes.")
    parent_id = models.UUIDField(null=True, help_text="The run of whose step this one is a branch.")
    parent_position = models.PositiveSmallIntegerField(null=True)
    branch = models.CharField(max_length=100, blank=True, default="", db_default="")
    awaits_key = models.CharField(  # noqa: DJ001  # empty and null differ
        max_length=200, null=True, help_text="The key that it waits for; empty: it holds all of them; null: it has none."
    )

    class Meta:
        indexes = [
            # Partial: history does not slow the hot path, and a run that completes in its first commit is in none of
            # them. Each is in the order of the lists, because a plan that walks all runs in that order, looking for the
            # few that are wanted, walks the whole history when there are none. So ask by status, whatever else is asked.
            models.Index(fields=["due_at"], name="saga_run_due", condition=Q(due_at__isnull=False)),
            models.Index(fields=["-id"], name="saga_run_open", condition=Q(status__in=OPEN)),
            models.Index(fields=["status", "-id"], name="saga_run_failed", condition=Q(status__in=FAILED)),
            models.Index(fields=["use_case", "-id"], name="saga_run_trouble", condition=Q(status__in=FAILED)),
            models.Index(fields=["use_case", "-id"], name="saga_run_in_error", condition=IN_ERROR),
            models.Index(fields=["error_code", "-id"], name="saga_run_error", condition=~Q(error_code="")),
            models.Index(fields=["held_by", "id"], name="saga_run_held", condition=Q(held_by__isnull=False)),
            models.Index(fields=["use_case", "-id"], name="saga_run_newest"),
            GinIndex(
                fields=["attributes"],
                opclasses=["jsonb_path_ops"],
                name="saga_run_attributes",
                condition=~Q(attributes={}),  # a use case that declares none does not pay for it
            ),
            models.Index(fields=["parent_id"], name="saga_run_parent", condition=Q(parent_id__isnull=False)),
            models.Index(fields=["business_key"], name="saga_run_business_key"),
            models.Index(fields=["idempotency_key"], name="saga_run_idempotency", condition=~Q(idempotency_key="")),
            models.Index(fields=["global_id"], name="saga_run_global_id"),
            models.Index(fields=["-started_at"], name="saga_run_started"),
        ]
        constraints = [
            models.CheckConstraint(
                name="saga_run_live_is_due",
                condition=Q(status__in=["RUNNING", "WAITING", "COMPENSATING"], due_at__isnull=False, held_by__isnull=True)
                | Q(status__in=["RUNNING", "COMPENSATING"], due_at__isnull=True, held_by__isnull=False)
                | Q(status__in=["COMPLETED", "COMPENSATED", "STUCK", "HANDLED"], due_at__isnull=True, held_by__isnull=True),
            ),
            models.CheckConstraint(
                name="saga_run_held_since",
                condition=Q(held_by__isnull=True, held_at__isnull=True) | Q(held_by__isnull=False, held_at__isnull=False),
            ),
            models.CheckConstraint(
                name="saga_run_parent_step",
                condition=Q(parent_id__isnull=True, parent_position__isnull=True)
                | Q(parent_id__isnull=False, parent_position__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.use_case} {self.business_key}"


class Step(models.Model):
    """One step of a run."""

    pk = models.CompositePrimaryKey("run_id", "position")
    run = models.ForeignKey(Run, on_delete=models.DO_NOTHING, related_name="steps", db_constraint=False, db_index=False)
    position = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=100)
    kind = models.CharField(max_length=12)
    shape = models.CharField(max_length=8)
    status = models.CharField(max_length=12, choices=StepStatus, default=StepStatus.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    undo_attempts = models.PositiveSmallIntegerField(default=0)
    attempts_forgiven = models.PositiveSmallIntegerField(default=0, help_text="Do not count against the limit any more.")
    undo_attempts_forgiven = models.PositiveSmallIntegerField(default=0)
    retry_at = models.DateTimeField(null=True, help_text="Not to be tried again before.")
    waiting_until = models.DateTimeField(null=True)
    output = models.JSONField(default=dict)
    error_code = models.CharField(max_length=50, blank=True, default="")
    error_detail = models.TextField(blank=True, default="")
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    undo_started_at = models.DateTimeField(null=True)
    undone_at = models.DateTimeField(null=True)
    redone = models.PositiveSmallIntegerField(
        default=0, db_default=0, help_text="How often it begins anew after its undo, under new keys."
    )

    def __str__(self) -> str:
        return self.name


class AttemptOutcome(models.TextChoices):
    """How an attempt ended."""

    DONE = "DONE", "Done"
    ASKED = "ASKED", "Asked, answer pending"
    ANSWERED = "ANSWERED", "Answered"
    NO_ANSWER = "NO_ANSWER", "No answer in time"
    REFUSED = "REFUSED", "Refused by a business rule"
    FAILED = "FAILED", "Failed"
    UNKNOWN = "UNKNOWN", "Outcome unknown"
    ROLLED_BACK = "ROLLED_BACK", "Rolled back"


class Attempt(models.Model):
    """One try to do or to undo a step."""

    pk = models.CompositePrimaryKey("run_id", "position", "undo", "number")
    run = models.ForeignKey(Run, on_delete=models.DO_NOTHING, related_name="attempts", db_constraint=False, db_index=False)
    position = models.PositiveSmallIntegerField()
    undo = models.BooleanField(default=False)
    number = models.PositiveSmallIntegerField()
    outcome = models.CharField(max_length=12, choices=AttemptOutcome, blank=True, default="")
    error_code = models.CharField(max_length=50, blank=True, default="")
    error_detail = models.TextField(blank=True, default="")
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)


class ArchivedBatch(models.Model):
    """Runs that were exported and deleted, in one commit. A file without its row here does not count: a crash left it."""

    id = models.UUIDField(primary_key=True, default=uuid7)
    use_case = models.CharField(max_length=100)
    path = models.CharField(max_length=200, unique=True, help_text="Of the files, within the folder of each table.")
    runs = models.PositiveIntegerField()
    first_run_id = models.UUIDField()
    last_run_id = models.UUIDField()
    archived_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "archived batches"
        indexes = [models.Index(fields=["first_run_id", "last_run_id"], name="saga_archived_runs")]

    def __str__(self) -> str:
        return self.path

"""The tables of the ledger's care: suspensions of posting, checks, and what a check found to differ."""

from django.db import models
from django.db.models import F, Q

from apps.common.clock import uuid7
from apps.ledger.columns import KEY_COLLATION, key_column, sum_column
from apps.ledger.rules import SUM_DIGITS_MAX


class Suspension(models.Model):
    """Nobody posts to a part of the ledger for a while. Rows stay: who, why, from when to when."""

    class Mode(models.TextChoices):
        WAIT = "WAIT"  # writers wait a moment, and are refused only then
        REFUSE = "REFUSE"

    id = models.UUIDField(primary_key=True, default=uuid7)
    branch = key_column("branch", null=True, blank=True, help_text="Empty: the whole ledger.")
    account = key_column("account", null=True, blank=True, help_text="Empty: the whole branch.")
    currency = models.CharField(max_length=3, null=True, blank=True, db_collation=KEY_COLLATION)  # noqa: DJ001
    mode = models.CharField(max_length=6, choices=Mode.choices)
    reason = models.TextField()
    suspended_by = models.TextField(db_column="suspendedby")
    since = models.DateTimeField()
    until = models.DateTimeField(help_text="It ends then, also when nobody lifts it.")
    lifted_at = models.DateTimeField(db_column="liftedat", null=True)
    lifted_by = models.TextField(db_column="liftedby", default="", blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(name="ledger_suspension_mode", condition=Q(mode__in=["WAIT", "REFUSE"])),
            models.CheckConstraint(
                name="ledger_suspension_scope",
                condition=Q(account__isnull=True, currency__isnull=True)
                | Q(branch__isnull=False, account__isnull=False, currency__isnull=False),
            ),
            models.CheckConstraint(name="ledger_suspension_ends", condition=Q(until__gt=F("since"))),
        ]
        # Every posting asks for those that are not lifted: of all that ever were, nearly none.
        indexes = [models.Index(name="ledger_suspension_active", fields=["until"], condition=Q(lifted_at__isnull=True))]

    def __str__(self) -> str:
        return "/".join(part for part in (self.branch, self.account, self.currency) if part) or "the whole ledger"


class Check(models.Model):
    """One run that proved balances: what it looked at, and what it found. A run without an end broke off, or still runs.

    A full one goes on from ``progress``, whoever calls it next: see Note [Pieces].
    """

    class Kind(models.TextChoices):
        FULL = "FULL"
        INCREMENTAL = "INCREMENTAL"

    id = models.UUIDField(primary_key=True, default=uuid7)
    kind = models.CharField(max_length=11, choices=Kind.choices)
    exclusive = models.BooleanField(default=False, help_text="Were writers kept waiting meanwhile?")
    branch = key_column("branch", null=True, blank=True, help_text="Empty: the whole ledger.")
    account = key_column("account", null=True, blank=True)
    currency = models.CharField(max_length=3, null=True, blank=True, db_collation=KEY_COLLATION)  # noqa: DJ001
    began_at = models.DateTimeField(db_column="beganat")
    snapshot_at = models.DateTimeField(db_column="snapshotat", null=True, help_text="The moment that it saw.")
    ended_at = models.DateTimeField(db_column="endedat", null=True)
    failure = models.TextField(default="", blank=True, help_text="Why it broke off.")
    accounts = models.BigIntegerField(default=0)
    days = models.BigIntegerField(default=0)
    lines = models.BigIntegerField(default=0)
    differences = models.IntegerField(default=0)
    progress = models.JSONField(null=True, blank=True, help_text="How far a full check is that has not ended.")
    looked = models.BigIntegerField(default=0, db_default=0, help_text="Lines, holds and tracekeys that it has looked at.")
    expected = models.BigIntegerField(default=0, db_default=0, help_text="So many there were when it began, more or less.")
    tries = models.IntegerField(default=0, db_default=0, help_text="Of its next piece: many when it is killed each time.")
    continued_at = models.DateTimeField(db_column="continuedat", null=True, help_text="The moment that its last piece saw.")
    unproven = models.BigIntegerField(default=0, db_default=0, help_text="Accounts that no check had proved when it ended.")
    cluster = models.TextField(default="", blank=True, help_text="Which server's transaction numbers its proofs speak of.")

    class Meta:
        constraints = [models.CheckConstraint(name="ledger_check_kind", condition=Q(kind__in=["FULL", "INCREMENTAL"]))]
        indexes = [models.Index(name="ledger_check_ended", fields=["kind", "ended_at"], condition=Q(failure=""))]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


class Difference(models.Model):
    """Something that does not add up: flagged, never corrected. People acknowledge it; a later check may find it gone."""

    class State(models.TextChoices):
        OPEN = "OPEN"
        ACKNOWLEDGED = "ACKNOWLEDGED"
        GONE = "GONE"

    id = models.UUIDField(primary_key=True, default=uuid7)
    rule = models.TextField()
    branch = key_column("branch", null=True)
    account = key_column("account", null=True)
    currency = models.CharField(max_length=3, null=True, db_collation=KEY_COLLATION)  # noqa: DJ001
    dateref = models.DateField(null=True)
    tracekey = models.UUIDField(null=True)
    stored = models.DecimalField(max_digits=SUM_DIGITS_MAX + 20, decimal_places=2, null=True)
    proven = models.DecimalField(max_digits=SUM_DIGITS_MAX + 20, decimal_places=2, null=True)
    state = models.CharField(max_length=12, choices=State.choices, default=State.OPEN)
    first_seen = models.DateTimeField(db_column="firstseen")
    last_seen = models.DateTimeField(db_column="lastseen")
    check_run = models.ForeignKey(
        Check, on_delete=models.PROTECT, db_column="checkid", help_text="The last check that saw it."
    )
    acknowledged_at = models.DateTimeField(db_column="acknowledgedat", null=True)
    acknowledged_by = models.TextField(db_column="acknowledgedby", default="", blank=True)
    reason = models.TextField(default="", blank=True)
    gone_at = models.DateTimeField(db_column="goneat", null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="ledger_difference_place",
                fields=["rule", "branch", "account", "currency", "dateref", "tracekey"],
                nulls_distinct=False,
            ),
            models.CheckConstraint(
                name="ledger_difference_state",
                condition=Q(state="OPEN")
                | Q(state="ACKNOWLEDGED", acknowledged_at__isnull=False)
                | Q(state="GONE", gone_at__isnull=False),
            ),
        ]
        indexes = [models.Index(name="ledger_difference_still", fields=["state"], condition=~Q(state="GONE"))]

    def __str__(self) -> str:
        return self.rule


class Proof(models.Model):
    """What the last check proved of an account: the sums of its lines up to ``seq``. See Note [Increments]."""

    id = models.UUIDField(primary_key=True, help_text="The account's.")
    debit = sum_column("debit")
    credit = sum_column("credit")
    seq = models.BigIntegerField(help_text="Of the last line in these sums.")
    horizon = models.BigIntegerField(help_text="Transactions before this one were seen by the check.")
    window_from = models.DateField(db_column="windowfrom", help_text="Postings after the check are hardly dated before it.")

    def __str__(self) -> str:
        return str(self.id)

"""The tables of the ledger's care: suspensions of posting, checks, and what a check found to differ."""

from django.db import models
from django.db.models import F, Q

from apps.common.clock import uuid7
from apps.ledger.columns import KEY_COLLATION, key_column


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

"""Reversals that somebody asked for and a second person decides."""

from django.db import models
from django.db.models import Q

from apps.common.clock import uuid7
from apps.common.money import AMOUNT_DIGITS_MAX
from apps.ledger.columns import KEY_COLLATION


class ReversalRequest(models.Model):
    """Who wants to take an entry back, why, and who agreed or did not. Rows stay."""

    class State(models.TextChoices):
        WAITING = "WAITING"
        POSTED = "POSTED"
        WITHDRAWN = "WITHDRAWN"
        EXPIRED = "EXPIRED"

    id = models.UUIDField(primary_key=True, default=uuid7)
    tracekey = models.UUIDField(help_text="Of the entry that is to be taken back.")
    reversal_tracekey = models.UUIDField(db_column="reversaltracekey")
    amount = models.DecimalField(max_digits=AMOUNT_DIGITS_MAX + 2, decimal_places=2)
    currency = models.CharField(max_length=3, db_collation=KEY_COLLATION)
    reason = models.TextField()
    state = models.CharField(max_length=9, choices=State.choices, default=State.WAITING)
    asked_by = models.TextField(db_column="askedby")
    asked_at = models.DateTimeField(db_column="askedat")
    decided_by = models.TextField(db_column="decidedby", default="", blank=True)
    decided_at = models.DateTimeField(db_column="decidedat", null=True)
    answer = models.TextField(default="", blank=True, help_text="Why it was withdrawn.")

    class Meta:
        db_table = "ledger_reversal_request"
        constraints = [
            # Two people who ask at once meet here.
            models.UniqueConstraint(name="ledger_reversal_request_one", fields=["tracekey"], condition=Q(state="WAITING")),
            models.CheckConstraint(
                name="ledger_reversal_request_state",
                condition=Q(state="WAITING", decided_at__isnull=True)
                | Q(state__in=["POSTED", "WITHDRAWN", "EXPIRED"], decided_at__isnull=False),
            ),
            models.CheckConstraint(
                name="ledger_reversal_request_second", condition=~Q(state="POSTED", decided_by=models.F("asked_by"))
            ),
        ]

    def __str__(self) -> str:
        return f"{self.state} {self.tracekey}"

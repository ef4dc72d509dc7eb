"""The tables, in the words of the Flow design (columns); the constraints say each rule of the engine again.

Rows of ``transaction`` are never changed or deleted (a trigger refuses both). Only ``postings`` and ``holds`` write the
others, with the account's row locked: see Note [Fences] in ``rows.py``.
"""

from django.db import models
from django.db.models import F, Q

from apps.common.clock import uuid7
from apps.common.money import AMOUNT_DIGITS_MAX, CURRENCY
from apps.ledger.by_hand_models import ReversalRequest as ReversalRequest  # noqa: PLC0414  # Django looks for tables here
from apps.ledger.care_models import Check, Difference, Proof, Suspension  # noqa: F401  # Django looks for models here
from apps.ledger.chain_models import Block as Block  # noqa: PLC0414  # Django looks for tables here
from apps.ledger.columns import KEY_COLLATION, key_column, sum_column
from apps.ledger.rules import (
    BRANCH_PATTERN,
    CURRENCY_PATTERN,
    HOLD_KEY_CHARACTERS_MAX,
    SUM_DIGITS_MAX,
)


class Event(models.Model):
    """What a posting is for, and on which side it may stand."""

    code = models.IntegerField(primary_key=True)
    active = models.BooleanField(default=True, help_text="A posting with an inactive event is refused.")
    description = models.TextField(help_text="Groups the lines of a statement.")
    allow_debit = models.BooleanField(db_column="allowdebit", default=True)
    allow_credit = models.BooleanField(db_column="allowcredit", default=True)
    created_at = models.DateTimeField(db_column="createdat")

    class Meta:
        constraints = [models.CheckConstraint(name="ledger_event_code_positive", condition=Q(code__gt=0))]

    def __str__(self) -> str:
        return f"{self.code} {self.description}"


class Currency(models.Model):
    """A currency in which accounts may be opened."""

    code = models.CharField(primary_key=True, max_length=3, db_collation=KEY_COLLATION)
    active = models.BooleanField(default=True, help_text="No account is opened in an inactive currency.")
    description = models.TextField()
    created_at = models.DateTimeField(db_column="createdat")

    class Meta:
        verbose_name_plural = "currencies"
        constraints = [models.CheckConstraint(name="ledger_currency_code", condition=Q(code__regex=CURRENCY_PATTERN))]

    def __str__(self) -> str:
        return self.code


class Branch(models.Model):
    """A branch (agência): real, or virtual with a text of its own."""

    branch = key_column("branch", primary_key=True)
    description = models.TextField(default="", blank=True)
    closed_until = models.DateField(
        db_column="closeduntil", null=True, help_text="Days up to this one are closed: they take no posting, for ever."
    )
    created_at = models.DateTimeField(db_column="createdat")

    class Meta:
        verbose_name_plural = "branches"
        constraints = [
            models.CheckConstraint(name="ledger_branch_alphanumeric", condition=Q(branch__regex=BRANCH_PATTERN)),
        ]

    def __str__(self) -> str:
        return self.branch


class Account(models.Model):
    """An account in one currency, with its totals of today; balance = credits − debits, available = balance − held."""

    class Status(models.TextChoices):
        ACTIVE = "ACTIVE"
        FROZEN = "FROZEN"  # takes no posting and no hold; an open hold may still be voided
        CLOSED = "CLOSED"  # as frozen, with nothing on it, and for ever

    id = models.UUIDField(primary_key=True, default=uuid7)
    branch = models.ForeignKey(Branch, on_delete=models.PROTECT, db_column="branch", db_index=False)
    account = key_column("account")
    currency = models.CharField(max_length=3, default=CURRENCY, db_collation=KEY_COLLATION)
    description = models.TextField(default="", blank=True)
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.ACTIVE)
    min_balance = models.DecimalField(
        db_column="minbalance",
        max_digits=AMOUNT_DIGITS_MAX,
        decimal_places=2,
        null=True,
        default=0,
        help_text="The floor: available never falls below it. Negative is a credit limit; empty is no floor.",
    )
    max_balance = models.DecimalField(
        db_column="maxbalance",
        max_digits=AMOUNT_DIGITS_MAX,
        decimal_places=2,
        null=True,
        help_text="The ceiling: the balance never rises above it. Empty is no ceiling.",
    )
    deferred = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Without floor and ceiling: its lines take no lock, and are rolled up a moment later.",
    )
    posted_debit = sum_column("posteddebit")
    posted_credit = sum_column("postedcredit")
    pending_debit = sum_column("pendingdebit")
    created_at = models.DateTimeField(db_column="createdat")
    updated_at = models.DateTimeField(db_column="updatedat")

    class Meta:
        constraints = [
            models.UniqueConstraint(name="ledger_account_key", fields=["branch", "account", "currency"]),
            # The other rules are said by a trigger (0005) and by one function that all checks became (0009): each CHECK is
            # prepared again for every posting. They are ledger_account_alphanumeric, _status, _floor_not_positive,
            # _ceiling_not_negative, _sums_not_negative, _above_floor, _below_ceiling, _deferred_unguarded, _closed_empty.
        ]

    def __str__(self) -> str:
        return f"{self.branch_id}/{self.account} {self.currency}"


class Transaction(models.Model):
    """One line: a debit or a credit of one account. Lines of one tracekey are one entry.

    Partitioned by the month of ``dateref``, so the database's key is (id, dateref); see ``months.py``.
    """

    id = models.UUIDField(primary_key=True, default=uuid7)
    # The order of insertion, for one account the same as the order of its lock; from a sequence (0002_rules). Lines of
    # different accounts have no order within a batch.
    seq = models.BigIntegerField(editable=False)
    branch = key_column("branch")
    account = key_column("account")
    currency = models.CharField(max_length=3, db_collation=KEY_COLLATION)
    amount = models.DecimalField(max_digits=AMOUNT_DIGITS_MAX, decimal_places=2)
    debit_credit = models.CharField(db_column="debitcredit", max_length=1, choices=[("D", "Debit"), ("C", "Credit")])
    event_code = models.IntegerField(db_column="eventcode")
    description = models.TextField(default="", blank=True)
    tracekey = models.UUIDField(db_index=True)
    details = models.JSONField(null=True, blank=True)
    dateref = models.DateField()
    created_at = models.DateTimeField(db_column="createdat")
    balanced = models.BooleanField(help_text="Is the line a leg of an entry whose debits equal its credits?")
    deferred = models.BooleanField(
        default=False, db_default=False, help_text="Was it rolled up after its entry had been answered?"
    )
    # What the answer to the posting said, kept so that a repeat is answered the same and history can be proved:
    # the account's balance, what was held, and the balance of dateref, right after this line was written.
    balance_after = models.DecimalField(db_column="balanceafter", max_digits=SUM_DIGITS_MAX, decimal_places=2)
    pending_after = models.DecimalField(db_column="pendingafter", max_digits=SUM_DIGITS_MAX, decimal_places=2)
    day_after = models.DecimalField(db_column="dayafter", max_digits=SUM_DIGITS_MAX, decimal_places=2)
    # Credits − debits of dateref alone, up to this line. Later lines of that day come behind it and back-dated lines of
    # earlier days do not touch it, so it never changes: a statement's running balance is this + the day's opening.
    day_net = models.DecimalField(db_column="daynet", max_digits=SUM_DIGITS_MAX, decimal_places=2)

    class Meta:
        # ledger_transaction_amount_positive and _side are rules of the columns' types (0017).
        indexes = [
            models.Index(name="ledger_transaction_statement", fields=["branch", "account", "currency", "dateref", "seq"]),
        ]

    def __str__(self) -> str:
        return str(self.id)


class Deferred(models.Model):
    """A line of a deferred account that waits to be rolled up: then it moves to ``transaction``. The work table."""

    id = models.UUIDField(primary_key=True, default=uuid7)
    branch = key_column("branch")
    account = key_column("account")
    currency = models.CharField(max_length=3, db_collation=KEY_COLLATION)
    amount = models.DecimalField(max_digits=AMOUNT_DIGITS_MAX, decimal_places=2)
    debit_credit = models.CharField(db_column="debitcredit", max_length=1, choices=[("D", "Debit"), ("C", "Credit")])
    event_code = models.IntegerField(db_column="eventcode")
    description = models.TextField(default="", blank=True)
    tracekey = models.UUIDField(db_index=True)
    details = models.JSONField(null=True, blank=True)
    dateref = models.DateField()
    created_at = models.DateTimeField(db_column="createdat")
    balanced = models.BooleanField()

    class Meta:
        verbose_name_plural = "deferred"
        constraints = [
            models.CheckConstraint(name="ledger_deferred_amount_positive", condition=Q(amount__gt=0)),
            models.CheckConstraint(name="ledger_deferred_side", condition=Q(debit_credit__in=["D", "C"])),
        ]
        indexes = [models.Index(name="ledger_deferred_account", fields=["branch", "account", "currency"])]

    def __str__(self) -> str:
        return str(self.id)


class Balance(models.Model):
    """An account's day: its totals, and the accumulated sums of all days up to it. Only days with lines have a row."""

    id = models.UUIDField(primary_key=True, default=uuid7)
    branch = key_column("branch")
    account = key_column("account")
    currency = models.CharField(max_length=3, db_collation=KEY_COLLATION)
    dateref = models.DateField()
    total_debit = sum_column("totaldebit")
    total_credit = sum_column("totalcredit")
    accumulated_debit = sum_column("accumulateddebit")
    accumulated_credit = sum_column("accumulatedcredit")
    created_tracekey = models.UUIDField(db_column="createdtracekey")
    updated_tracekey = models.UUIDField(db_column="updatedtracekey")
    created_at = models.DateTimeField(db_column="createdat")
    updated_at = models.DateTimeField(db_column="updatedat")

    class Meta:
        constraints = [
            models.UniqueConstraint(name="ledger_balance_day", fields=["branch", "account", "currency", "dateref"]),
            models.CheckConstraint(
                name="ledger_balance_sums",
                condition=Q(
                    total_debit__gte=0,
                    total_credit__gte=0,
                    accumulated_debit__gte=F("total_debit"),
                    accumulated_credit__gte=F("total_credit"),
                ),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.branch}/{self.account} {self.currency} {self.dateref}"


class Hold(models.Model):
    """A pending debit: reserved, not yet posted. A hold that was voided before it was placed has a key and nothing else."""

    class Status(models.TextChoices):
        OPEN = "OPEN"
        POSTED = "POSTED"
        VOIDED = "VOIDED"
        EXPIRED = "EXPIRED"

    id = models.UUIDField(primary_key=True, default=uuid7)
    key = key_column("key", help_text="The caller's key: one key, one hold.")
    status = models.CharField(max_length=8, choices=Status.choices)
    branch = key_column("branch", null=True)
    account = key_column("account", null=True)
    currency = models.CharField(max_length=3, null=True, db_collation=KEY_COLLATION)  # noqa: DJ001
    amount = models.DecimalField(max_digits=AMOUNT_DIGITS_MAX, decimal_places=2, null=True)
    dateref = models.DateField(help_text="The day from which it reduces what is available.")
    expires_at = models.DateTimeField(db_column="expiresat", null=True)
    created_at = models.DateTimeField(db_column="createdat")
    ended_at = models.DateTimeField(db_column="endedat", null=True)
    # What became of it, when posted: the entry, the account that was credited and the event.
    tracekey = models.UUIDField(null=True, unique=True)
    credit_branch = key_column("creditbranch", null=True)
    credit_account = key_column("creditaccount", null=True)
    event_code = models.IntegerField(db_column="eventcode", null=True)
    posted_amount = models.DecimalField(
        db_column="postedamount",
        max_digits=AMOUNT_DIGITS_MAX,
        decimal_places=2,
        null=True,
        help_text="What was posted of it; empty is all. The rest was given back.",
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(name="ledger_hold_key", fields=["key"]),
            models.CheckConstraint(
                name="ledger_hold_posted_part",
                condition=Q(posted_amount__isnull=True)
                | Q(status="POSTED", posted_amount__gt=0, posted_amount__lte=F("amount")),
            ),
            models.CheckConstraint(
                name="ledger_hold_key_length", condition=Q(key__regex=f"^.{{1,{HOLD_KEY_CHARACTERS_MAX}}}$")
            ),
            models.CheckConstraint(
                name="ledger_hold_status", condition=Q(status__in=["OPEN", "POSTED", "VOIDED", "EXPIRED"])
            ),
            models.CheckConstraint(name="ledger_hold_amount_positive", condition=Q(amount__gt=0)),
            models.CheckConstraint(
                name="ledger_hold_whole_or_tombstone",
                condition=Q(branch__isnull=False, account__isnull=False, currency__isnull=False, amount__isnull=False)
                | Q(branch__isnull=True, account__isnull=True, currency__isnull=True, amount__isnull=True, status="VOIDED"),
            ),
            models.CheckConstraint(
                name="ledger_hold_ended",
                condition=Q(status="OPEN", ended_at__isnull=True) | (~Q(status="OPEN") & Q(ended_at__isnull=False)),
            ),
            models.CheckConstraint(
                name="ledger_hold_posted",
                condition=Q(
                    status="POSTED",
                    tracekey__isnull=False,
                    credit_branch__isnull=False,
                    credit_account__isnull=False,
                    event_code__isnull=False,
                )
                | (~Q(status="POSTED") & Q(tracekey__isnull=True)),
            ),
        ]
        indexes = [
            models.Index(name="ledger_hold_open", fields=["branch", "account", "currency"], condition=Q(status="OPEN")),
            models.Index(name="ledger_hold_expiry", fields=["expires_at"], condition=Q(status="OPEN")),
        ]

    def __str__(self) -> str:
        return self.key


class PostingKey(models.Model):
    """One tracekey, one effect. Its own table, because a partitioned ``transaction`` can't keep tracekeys unique.

    The answer to a repeat is built from the entry's lines, which keep what the first answer said.
    """

    class State(models.TextChoices):
        POSTED = "POSTED"
        TOMBSTONE = "TOMBSTONE"  # reversed before it was posted: a late posting is refused

    tracekey = models.UUIDField(primary_key=True)
    body_hash = models.BinaryField(db_column="bodyhash")
    state = models.CharField(max_length=9, choices=State.choices)
    reverses = models.UUIDField(null=True, help_text="The tracekey that this entry takes back.")
    dateref = models.DateField(null=True, help_text="Of its lines: where to look for them. Empty: anywhere.")
    created_at = models.DateTimeField(db_column="createdat")

    class Meta:
        db_table = "ledger_posting_key"
        constraints = [
            # Most entries reverse nothing, and need no place in this index.
            models.UniqueConstraint(
                name="ledger_posting_key_reverses", fields=["reverses"], condition=Q(reverses__isnull=False)
            ),
            # ledger_posting_key_state is a rule of the column's type (0017).
        ]

    def __str__(self) -> str:
        return str(self.tracekey)


class Batch(models.Model):
    """One key of a batch, one effect. Its postings are found by their tracekeys; its refusals are kept here."""

    key = key_column("key", primary_key=True)
    body_hash = models.BinaryField(db_column="bodyhash")
    refusals = models.JSONField(help_text="By the entry's place: code, detail, field.")
    created_at = models.DateTimeField(db_column="createdat", db_index=True)

    class Meta:
        verbose_name_plural = "batches"

    def __str__(self) -> str:
        return self.key


class Refusal(models.Model):
    """Why a queued entry was refused, the last time it was asked for. Whoever has a posting under its tracekey ignores it.

    A refusal over HTTP reaches its caller and is not kept; one from the queue has to be found by asking.
    """

    tracekey = models.UUIDField(primary_key=True)
    code = models.CharField(max_length=4)
    reason = models.TextField()
    field = models.TextField(default="", blank=True)
    retryable = models.BooleanField()
    refused_at = models.DateTimeField(db_column="refusedat", db_index=True)

    def __str__(self) -> str:
        return f"{self.tracekey} {self.code}"

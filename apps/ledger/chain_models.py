"""Tables of the chain and of the months behind: what was hashed, what was sealed, and where it went. See decision 27.

Rows of blocks, parts and closings are never changed (a trigger refuses it): the hashes that follow them would tell.
"""

from django.db import models
from django.db.models import Q

from apps.ledger.columns import KEY_COLLATION, key_column, sum_column


class Block(models.Model):
    """A range of ``seq`` that nobody writes to any more, and the hash of its lines and of the block before it."""

    number = models.BigIntegerField(primary_key=True)
    seq_from = models.BigIntegerField(db_column="seqfrom")
    seq_to = models.BigIntegerField(db_column="seqto")
    lines = models.IntegerField()
    previous = models.BinaryField(help_text="The hash of the block before; zeros before the first one.")
    hash = models.BinaryField()
    created_at = models.DateTimeField(db_column="createdat")

    class Meta:
        constraints = [
            # A second chain beside the first one can't even begin.
            models.UniqueConstraint(name="ledger_block_from", fields=["seq_from"]),
            models.CheckConstraint(
                name="ledger_block_range", condition=Q(number__gt=0, seq_from__gt=0, seq_to__gte=models.F("seq_from"))
            ),
        ]

    def __str__(self) -> str:
        return f"{self.number}:{bytes(self.hash).hex()}"


class BlockPart(models.Model):
    """The lines of a block that are dated in one month: what is left to prove the chain when the month is gone."""

    id = models.BigAutoField(primary_key=True)
    number = models.BigIntegerField(help_text="Of the block.")
    month = models.DateField(help_text="Its first day.")
    lines = models.IntegerField()
    # Over all currencies: a checksum that people can read, not an amount of money.
    debits = sum_column("debits")
    credits = sum_column("credits")
    hash = models.BinaryField(help_text="SHA-256 of the lines in the order of seq.")

    class Meta:
        db_table = "ledger_block_part"
        constraints = [
            models.UniqueConstraint(name="ledger_block_part_of", fields=["month", "number"]),
            models.CheckConstraint(name="ledger_block_part_lines", condition=Q(lines__gt=0)),
        ]
        indexes = [models.Index(name="ledger_block_part_number", fields=["number"])]

    def __str__(self) -> str:
        return f"{self.number} {self.month:%Y-%m}"


class Horizon(models.Model):
    """One row: up to where ``seq`` was drawn when the chain last looked, and who was writing then."""

    id = models.SmallIntegerField(primary_key=True)
    seq = models.BigIntegerField()
    writers = models.JSONField(help_text="Virtual ids of the transactions that may still commit a line up to seq.")
    noted_at = models.DateTimeField(db_column="notedat")

    class Meta:
        constraints = [models.CheckConstraint(name="ledger_horizon_one", condition=Q(id=1))]

    def __str__(self) -> str:
        return str(self.seq)


class Patrol(models.Model):
    """One row: how far the chain was proved, round after round, and what was found first."""

    id = models.SmallIntegerField(primary_key=True)
    number = models.BigIntegerField(default=0, help_text="The last block proved in this round.")
    ended_at = models.DateTimeField(db_column="endedat", null=True, help_text="When the last round was complete.")
    damages = models.IntegerField(default=0, help_text="Found in this round so far.")
    damages_before = models.IntegerField(db_column="damagesbefore", default=0, help_text="Found in the last whole round.")
    damage = models.TextField(default="", blank=True, help_text="One of them, in words.")

    class Meta:
        constraints = [models.CheckConstraint(name="ledger_patrol_one", condition=Q(id=1))]

    def __str__(self) -> str:
        return f"{self.number}: {self.damage or 'sound'}"


class Month(models.Model):
    """A month that is over for good. A month without a row is open."""

    class State(models.TextChoices):
        SEALED = "SEALED"  # proved, and takes no line any more
        EXPORTED = "EXPORTED"  # its file was read back and is the same
        DETACHED = "DETACHED"  # its lines are in the file, and no longer in the ledger's table

    month = models.DateField(primary_key=True, help_text="Its first day.")
    state = models.CharField(max_length=8, choices=State.choices)
    lines = models.BigIntegerField()
    debits = sum_column("debits")
    credits = sum_column("credits")
    seq_last = models.BigIntegerField(db_column="seqlast", help_text="The highest seq of its lines; 0 without lines.")
    hash = models.BinaryField(help_text="SHA-256 of the parts, the closing balances and the seal before.")
    path = models.TextField(default="", blank=True, help_text="Within the archive's folder.")
    file_hash = models.BinaryField(db_column="filehash", default=bytes, blank=True, help_text="SHA-256 of the file.")
    sealed_at = models.DateTimeField(db_column="sealedat")
    sealed_by = models.TextField(db_column="sealedby")
    exported_at = models.DateTimeField(db_column="exportedat", null=True)
    exported_by = models.TextField(db_column="exportedby", default="", blank=True)
    detached_at = models.DateTimeField(db_column="detachedat", null=True, help_text="The last time; it may have come back.")
    detached_by = models.TextField(db_column="detachedby", default="", blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(name="ledger_month_state", condition=Q(state__in=["SEALED", "EXPORTED", "DETACHED"])),
            models.CheckConstraint(name="ledger_month_first_day", condition=Q(month__day=1)),
            models.CheckConstraint(name="ledger_month_exported", condition=Q(state="SEALED") | ~Q(path="")),
        ]

    def __str__(self) -> str:
        return f"{self.month:%Y-%m} {self.state}"


class Closing(models.Model):
    """An account's sums of a lifetime at the end of a month in which it had lines. Other months end as the one before."""

    id = models.BigAutoField(primary_key=True)
    month = models.DateField(help_text="Its first day.")
    branch = key_column("branch")
    account = key_column("account")
    currency = models.CharField(max_length=3, db_collation=KEY_COLLATION)
    accumulated_debit = sum_column("accumulateddebit")
    accumulated_credit = sum_column("accumulatedcredit")

    class Meta:
        constraints = [
            models.UniqueConstraint(name="ledger_closing_account", fields=["branch", "account", "currency", "month"]),
        ]
        indexes = [models.Index(name="ledger_closing_month", fields=["month"])]

    def __str__(self) -> str:
        return f"{self.month:%Y-%m} {self.branch}/{self.account}/{self.currency}"

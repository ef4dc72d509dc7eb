"""Who buys, and how they usually pay."""

from django.db import models

from apps.common.clock import uuid7


class Customer(models.Model):
    """A buyer. The card is a token of the vault, the ledger account a branch and a number: values, not keys."""

    class Method(models.TextChoices):
        CARD = "card", "card"
        BALANCE = "balance", "balance"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account_id = models.CharField(
        max_length=44,
        blank=True,
        default="",
        db_default="",
        help_text="The merchant whose customer it is; empty: nobody's.",
    )
    name = models.CharField(max_length=200)
    cpf = models.CharField("CPF", max_length=11, db_index=True, help_text="Eleven digits.")
    email = models.EmailField(max_length=254)
    default_method = models.CharField(max_length=10, choices=Method)
    card_token = models.CharField(max_length=64, null=True, blank=True)  # noqa: DJ001  # no card saved is not an empty one
    ledger_branch = models.CharField(max_length=20, null=True, blank=True)  # noqa: DJ001  # same
    ledger_account = models.CharField(max_length=40, null=True, blank=True)  # noqa: DJ001  # same
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["account_id", "id"], name="customers_customer_account")]
        constraints = [
            models.CheckConstraint(condition=models.Q(cpf__regex=r"^[0-9]{11}$"), name="customers_customer_cpf"),
            models.CheckConstraint(
                condition=models.Q(default_method__in=["card", "balance"]), name="customers_customer_method"
            ),
            models.CheckConstraint(
                condition=models.Q(ledger_branch__isnull=True, ledger_account__isnull=True)
                | models.Q(ledger_branch__isnull=False, ledger_account__isnull=False),
                name="customers_customer_ledger_account_whole",
            ),
        ]

    def __str__(self) -> str:
        return self.name

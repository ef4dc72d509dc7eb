"""Who may call, and how we recognise them. A secret is never stored, only its digest."""

import re

from django.contrib.postgres.fields import ArrayField
from django.core.validators import RegexValidator
from django.db import models

from apps.common.clock import uuid7

CODE = re.compile(r"acc_[A-Za-z0-9]{3,40}")
SCOPE = re.compile(r"[a-z_]{1,40}:[a-z_]{1,40}")
SCOPES_MAX = 50  # they travel with every request
ADDRESSES_MAX = 8  # of a secret, from which its merchant calls; who has more is known by the latest


class Account(models.Model):
    """A caller of the API: a merchant, or one of our own programs."""

    code = models.CharField(
        max_length=44,
        primary_key=True,
        validators=[RegexValidator(CODE)],
        help_text="What callers send as their name: acc_…",
    )
    name = models.CharField(max_length=200)
    active = models.BooleanField(default=True, help_text="A blocked account is answered like an unknown one.")
    scopes = ArrayField(
        models.CharField(max_length=81), size=SCOPES_MAX, default=list, help_text="What it may do: payments:write …"
    )
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(code__regex=f"^{CODE.pattern}$"), name="identity_account_code"),
        ]

    def __str__(self) -> str:
        return self.code


class Secret(models.Model):
    """One of an account's secrets. Several may live at once, so that a caller can change over without a gap."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="secrets")
    prefix = models.CharField(max_length=16, unique=True, help_text="The public part; it finds the row and says nothing.")
    digest = models.BinaryField(max_length=32, help_text="SHA-256 of the whole secret.")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, help_text="Exact to a minute.")
    addresses = ArrayField(
        models.CharField(max_length=45),
        size=ADDRESSES_MAX,
        default=list,
        db_default=[],
        blank=True,
        help_text="From where it was used lately, the latest first.",
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(expires_at__isnull=True) | models.Q(expires_at__gt=models.F("created_at")),
                name="identity_secret_expires_later",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.prefix}…"


class FailedLogin(models.Model):
    """How often an address, a name or a device has failed to log in, until when it counts. See apps/identity/limits.py."""

    key = models.CharField(max_length=100, primary_key=True, help_text="What is counted, and of whom: api 203.0.113.7")
    failures = models.PositiveIntegerField()
    until = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return self.key

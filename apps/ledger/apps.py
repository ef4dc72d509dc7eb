from typing import Any

from django.apps import AppConfig
from django.db import transaction
from django.db.models.signals import post_migrate
from django.utils import timezone


class LedgerConfig(AppConfig):
    name = "apps.ledger"
    verbose_name = "Ledger"

    def ready(self) -> None:
        """Tell what a fork of a saga would have posted, and the metrics; prepare a new database."""
        from apps.ledger import metrics, metrics_chain, witness
        from apps.saga import public as saga

        metrics.register()
        saga.witness("lines", witness.lines)
        saga.witness("holds", witness.holds)
        metrics_chain.register()
        post_migrate.connect(_prepare, sender=self)


def _prepare(**_signal: Any) -> None:
    """A new database has its months and its currencies from its first second."""
    from apps.ledger import accounts, months

    if months.TRANSACTIONS.is_there():  # not when one migrates back to before there were months
        months.open_ahead(now=timezone.now())
        with transaction.atomic():
            accounts.ensure_currencies(now=timezone.now())

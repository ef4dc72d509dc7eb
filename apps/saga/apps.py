from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate
from django.utils import timezone


class SagaConfig(AppConfig):
    name = "apps.saga"
    verbose_name = "Saga"

    def ready(self) -> None:
        from apps.saga import checks, metrics  # checks register themselves; both import models, which there are only now

        _ = checks
        metrics.register()
        post_migrate.connect(_open_months, sender=self)


def _open_months(**_signal: Any) -> None:
    """A new database has its months from its first second."""
    from apps.saga import months

    if months.RUNS.is_there():  # not when one migrates back to before there were months
        months.open_ahead(now=timezone.now())

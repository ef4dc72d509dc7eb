from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate
from django.utils import timezone
from django.utils.module_loading import autodiscover_modules


class MessagingConfig(AppConfig):
    name = "apps.messaging"
    verbose_name = "Messaging"

    def ready(self) -> None:
        # Consumers need every handler; so each app's handlers.py is imported once, like its admin.py.
        autodiscover_modules("handlers")
        post_migrate.connect(_open_days, sender=self)
        from apps.messaging import metrics  # it imports models, which there are only now

        metrics.register()


def _open_days(**_signal: Any) -> None:
    """A new database has the log's next days from its first second."""
    from apps.messaging import partitions

    partitions.maintain(now=timezone.now())

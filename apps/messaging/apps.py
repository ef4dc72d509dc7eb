from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class MessagingConfig(AppConfig):
    name = "apps.messaging"
    verbose_name = "Messaging"

    def ready(self) -> None:
        # Consumers need every handler; so each app's handlers.py is imported once, like its admin.py.
        autodiscover_modules("handlers")

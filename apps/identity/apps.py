from django.apps import AppConfig


class IdentityConfig(AppConfig):
    name = "apps.identity"
    verbose_name = "Identity"

    def ready(self) -> None:
        from apps.identity import checks, metrics  # checks register themselves; both import models

        _ = checks
        metrics.register()

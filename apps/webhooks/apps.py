from django.apps import AppConfig


class WebhooksConfig(AppConfig):
    name = "apps.webhooks"
    verbose_name = "Webhooks"

    def ready(self) -> None:
        from apps.webhooks import checks, metrics  # they read settings and models, which there are only now

        _ = checks
        metrics.register()

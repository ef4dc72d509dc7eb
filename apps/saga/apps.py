from django.apps import AppConfig


class SagaConfig(AppConfig):
    name = "apps.saga"
    verbose_name = "Saga"

    def ready(self) -> None:
        from apps.saga import checks  # registers them

        _ = checks

from django.apps import AppConfig


class SagaConfig(AppConfig):
    name = "apps.saga"
    verbose_name = "Saga"

    def ready(self) -> None:
        from apps.saga import metrics  # it imports models, which there are only now

        metrics.register()

from django.apps import AppConfig


class SagaConfig(AppConfig):
    name = "apps.saga"
    verbose_name = "Saga"

from django.apps import AppConfig


class PaymentsConfig(AppConfig):
    name = "apps.payments"
    verbose_name = "Payments"

    def ready(self) -> None:
        from apps.payments import elsewhere, metrics
        from apps.saga import public as saga

        metrics.register()
        saga.register_elsewhere(elsewhere.known)

from django.apps import AppConfig


class OrdersConfig(AppConfig):
    name = "apps.orders"
    verbose_name = "Orders"

    def ready(self) -> None:
        # Registers the journeys, so that workers find them and `manage.py check` sees them.
        from apps.orders.sagas import delivering, giving_back, purchase, settling

        _ = delivering, giving_back, purchase, settling

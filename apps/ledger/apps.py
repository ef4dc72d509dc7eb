from django.apps import AppConfig


class LedgerConfig(AppConfig):
    name = "apps.ledger"
    verbose_name = "Ledger"

    def ready(self) -> None:
        """Tell what a fork of a saga would have posted."""
        from apps.ledger import witness
        from apps.saga import public as saga

        saga.witness("lines", witness.lines)
        saga.witness("holds", witness.holds)

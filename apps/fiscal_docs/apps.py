from django.apps import AppConfig


class FiscalDocsConfig(AppConfig):
    name = "apps.fiscal_docs"
    verbose_name = "Fiscal documents"

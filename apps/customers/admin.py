"""Customers, to look at; of the CPF only the middle shows, as banks print it."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from apps.customers.models import Customer


@admin.register(Customer)
class CustomerAdmin(ModelAdmin):
    list_display = ("id", "name", "masked_cpf", "default_method", "ledger_branch", "ledger_account")
    list_filter = ("default_method",)
    search_fields = ("id__startswith", "cpf__exact")
    search_help_text = "The first characters of an id, or a whole CPF"
    fields = readonly_fields = (
        "id",
        "name",
        "masked_cpf",
        "email",
        "default_method",
        "has_card",
        "ledger_branch",
        "ledger_account",
        "created_at",
        "updated_at",
    )
    ordering = ("-id",)
    show_full_result_count = False

    @admin.display(description="CPF")
    def masked_cpf(self, row: Customer) -> str:
        return f"***.{row.cpf[3:6]}.{row.cpf[6:9]}-**"

    @admin.display(description="saved card", boolean=True)
    def has_card(self, row: Customer) -> bool:
        return bool(row.card_token)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

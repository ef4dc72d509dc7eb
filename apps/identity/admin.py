"""Accounts and their secrets, to look at. A secret itself is nowhere to be seen."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline

from apps.identity.models import Account, Secret


class SecretInline(TabularInline):
    model = Secret
    fields = readonly_fields = ("prefix", "created_at", "expires_at", "revoked_at", "last_used_at")
    ordering = ("-id",)
    extra = 0

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Account)
class AccountAdmin(ModelAdmin):
    list_display = ("code", "name", "active", "scopes", "created_at")
    list_filter = ("active",)
    search_fields = ("code__startswith",)
    search_help_text = "The first characters of an account's code"
    ordering = ("code",)
    show_full_result_count = False
    inlines = (SecretInline,)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

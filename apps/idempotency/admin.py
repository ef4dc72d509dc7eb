"""Idempotency keys, to look at."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from apps.idempotency.models import IdempotencyKey


@admin.register(IdempotencyKey)
class IdempotencyKeyAdmin(ModelAdmin):
    list_display = ("id", "account_id", "key", "route", "state", "status", "lease_until", "created_at")
    list_filter = ("state", "route")
    search_fields = ("key__exact", "account_id__exact")
    search_help_text = "A whole key, or a whole account code"
    fields = readonly_fields = (
        "id",
        "account_id",
        "key",
        "route",
        "state",
        "status",
        "body",
        "headers",
        "lease_until",
        "created_at",
    )
    ordering = ("-id",)
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

"""Payments, cards and the processor's side, to look at."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline

from apps.payments.models import CardToken, Payment, PaymentOperation, ProcessorOperation, ProcessorTransaction


class ReadOnly:
    """Nothing is added, changed or deleted here: money moves through verbs."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class OperationInline(ReadOnly, TabularInline):
    model = PaymentOperation
    fields = readonly_fields = (
        "kind",
        "status",
        "amount",
        "processor_reference",
        "error_code",
        "error_message",
        "times_asked",
        "late_answers",
        "requested_at",
        "answered_at",
    )
    ordering = ("requested_at", "id")
    extra = 0


@admin.register(Payment)
class PaymentAdmin(ReadOnly, ModelAdmin):
    list_display = (
        "id",
        "account_id",
        "order_ref",
        "amount",
        "currency",
        "state",
        "shown_card",
        "error_message",
        "created_at",
    )
    list_filter = ("state", "card_brand")
    search_fields = ("id__startswith", "order_ref__exact", "account_id__exact")
    search_help_text = "The first characters of an id, or a whole reference or account"
    exclude = ("card",)
    readonly_fields = ("id",)
    ordering = ("-id",)
    show_full_result_count = False
    inlines = (OperationInline,)

    @admin.display(description="card")
    def shown_card(self, row: Payment) -> str:
        return f"{row.card_brand} {row.card_bin}…{row.card_last4}" if row.card_last4 else "—"


@admin.register(CardToken)
class CardTokenAdmin(ReadOnly, ModelAdmin):
    """Not even the token shows whole: it is all that it takes to pay."""

    list_display = (
        "id",
        "short_token",
        "owner_id",
        "brand",
        "bin6",
        "last4",
        "exp_month",
        "exp_year",
        "key_id",
        "created_at",
    )
    list_filter = ("brand", "key_id")
    search_fields = ("id__startswith", "owner_id__exact", "last4__exact")
    search_help_text = "The first characters of an id, a whole owner id, or the last four digits"
    fields = readonly_fields = list_display
    ordering = ("-id",)
    show_full_result_count = False

    @admin.display(description="token")
    def short_token(self, row: CardToken) -> str:
        return f"{row.token[:8]}…"


class ProcessorOperationInline(ReadOnly, TabularInline):
    model = ProcessorOperation
    fields = readonly_fields = (
        "kind",
        "status",
        "amount",
        "reference",
        "error_code",
        "error_message",
        "times_asked",
        "times_answered",
        "answered_at",
    )
    ordering = ("id",)
    extra = 0


@admin.register(ProcessorTransaction)
class ProcessorTransactionAdmin(ReadOnly, ModelAdmin):
    list_display = (
        "payment_id",
        "status",
        "amount",
        "captured_amount",
        "refunded_amount",
        "voided_at",
        "card_bin",
        "card_last4",
        "error_message",
    )
    list_filter = ("status",)
    search_fields = ("payment_id__startswith",)
    search_help_text = "The first characters of a payment's id"
    ordering = ("-id",)
    show_full_result_count = False
    inlines = (ProcessorOperationInline,)

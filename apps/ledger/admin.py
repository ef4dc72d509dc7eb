"""The ledger, to look at. Nothing here can be added, changed or deleted: money moves through postings alone."""

from decimal import Decimal
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from unfold.admin import ModelAdmin

from apps.ledger.models import Account, Balance, Branch, Event, Hold, Transaction


class ReadOnlyAdmin(ModelAdmin):
    """A list and a page for each row, without any way to write."""

    show_full_result_count = False  # a count reads the whole table
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


class ExactSearchAdmin(ReadOnlyAdmin):
    """A list searched by whole keys, so that every search is one index look-up: a key, or branch/account."""

    search_fields = ("account",)  # shows the search box; get_search_results decides

    def by_key(self, text: str) -> Q:
        """What a text that is not branch/account may name."""
        raise NotImplementedError

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        text = search_term.strip()
        if not text:
            return queryset, False
        branch, slash, account = text.partition("/")
        wanted = Q(branch=branch, account=account) if slash else self.by_key(text)
        return queryset.filter(wanted), False


def _filtered_link(name: str, text: str, **filters: Any) -> str:
    query = urlencode(filters)
    return format_html('<a class="text-primary-600" href="{}?{}">{}</a>', reverse(f"admin:{name}_changelist"), query, text)


def _account_filters(branch: str, account: str, currency: str) -> dict[str, str]:
    return {"branch__exact": branch, "account__exact": account, "currency__exact": currency}


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    list_display = ("code", "description", "active", "allow_debit", "allow_credit", "created_at")
    list_filter = ("active",)
    search_fields = ("description__istartswith",)
    search_help_text = "How a description begins"
    ordering = ("code",)


@admin.register(Branch)
class BranchAdmin(ReadOnlyAdmin):
    list_display = ("branch", "description", "created_at")
    search_fields = ("branch__startswith",)
    search_help_text = "How a branch begins"
    ordering = ("branch",)


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin):
    list_display = ("branch_id", "account", "currency", "posted", "pending", "available", "min_balance", "status", "lines")
    list_display_links = ("account",)
    list_filter = ("status", "currency")
    search_fields = ("account__startswith",)
    search_help_text = "How an account begins"
    ordering = ("branch_id", "account", "currency")
    fieldsets = (
        ("Account", {"fields": ("branch_id", "account", "currency", "description", "status")}),
        ("Balance now", {"fields": ("posted", "pending", "available", "min_balance", "posted_debit", "posted_credit")}),
        ("More", {"fields": ("lines", "days", "holds", "created_at", "updated_at")}),
    )

    @admin.display(description="Posted", ordering="posted_credit")
    def posted(self, row: Account) -> Decimal:
        return row.posted_credit - row.posted_debit

    @admin.display(description="Held", ordering="pending_debit")
    def pending(self, row: Account) -> Decimal:
        return row.pending_debit

    @admin.display(description="Available")
    def available(self, row: Account) -> Decimal:
        return row.posted_credit - row.posted_debit - row.pending_debit

    @admin.display(description="Statement")
    def lines(self, row: Account) -> str:
        filters = _account_filters(row.branch_id, row.account, row.currency)
        return _filtered_link("ledger_transaction", "Transactions", **filters)

    @admin.display(description="Days")
    def days(self, row: Account) -> str:
        return _filtered_link("ledger_balance", "Balances", **_account_filters(row.branch_id, row.account, row.currency))

    @admin.display(description="Holds")
    def holds(self, row: Account) -> str:
        return _filtered_link("ledger_hold", "Holds", **_account_filters(row.branch_id, row.account, row.currency))


@admin.register(Transaction)
class TransactionAdmin(ExactSearchAdmin):
    list_display = (
        "seq",
        "dateref",
        "branch",
        "account",
        "debit_credit",
        "amount",
        "balance_after",
        "event_code",
        "description",
        "entry",
        "created_at",
    )
    list_filter = ("debit_credit", "currency")
    search_help_text = "An id, a tracekey, or branch/account"
    ordering = ("-id",)

    def by_key(self, text: str) -> Q:
        key = _as_uuid(text)
        return Q(id=key) | Q(tracekey=key) if key else Q(pk__in=[])

    @admin.display(description="Entry", ordering="tracekey")
    def entry(self, row: Transaction) -> str:
        return _filtered_link("ledger_transaction", str(row.tracekey)[:8], tracekey__exact=row.tracekey)


@admin.register(Balance)
class BalanceAdmin(ExactSearchAdmin):
    list_display = (
        "branch",
        "account",
        "currency",
        "dateref",
        "total_debit",
        "total_credit",
        "accumulated_debit",
        "accumulated_credit",
        "balance",
    )
    list_display_links = ("dateref",)
    list_filter = ("dateref",)
    search_help_text = "branch/account"
    ordering = ("branch", "account", "currency", "-dateref")

    def by_key(self, text: str) -> Q:
        return Q(pk__in=[])

    @admin.display(description="Balance")
    def balance(self, row: Balance) -> Decimal:
        return row.accumulated_credit - row.accumulated_debit


@admin.register(Hold)
class HoldAdmin(ExactSearchAdmin):
    list_display = ("key", "status", "branch", "account", "amount", "created_at", "expires_at", "ended_at", "posting")
    list_filter = ("status",)
    search_help_text = "A key, or branch/account"
    ordering = ("-id",)

    def by_key(self, text: str) -> Q:
        return Q(key=text)

    @admin.display(description="Posted as")
    def posting(self, row: Hold) -> str:
        if row.tracekey is None:
            return "-"
        return _filtered_link("ledger_transaction", str(row.tracekey)[:8], tracekey__exact=row.tracekey)

"""Customers, to look at; of the CPF only the middle shows, as banks print it."""

from typing import Any, NamedTuple
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.paginator import InfinitePaginator

from apps.customers.models import Customer


class Look(NamedTuple):
    """Colours, icon and word, as the back office's chip takes them."""

    tone: str
    icon: str
    word: str


def _chip(tone: str, icon: str, word: str) -> SafeString:
    return render_to_string("customers/admin/chip.html", {"look": Look(tone, icon, word)})


def _moment(at: Any) -> SafeString:
    return render_to_string("components/moment.html", {"at": at})


def _address(page: str, *args: Any, query: str = "") -> str:
    """A page by its name, perhaps of another app; empty when it is not there."""
    try:
        return reverse(f"admin:{page}", args=args) + query
    except NoReverseMatch:
        return ""


def _link(address: str, text: str) -> str:
    return format_html('<a class="bo-l bo-nw" href="{}">{}</a>', address, text) if address else text


def _begins(text: str) -> Q:
    """Rows whose id begins so: a range, which the primary key's index answers."""
    digits = text.replace("-", "").lower()
    if not digits or len(digits) > 32 or set(digits) - set("0123456789abcdef"):
        return Q(pk__in=[])
    return Q(pk__range=(UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))))


class MethodFilter(admin.SimpleListFilter):
    """How they usually pay."""

    title = "usual payment"
    parameter_name = "default_method__exact"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("card", "By card"), ("balance", "From the balance")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Customer]) -> QuerySet[Customer]:
        return queryset.filter(default_method=self.value()) if self.value() in Customer.Method.values else queryset


@admin.register(Customer)
class CustomerAdmin(ModelAdmin):
    change_list_template = "customers/admin/list.html"
    list_per_page = 50
    paginator = InfinitePaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # facets count whole tables
    sortable_by = ()  # in the order of the key: any other sorts the whole table
    list_display = ("name", "masked_cpf", "pays", "saved_card", "ledger", "orders", "created")
    list_filter = (MethodFilter,)
    search_fields = ("id",)  # shows the field; get_search_results decides
    search_help_text = "An id or its beginning, or a whole CPF (digits)"
    ordering = ("-id",)
    fieldsets = (
        ("Customer", {"fields": ("name", "masked_cpf", "email", "id")}),
        ("How they pay", {"fields": ("pays", "saved_card", "cards", "ledger", "orders")}),
        ("When", {"fields": ("created", "updated")}),
    )
    readonly_fields = ("masked_cpf", "pays", "saved_card", "cards", "ledger", "orders", "created", "updated")
    says = "Who buys, and how they usually pay. Of the CPF only the middle shows."
    empty = "No customer yet."

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Customer], search_term: str
    ) -> tuple[QuerySet[Customer], bool]:
        text = search_term.strip()
        if not text:
            return queryset, False
        cpf = text.replace(".", "").replace("-", "")
        return queryset.filter(_begins(text) | Q(cpf=cpf)), False

    @admin.display(description="CPF")
    def masked_cpf(self, row: Customer) -> str:
        return format_html('<span class="bo-nw">***.{}.{}-**</span>', row.cpf[3:6], row.cpf[6:9])

    @admin.display(description="Usually pays")
    def pays(self, row: Customer) -> str:
        return "by card" if row.default_method == Customer.Method.CARD else "from the balance"

    @admin.display(description="Saved card")
    def saved_card(self, row: Customer) -> SafeString:
        return _chip("ok", "ok", "Yes") if row.card_token else _chip("idle", "bar", "None")

    @admin.display(description="Cards")
    def cards(self, row: Customer) -> str:
        return _link(_address("payments_cardtoken_changelist", query=f"?q={row.pk}"), "Their cards")

    @admin.display(description="Ledger account")
    def ledger(self, row: Customer) -> str:
        if row.ledger_account is None:
            return "—"
        number = f"{row.ledger_branch}/{row.ledger_account}"
        address = _address("ledger_account_changelist", query=f"?{urlencode({'q': number})}")
        return _link(address, f"{row.ledger_branch} · {row.ledger_account}")

    @admin.display(description="Orders")
    def orders(self, row: Customer) -> str:
        return _link(_address("orders_order_changelist", query=f"?q={row.pk}"), "Their orders")

    @admin.display(description="Created")
    def created(self, row: Customer) -> SafeString:
        return _moment(row.created_at)

    @admin.display(description="Last change")
    def updated(self, row: Customer) -> SafeString:
        return _moment(row.updated_at)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

"""Customers, to look at; of the CPF only the middle shows, as banks print it."""

from urllib.parse import urlencode

from django.contrib import admin
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.common.admin import KeyedAdmin, Look, WordsFilter, address, chip, id_begins, link, moment
from apps.customers.models import Customer


class MethodFilter(WordsFilter):
    """How they usually pay."""

    title, parameter_name, field = "usual payment", "default_method__exact", "default_method"
    words = {"card": "By card", "balance": "From the balance"}


class OwnerFilter(WordsFilter):
    """Does it belong to a merchant? Nobody's is charged by those alone who had orders of theirs before."""

    title, parameter_name = "owner", "owner"
    words = {"merchant": "A merchant's", "nobody": "Nobody's"}

    def queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        if self.value() not in self.words:
            return queryset
        return queryset.filter(account_id="") if self.value() == "nobody" else queryset.exclude(account_id="")


@admin.register(Customer)
class CustomerAdmin(KeyedAdmin):
    list_display = ("name", "masked_cpf", "merchant", "pays", "saved_card", "ledger", "orders", "created")
    list_filter = (OwnerFilter, MethodFilter)
    search_help_text = "An id or its beginning, a whole CPF (digits), or a merchant's account (acc_…)"
    fieldsets = (
        ("Customer", {"fields": ("name", "masked_cpf", "email", "merchant", "id")}),
        ("How they pay", {"fields": ("pays", "saved_card", "cards", "ledger", "orders")}),
        ("When", {"fields": ("created", "updated")}),
    )
    readonly_fields = ("masked_cpf", "merchant", "pays", "saved_card", "cards", "ledger", "orders", "created", "updated")
    says = "Who buys, and how they usually pay. Of the CPF only the middle shows."
    empty = "No customer yet."

    def by_key(self, text: str) -> Q:
        return id_begins(text) | Q(cpf=text.replace(".", "").replace("-", "")) | Q(account_id=text)

    @admin.display(description="CPF")
    def masked_cpf(self, row: Customer) -> str:
        return format_html('<span class="bo-nw">***.{}.{}-**</span>', row.cpf[3:6], row.cpf[6:9])

    @admin.display(description="Merchant")
    def merchant(self, row: Customer) -> str:
        if not row.account_id:
            return "nobody's"
        return link(address("identity_account_change", row.account_id), row.account_id)

    @admin.display(description="Usually pays")
    def pays(self, row: Customer) -> str:
        return "by card" if row.default_method == Customer.Method.CARD else "from the balance"

    @admin.display(description="Saved card")
    def saved_card(self, row: Customer) -> SafeString:
        return chip(Look("ok", "ok", "Yes") if row.card_token else Look("idle", "bar", "None"))

    @admin.display(description="Cards")
    def cards(self, row: Customer) -> str:
        return link(address("payments_cardtoken_changelist", query=f"?q={row.pk}"), "Their cards")

    @admin.display(description="Ledger account")
    def ledger(self, row: Customer) -> str:
        if row.ledger_account is None:
            return "—"
        number = f"{row.ledger_branch}/{row.ledger_account}"
        href = address("ledger_account_changelist", query=f"?{urlencode({'q': number})}")
        return link(href, f"{row.ledger_branch} · {row.ledger_account}")

    @admin.display(description="Orders")
    def orders(self, row: Customer) -> str:
        return link(address("orders_order_changelist", query=f"?q={row.pk}"), "Their orders")

    @admin.display(description="Created")
    def created(self, row: Customer) -> SafeString:
        return moment(row.created_at)

    @admin.display(description="Last change")
    def updated(self, row: Customer) -> SafeString:
        return moment(row.updated_at)

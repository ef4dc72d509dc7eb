"""Accounts and their secrets, to look at. A secret itself is nowhere to be seen."""

from typing import Any, NamedTuple

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin, TabularInline
from unfold.paginator import InfinitePaginator

from apps.identity.models import Account, Secret


class Look(NamedTuple):
    """Colours, icon and word, as the back office's chip takes them."""

    tone: str
    icon: str
    word: str


def _chip(tone: str, icon: str, word: str) -> SafeString:
    return render_to_string("identity/admin/chip.html", {"look": Look(tone, icon, word)})


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


class SecretInline(TabularInline):
    model = Secret
    fields = readonly_fields = ("prefix", "state", "created", "expires", "revoked", "used")
    ordering = ("-id",)
    extra = 0
    hide_title = True

    @admin.display(description="State")
    def state(self, row: Secret) -> SafeString:
        if row.revoked_at is not None:
            return _chip("idle", "close", "Revoked")
        if row.expires_at is not None and row.expires_at <= timezone.now():
            return _chip("idle", "clock", "Expired")
        return _chip("ok", "ok", "Live")

    @admin.display(description="Created")
    def created(self, row: Secret) -> SafeString:
        return _moment(row.created_at)

    @admin.display(description="Expires")
    def expires(self, row: Secret) -> SafeString:
        return _moment(row.expires_at)

    @admin.display(description="Revoked")
    def revoked(self, row: Secret) -> SafeString:
        return _moment(row.revoked_at)

    @admin.display(description="Last used")
    def used(self, row: Secret) -> SafeString:
        return _moment(row.last_used_at)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ActiveFilter(admin.SimpleListFilter):
    """May it call, or is it blocked?"""

    title = "state"
    parameter_name = "active__exact"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("1", "Active"), ("0", "Blocked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Account]) -> QuerySet[Account]:
        return queryset.filter(active=self.value() == "1") if self.value() in {"0", "1"} else queryset


@admin.register(Account)
class AccountAdmin(ModelAdmin):
    change_list_template = "identity/admin/list.html"
    list_per_page = 50
    paginator = InfinitePaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # facets count whole tables
    sortable_by = ()  # in the order of the key: any other sorts the whole table
    list_display = ("state", "code", "name", "scopes_held", "payments", "created")
    list_display_links = ("code",)
    list_filter = (ActiveFilter,)
    search_fields = ("code__startswith",)
    search_help_text = "How an account's code begins: acc_…"
    ordering = ("code",)
    inlines = (SecretInline,)
    fields = readonly_fields = ("state", "code", "name", "scopes_held", "payments", "created")
    says = "Who may call the API: merchants and our own programs. A blocked one is answered like an unknown one."
    empty = "Nobody may call the API yet."

    @admin.display(description="State")
    def state(self, row: Account) -> SafeString:
        return _chip("ok", "ok", "Active") if row.active else _chip("idle", "lock", "Blocked")

    @admin.display(description="May do")
    def scopes_held(self, row: Account) -> str:
        return ", ".join(row.scopes) or "nothing"

    @admin.display(description="Payments")
    def payments(self, row: Account) -> str:
        return _link(_address("payments_payment_changelist", query=f"?q={row.pk}"), "Its payments")

    @admin.display(description="Created")
    def created(self, row: Account) -> SafeString:
        return _moment(row.created_at)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

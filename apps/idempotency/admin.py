"""Idempotency keys, to look at."""

from typing import Any, NamedTuple

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.paginator import InfinitePaginator

from apps.idempotency.models import IdempotencyKey


class Look(NamedTuple):
    """Colours, icon and word, as the back office's chip takes them."""

    tone: str
    icon: str
    word: str


def _chip(tone: str, icon: str, word: str) -> SafeString:
    return render_to_string("idempotency/admin/chip.html", {"look": Look(tone, icon, word)})


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


class StateFilter(admin.SimpleListFilter):
    """Is the work under way, or is its answer kept?"""

    title = "state"
    parameter_name = "state__exact"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("IN_FLIGHT", "Under way"), ("DONE", "Answered")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[IdempotencyKey]) -> QuerySet[IdempotencyKey]:
        return queryset.filter(state=self.value()) if self.value() in IdempotencyKey.State.values else queryset


@admin.register(IdempotencyKey)
class IdempotencyKeyAdmin(ModelAdmin):
    change_list_template = "idempotency/admin/list.html"
    list_per_page = 50
    paginator = InfinitePaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # facets count whole tables
    sortable_by = ()  # in the order of the key: any other sorts the whole table
    list_display = ("shown_state", "key", "merchant", "route", "number_status", "created", "until")
    list_display_links = ("key",)
    list_filter = (StateFilter,)
    search_fields = ("key__exact", "account_id__exact")
    search_help_text = "A whole key, or a whole account code"
    ordering = ("-id",)
    fieldsets = (
        ("Asked", {"fields": ("shown_state", "key", "merchant", "route", "created", "until")}),
        ("Answered", {"fields": ("number_status", "answer", "answer_headers")}),
    )
    readonly_fields = (
        *("shown_state", "key", "merchant", "route", "created", "until"),
        *("number_status", "answer", "answer_headers"),
    )
    says = "What callers asked for once only, and the answer that a repetition gets."
    empty = "No request with an Idempotency-Key has come yet."

    @admin.display(description="State")
    def shown_state(self, row: IdempotencyKey) -> SafeString:
        done = row.state == IdempotencyKey.State.DONE
        return _chip("ok", "ok", "Answered") if done else _chip("run", "wait", "Under way")

    @admin.display(description="Merchant")
    def merchant(self, row: IdempotencyKey) -> str:
        return _link(_address("identity_account_change", row.account_id), row.account_id) if row.account_id else "—"

    @admin.display(description="HTTP status")
    def number_status(self, row: IdempotencyKey) -> str:
        return str(row.status) if row.status is not None else "—"

    @admin.display(description="Asked")
    def created(self, row: IdempotencyKey) -> SafeString:
        return _moment(row.created_at)

    @admin.display(description="Others wait until")
    def until(self, row: IdempotencyKey) -> SafeString:
        return _moment(row.lease_until)

    @admin.display(description="Answer")
    def answer(self, row: IdempotencyKey) -> SafeString:
        return render_to_string("components/json.html", {"value": row.body})

    @admin.display(description="Its headers")
    def answer_headers(self, row: IdempotencyKey) -> SafeString:
        return render_to_string("components/json.html", {"value": row.headers})

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

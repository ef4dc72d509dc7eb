"""Orders and the tickets in stock, to look at."""

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import F, Q, QuerySet, Sum
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin, TabularInline
from unfold.contrib.filters.admin import RangeDateTimeFilter
from unfold.paginator import InfinitePaginator

from apps.common.admin import CreatedFilter
from apps.orders.models import Item, Order, OrderReturn, Reservation, ReservationStatus, Ticket


class ReadOnly:
    """Nothing is added, changed or deleted here: an order changes through its run."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class PlacedFilter(CreatedFilter):
    """Orders of a recent time, by the clock of the person who looks."""

    title = "placed"


def _component(name: str, **context: Any) -> SafeString:
    return render_to_string(f"components/{name}.html", context)


def _link(page: str, text: str, *args: Any, query: str = "") -> str:
    """A link to another app's page, by its name; the text alone when that page is not there."""
    try:
        address = reverse(f"admin:{page}", args=args)
    except NoReverseMatch:
        return text
    return format_html('<a class="bo-l" href="{}{}">{}</a>', address, query, text)


class ItemInline(ReadOnly, TabularInline):
    model = Item
    fields = readonly_fields = ("ticket", "name", "amount", "quantity")
    ordering = ("id",)
    extra = 0
    hide_title = True


@admin.register(Order)
class OrderAdmin(ReadOnly, ModelAdmin):
    list_display = ("state", "id", "shown_amount", "customer", "payment_method", "placed", "error_code")
    list_display_links = ("id",)
    list_filter = (PlacedFilter, "status", "payment_method", ("created_at", RangeDateTimeFilter))
    list_filter_submit = True
    list_per_page = 50
    ordering = ("-created_at",)
    paginator = InfinitePaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # facets count whole tables
    search_fields = ("id",)  # shows the field; get_search_results decides
    search_help_text = "A whole order id or customer id"
    inlines = (ItemInline,)
    fieldsets = (
        ("Order", {"fields": ("state", "shown_amount", "customer", "account_id", "payment_method", "error")}),
        ("Where it stands", {"fields": ("run", "payment", "document", "reserved")}),
        ("When", {"fields": ("placed", "paid", "finished")}),
    )
    readonly_fields = (
        *("state", "shown_amount", "customer", "error"),
        *("run", "payment", "document", "reserved", "placed", "paid", "finished"),
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Order], search_term: str
    ) -> tuple[QuerySet[Order], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        try:
            wanted = UUID(term)
        except ValueError:
            return queryset.none(), False
        return queryset.filter(Q(pk=wanted) | Q(customer_id=wanted)), False

    @admin.display(description="State", ordering="status")
    def state(self, row: Order) -> SafeString:
        return _component("chip", kind="order", state=row.status)

    @admin.display(description="Amount", ordering="amount")
    def shown_amount(self, row: Order) -> SafeString:
        return _component("money", amount=row.amount, currency=row.currency)

    @admin.display(description="Customer")
    def customer(self, row: Order) -> str:
        return _link("customers_customer_change", str(row.customer_id), row.customer_id)

    @admin.display(description="Placed", ordering="created_at")
    def placed(self, row: Order) -> SafeString:
        return _component("moment", at=row.created_at)

    @admin.display(description="Paid")
    def paid(self, row: Order) -> SafeString:
        return _component("moment", at=row.paid_at)

    @admin.display(description="Finished")
    def finished(self, row: Order) -> SafeString:
        return _component("moment", at=row.finished_at)

    @admin.display(description="Error")
    def error(self, row: Order) -> str:
        return f"{row.error_code}: {row.error_detail}" if row.error_code else "—"

    @admin.display(description="Run")
    def run(self, row: Order) -> str:
        return _link("backoffice_run", "Its timeline", row.run_id) if row.run_id else "—"

    @admin.display(description="Payment")
    def payment(self, row: Order) -> str:
        return _link("payments_payment_changelist", "Its payments", query=f"?q={row.pk}")

    @admin.display(description="Document")
    def document(self, row: Order) -> str:
        return _link("fiscal_docs_document_changelist", "Its documents", query=f"?order_id__exact={row.pk}")

    @admin.display(description="Tickets")
    def reserved(self, row: Order) -> str:
        found = Reservation.objects.filter(order_id=row.pk).order_by("created_at")
        return (
            format_html_join(" ", "{}", ((_component("chip", kind="reservation", state=each.status),) for each in found))
            or "—"
        )


@admin.register(OrderReturn)
class ReturnAdmin(ReadOnly, ModelAdmin):
    list_display = ("state", "id", "shown_amount", "order_link", "reason", "asked", "document", "error_code")
    list_display_links = ("id",)
    list_filter = (CreatedFilter, "status", "document")
    list_per_page = 50
    ordering = ("-id",)
    paginator = InfinitePaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # facets count whole tables
    search_fields = ("id",)  # shows the field; get_search_results decides
    search_help_text = "A whole return id or order id"
    fields = readonly_fields = (
        *("state", "shown_amount", "order_link", "reason", "account_id", "document", "error", "run"),
        *("asked", "accepted", "finished"),
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[OrderReturn], search_term: str
    ) -> tuple[QuerySet[OrderReturn], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        try:
            wanted = UUID(term)
        except ValueError:
            return queryset.none(), False
        return queryset.filter(Q(pk=wanted) | Q(order_id=wanted)), False

    @admin.display(description="State", ordering="status")
    def state(self, row: OrderReturn) -> SafeString:
        return _component("chip", kind="return", state=row.status)

    @admin.display(description="Amount", ordering="amount")
    def shown_amount(self, row: OrderReturn) -> SafeString:
        return _component("money", amount=row.amount, currency="BRL")

    @admin.display(description="Order")
    def order_link(self, row: OrderReturn) -> str:
        return _link("orders_order_change", str(row.order_id), row.order_id)

    @admin.display(description="Asked for", ordering="created_at")
    def asked(self, row: OrderReturn) -> SafeString:
        return _component("moment", at=row.created_at)

    @admin.display(description="Accepted")
    def accepted(self, row: OrderReturn) -> SafeString:
        return _component("moment", at=row.accepted_at)

    @admin.display(description="Finished")
    def finished(self, row: OrderReturn) -> SafeString:
        return _component("moment", at=row.finished_at)

    @admin.display(description="Error")
    def error(self, row: OrderReturn) -> str:
        return f"{row.error_code}: {row.error_detail}" if row.error_code else "—"

    @admin.display(description="Run")
    def run(self, row: OrderReturn) -> str:
        return _link("backoffice_run", "Its timeline", row.run_id)


@admin.register(Ticket)
class TicketAdmin(ReadOnly, ModelAdmin):
    list_display = ("name", "shown_price", "available", "held", "id")
    list_per_page = 50
    ordering = ("name", "id")
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # facets count whole tables
    search_fields = ("name__startswith", "id__exact")
    search_help_text = "How a name begins"
    fields = readonly_fields = ("id", "name", "shown_price", "available", "held", "created_at")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Ticket], search_term: str
    ) -> tuple[QuerySet[Ticket], bool]:
        term = search_term.strip()
        try:
            return (queryset.filter(pk=UUID(term)) if term else queryset), False
        except ValueError:
            return queryset.filter(name__startswith=term), False

    @admin.display(description="Price", ordering="price")
    def shown_price(self, row: Ticket) -> SafeString:
        return _component("money", amount=row.price, currency="BRL")

    @admin.display(description="Held by orders on the way")
    def held(self, row: Ticket) -> int:
        held = Reservation.objects.filter(status=ReservationStatus.RESERVED).values("order_id")
        total = Item.objects.filter(ticket=row, order_id__in=held).aggregate(total=Sum(F("quantity"), default=0))
        return int(total["total"])

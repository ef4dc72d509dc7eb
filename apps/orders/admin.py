"""Orders and the tickets in stock, to look at."""

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import OuterRef, Q, QuerySet, Subquery, Sum
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import RangeDateTimeFilter
from unfold.paginator import InfinitePaginator

from apps.common.admin import (
    CreatedFilter,
    KeyedAdmin,
    ReadOnly,
    ReadOnlyInline,
    address,
    as_uuid,
    column,
    component,
    hinted,
    link,
    moment,
    short,
)
from apps.observability.logs import mask_cards
from apps.orders.models import Item, Order, OrderReturn, PaymentMethod, Reservation, ReservationStatus, Ticket


class PlacedFilter(CreatedFilter):
    """Orders of a recent time, by the clock of the person who looks."""

    title = "placed"


def _link(page: str, text: str, *args: Any, query: str = "") -> str:
    """A link to another app's page, by its name; the text alone when that page is not there."""
    return link(address(page, *args, query=query), text, wraps=True)


def _short_link(page: str, key: UUID) -> str:
    """A link to what has this id, on one line: the whole id stands on hover."""
    return link(address(page, key), short(key), str(key))


def _names(text: str, other: str) -> Q:
    """Rows that a whole id names: their own, or that of ``other``."""
    wanted = as_uuid(text.strip())
    return Q(pk=wanted) | Q(**{other: wanted}) if wanted else Q(pk__in=[])


def _error(row: Order | OrderReturn) -> str:
    return f"{row.error_code}: {row.error_detail}" if row.error_code else "—"


class ItemInline(ReadOnlyInline):
    model = Item
    fields = readonly_fields = ("ticket", "said", "amount", "quantity")
    ordering = ("id",)

    # The caller's own words, in which anything may stand.
    said = column("Name", lambda row: mask_cards(row.name))


@admin.register(Order)
class OrderAdmin(ReadOnly, ModelAdmin):
    change_list_template = "backoffice/list.html"
    says = "Every order, newest first. What happened to it stands on the timeline of its run."
    empty = "Nobody has ordered yet. POST /orders places the first one."
    list_display = ("state", "shown_id", "shown_amount", "buyer", "payment_method", "placed", "error_code")
    list_display_links = ("shown_id",)
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
        ("Where it stands", {"fields": ("run", "payment", "document", "reserved", "returns")}),
        ("When", {"fields": ("placed", "paid", "finished")}),
    )
    readonly_fields = (
        *("state", "shown_amount", "customer", "error"),
        *("run", "payment", "document", "reserved", "returns", "placed", "paid", "finished"),
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Order], search_term: str
    ) -> tuple[QuerySet[Order], bool]:
        return (queryset.filter(_names(search_term, "customer_id")) if search_term.strip() else queryset), False

    @admin.display(description="State", ordering="status")
    def state(self, row: Order) -> SafeString:
        return component("chip", kind="order", state=row.status)

    shown_id = column("Order", lambda row: hinted(short(row.pk), row.pk))
    buyer = column("Customer", lambda row: _short_link("customers_customer_change", row.customer_id))

    @admin.display(description="Amount", ordering="amount")
    def shown_amount(self, row: Order) -> SafeString:
        return component("money", amount=row.amount, currency=row.currency)

    @admin.display(description="Customer")
    def customer(self, row: Order) -> str:
        return _link("customers_customer_change", str(row.customer_id), row.customer_id)

    @admin.display(description="Placed", ordering="created_at")
    def placed(self, row: Order) -> SafeString:
        return component("moment", at=row.created_at)

    @admin.display(description="Paid")
    def paid(self, row: Order) -> SafeString:
        return component("moment", at=row.paid_at)

    @admin.display(description="Finished")
    def finished(self, row: Order) -> SafeString:
        return component("moment", at=row.finished_at)

    @admin.display(description="Error")
    def error(self, row: Order) -> str:
        return _error(row)

    @admin.display(description="Run")
    def run(self, row: Order) -> str:
        return _link("backoffice_run", "Its timeline", row.run_id) if row.run_id else "—"

    @admin.display(description="Payment")
    def payment(self, row: Order) -> str:
        if row.payment_method == PaymentMethod.BALANCE:
            return "From the ledger account: the timeline has the posting."
        return _link("payments_payment_changelist", "Its payments", query=f"?q={row.pk}")

    @admin.display(description="Document")
    def document(self, row: Order) -> str:
        return _link("fiscal_docs_document_changelist", "Its documents", query=f"?order_id__exact={row.pk}")

    @admin.display(description="Returns")
    def returns(self, row: Order) -> str:
        if not OrderReturn.objects.filter(order_id=row.pk).exists():
            return "—"
        return _link("orders_orderreturn_changelist", "Its returns", query=f"?q={row.pk}")

    @admin.display(description="Tickets")
    def reserved(self, row: Order) -> str:
        found = Reservation.objects.filter(order_id=row.pk).order_by("created_at")
        return (
            format_html_join(" ", "{}", ((component("chip", kind="reservation", state=each.status),) for each in found))
            or "—"
        )


@admin.register(OrderReturn)
class ReturnAdmin(KeyedAdmin):
    says = "Orders that customers give back. A large amount waits for a person's approval."
    empty = "Nobody has given an order back."
    list_display = ("state", "id", "shown_amount", "order_link", "reason", "asked", "became", "error_code")
    list_display_links = ("id",)
    list_filter = (CreatedFilter, "status", "document")
    search_help_text = "A whole return id or order id"
    fields = (
        *("state", "shown_amount", "order_link", "reason", "account_id", "became", "error", "run"),
        *("asked", "accepted", "finished"),
    )

    def by_key(self, text: str) -> Q:
        """What a searched text may name."""
        return _names(text, "order_id")

    state = column("State", lambda row: component("chip", kind="return", state=row.status))
    shown_amount = column("Amount", lambda row: component("money", amount=row.amount, currency="BRL"))
    order_link = column("Order", lambda row: _link("orders_order_change", str(row.order_id), row.order_id))
    asked = column("Asked for", lambda row: moment(row.created_at))
    became = column("Document", lambda row: row.document.replace("_", " ").capitalize() or "—")
    accepted = column("Accepted", lambda row: moment(row.accepted_at))
    finished = column("Finished", lambda row: moment(row.finished_at))
    error = column("Error", _error)
    run = column("Run", lambda row: _link("backoffice_run", "Its timeline", row.run_id))


@admin.register(Ticket)
class TicketAdmin(ReadOnly, ModelAdmin):
    change_list_template = "backoffice/list.html"
    says = "What is sold, and how many are left."
    empty = "There are no tickets yet."
    list_display = ("name", "shown_price", "available", "held", "id")
    list_per_page = 50
    ordering = ("name", "id")
    paginator = InfinitePaginator
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
        return component("money", amount=row.price, currency="BRL")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Ticket]:
        """With what is held of each: asked for in the same statement, not once a row."""
        reserved = Reservation.objects.filter(status=ReservationStatus.RESERVED).values("order_id")
        items = Item.objects.filter(ticket=OuterRef("pk"), order_id__in=reserved)
        sums = items.order_by().values("ticket").annotate(total=Sum("quantity")).values("total")
        found: QuerySet[Ticket] = super().get_queryset(request).annotate(held_now=Subquery(sums))
        return found

    @admin.display(description="Held by orders on the way")
    def held(self, row: Ticket) -> int:
        return row.held_now or 0  # type: ignore[attr-defined]  # annotated above

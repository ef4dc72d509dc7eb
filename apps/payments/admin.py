"""Payments, cards and the processor's side, to look at."""

from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.contrib import admin
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.paginator import InfinitePaginator

from apps.payments.brands import BRANDS
from apps.payments.models import CardToken, Payment, PaymentOperation, ProcessorOperation, ProcessorTransaction


class Look(NamedTuple):
    """Colours, icon and word of a state, as the back office's chip takes them."""

    tone: str
    icon: str
    word: str


# A refusal is a normal answer and stays grey; amber is for what is not known.
LOOKS = {
    "REQUESTED": Look("run", "wait", "Waiting"),
    "APPROVED": Look("ok", "ok", "Approved"),
    "REJECTED": Look("idle", "close", "Refused"),
    "NOT_NEEDED": Look("idle", "bar", "Not needed"),
    "": Look("undo", "undo", "Voided first"),
}
TONES = {"CAPTURED": "ok", "AUTHORISED": "ok", "REFUNDED": "undo", "VOIDED": "undo", "UNKNOWN": "unk", "REJECTED": "idle"}
# A payment is authorised, captured or voided once, and refunded a few times; a page shows no more.
OPERATIONS_MAX = 100


def look(state: str) -> Look:
    """How the answer to an operation looks, whichever side wrote it."""
    return LOOKS.get(state.upper()) or Look("idle", "bar", state)


def _component(name: str, **context: Any) -> SafeString:
    return render_to_string(f"components/{name}.html", context)


def _address(page: str, *args: Any) -> str:
    """Another app's page by its name; empty when it is not there."""
    try:
        return reverse(f"admin:{page}", args=args)
    except NoReverseMatch:
        return ""


def _link(address: str, text: str, title: str = "") -> str:
    return format_html('<a class="bo-l bo-nw" href="{}" title="{}">{}</a>', address, title, text) if address else text


def _short(key: object) -> str:
    text = str(key)
    return f"{text[:8]}…{text[-6:]}" if len(text) > 20 else text


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _begins(text: str) -> Q:
    """Rows whose id begins so: a range, which the primary key's index answers."""
    digits = text.replace("-", "").lower()
    if not digits or len(digits) > 32 or set(digits) - set("0123456789abcdef"):
        return Q(pk__in=[])
    return Q(pk__range=(UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))))


def _card(brand: str, last4: str) -> str:
    return f"{brand.capitalize()} •••• {last4}" if last4 else "—"


class WordsFilter(admin.SimpleListFilter):
    """Rows with one value, which the list calls by its word. It reads no table."""

    field = ""
    words: dict[str, str] = {}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(self.words.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        return queryset.filter(**{self.field: self.value()}) if self.value() in self.words else queryset


class StateFilter(WordsFilter):
    title, parameter_name, field = "state", "state__exact", "state"
    words = {state.value: state.label.capitalize() for state in Payment.State}


class BrandFilter(WordsFilter):
    title, parameter_name, field = "brand", "card_brand__exact", "card_brand"
    words = {brand.name: brand.name.capitalize() for brand in BRANDS}


class DecisionFilter(WordsFilter):
    title, parameter_name, field = "decision", "status__exact", "status"
    words = {"approved": "Approved", "rejected": "Refused"}


class CreatedFilter(admin.SimpleListFilter):
    """Rows of a recent time: they are the newest, at which the list begins anyway."""

    title = "created"
    parameter_name = "created"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("today", "Today"), ("hour", "In the last hour"), ("week", "In the last 7 days")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        now = timezone.localtime()
        since = {
            "today": now.replace(hour=0, minute=0, second=0, microsecond=0),
            "hour": now - timedelta(hours=1),
            "week": now - timedelta(days=7),
        }.get(self.value() or "")
        return queryset.filter(created_at__gte=since) if since else queryset


class ReadOnlyAdmin(ModelAdmin):
    """Nothing is added, changed or deleted here: money moves through verbs. ``says`` stands over the list."""

    change_list_template = "payments/admin/list.html"
    list_per_page = 50
    paginator = InfinitePaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # facets count whole tables
    sortable_by = ()  # in the order of the key, which is that of time: any other sorts the whole table
    ordering = ("-id",)
    search_fields = ("id",)  # shows the field; get_search_results decides
    says = ""
    empty = ""

    def by_key(self, text: str) -> Q:
        """What a searched text may name."""
        return _begins(text)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        text = search_term.strip()
        return (queryset.filter(self.by_key(text)) if text else queryset), False

    def page(self, row: Any) -> dict[str, Any]:
        """What the page of a row shows beside the row."""
        return {}

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **options: Any
    ) -> HttpResponseBase:
        more = self.page(options["obj"]) if options.get("obj") else {}
        answer: HttpResponseBase = super().render_change_form(request, context | more, *args, **options)
        return answer

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _rows(operations: QuerySet[Any]) -> list[dict[str, Any]]:
    """Operations of either side, as their table shows them."""
    found: list[PaymentOperation | ProcessorOperation] = list(operations[:OPERATIONS_MAX])
    return [
        {
            "operation": each,
            "look": look(each.status),
            "reference": each.processor_reference if isinstance(each, PaymentOperation) else each.reference,
            "took": each.answered_at - each.requested_at
            if isinstance(each, PaymentOperation) and each.answered_at
            else None,
        }
        for each in found
    ]


@admin.register(Payment)
class PaymentAdmin(ReadOnlyAdmin):
    says = "Every payment by card, newest first: what became of it, for which order, and why it was refused."
    empty = "No payment yet. The first order that is paid by card appears here."
    change_form_template = "payments/admin/payment.html"
    list_display = ("shown_state", "shown_id", "money_amount", "card_used", "reference", "merchant", "made", "refusal")
    list_display_links = ("shown_id",)
    list_filter = (StateFilter, BrandFilter, CreatedFilter)
    search_help_text = "An id or its beginning, a whole order id, reference or merchant"
    fields = readonly_fields = ("shown_state",)

    def by_key(self, text: str) -> Q:
        return _begins(text) | Q(order_ref=text) | Q(account_id=text)

    def page(self, row: Payment) -> dict[str, Any]:
        rows = _rows(row.operations.order_by("requested_at", "id"))
        theirs = ProcessorTransaction.objects.filter(payment_id=row.pk).first()
        sums = (row.captured_amount, row.refunded_amount)
        return {
            "tone": TONES.get(row.state, "run"),
            "rows": rows,
            "approved": sum(each["operation"].status == PaymentOperation.Status.APPROVED for each in rows),
            "links": self._links(row, theirs),
            "short_ref": _short(row.order_ref),
            "theirs": theirs,
            "theirs_look": look(theirs.status) if theirs else None,
            "agrees": theirs is not None and sums == (theirs.captured_amount, theirs.refunded_amount),
        }

    def _links(self, row: Payment, theirs: ProcessorTransaction | None) -> dict[str, str]:
        run = _as_uuid(row.reply_to.partition(":")[0])  # a saga's step answers to "<run>:<step>"
        order = _as_uuid(row.order_ref) if run else None
        return {
            "run": _address("backoffice_run", run) if run else "",
            "order": _address("orders_order_change", order) if order else "",
            "merchant": _address("identity_account_change", row.account_id) if row.account_id else "",
            "theirs": _address("payments_processortransaction_change", theirs.pk) if theirs else "",
        }

    @admin.display(description="State")
    def shown_state(self, row: Payment) -> SafeString:
        return _component("chip", kind="payment", state=row.state)

    @admin.display(description="Payment")
    def shown_id(self, row: Payment) -> str:
        return format_html('<span class="bo-nw" title="{}">{}</span>', row.pk, _short(row.pk))

    @admin.display(description="Amount")
    def money_amount(self, row: Payment) -> SafeString:
        return _component("money", amount=row.amount, currency=row.currency)

    @admin.display(description="Card")
    def card_used(self, row: Payment) -> str:
        return format_html('<span class="bo-nw">{}</span>', _card(row.card_brand, row.card_last4))

    @admin.display(description="Order or reference")
    def reference(self, row: Payment) -> str:
        order = _as_uuid(row.order_ref) if row.reply_to else None
        address = _address("orders_order_change", order) if order else ""
        return _link(address, _short(row.order_ref), row.order_ref) if row.order_ref else "—"

    @admin.display(description="Merchant")
    def merchant(self, row: Payment) -> str:
        return _link(_address("identity_account_change", row.account_id), row.account_id) if row.account_id else "—"

    @admin.display(description="Created")
    def made(self, row: Payment) -> SafeString:
        return _component("moment", at=row.created_at)

    @admin.display(description="Refusal")
    def refusal(self, row: Payment) -> str:
        return row.error_message or "—"


@admin.register(CardToken)
class CardTokenAdmin(ReadOnlyAdmin):
    """Not even the token shows whole: it is all that it takes to pay."""

    says = "Saved cards. The number is encrypted and never shown; of the token only the beginning, for it is enough to pay."
    empty = "No card is saved."
    list_display = ("shown_card", "shown_id", "expires", "short_token", "owner_id", "key_id", "saved")
    list_display_links = ("shown_card",)
    list_filter = (CreatedFilter,)
    search_help_text = "An id or its beginning, or a whole owner id"
    fields = readonly_fields = ("shown_card", "id", "expires", "short_token", "owner_id", "key_id", "saved")

    def get_queryset(self, request: HttpRequest) -> QuerySet[CardToken]:
        queryset: QuerySet[CardToken] = super().get_queryset(request)
        return queryset.defer("nonce", "ciphertext", "fingerprint")

    def by_key(self, text: str) -> Q:
        return _begins(text) | Q(owner_id=text)

    @admin.display(description="Card")
    def shown_card(self, row: CardToken) -> str:
        return format_html('<span class="bo-nw">{}</span>', _card(row.brand, row.last4))

    @admin.display(description="Id")
    def shown_id(self, row: CardToken) -> str:
        return format_html('<span class="bo-nw" title="{}">{}</span>', row.pk, _short(row.pk))

    @admin.display(description="Expires")
    def expires(self, row: CardToken) -> str:
        return f"{row.exp_month:02d}/{row.exp_year}"

    @admin.display(description="Token")
    def short_token(self, row: CardToken) -> str:
        return f"{row.token[:8]}…"

    @admin.display(description="Saved")
    def saved(self, row: CardToken) -> SafeString:
        return _component("moment", at=row.created_at)


@admin.register(ProcessorTransaction)
class ProcessorTransactionAdmin(ReadOnlyAdmin):
    says = "The processor's own books, to compare with ours: it shares no row with our payments."
    empty = "The processor has not been asked for anything yet."
    change_form_template = "payments/admin/processor_transaction.html"
    list_display = (
        "decision",
        "payment",
        "money_amount",
        "money_captured",
        "money_refunded",
        "card_used",
        "voided",
        "refusal",
    )
    list_display_links = ("payment",)
    list_filter = (DecisionFilter, CreatedFilter)
    search_help_text = "A whole payment id, or an id or its beginning"
    fields = readonly_fields = ("decision",)

    def by_key(self, text: str) -> Q:
        payment = _as_uuid(text)
        return _begins(text) | Q(payment_id=payment) if payment else _begins(text)

    def page(self, row: ProcessorTransaction) -> dict[str, Any]:
        return {
            "look": look(row.status),
            "rows": _rows(row.operations.order_by("id")),
            "currency": row.currency or "BRL",
            "payment_href": _address("payments_payment_change", row.payment_id),
            "short_payment": _short(row.payment_id),
        }

    @admin.display(description="Decision")
    def decision(self, row: ProcessorTransaction) -> SafeString:
        return render_to_string("payments/admin/chip.html", {"look": look(row.status)})

    @admin.display(description="Payment")
    def payment(self, row: ProcessorTransaction) -> str:
        return format_html('<span class="bo-nw" title="{}">{}</span>', row.payment_id, _short(row.payment_id))

    @admin.display(description="Amount")
    def money_amount(self, row: ProcessorTransaction) -> SafeString:
        return _component("money", amount=row.amount, currency=row.currency or "BRL")

    @admin.display(description="Captured")
    def money_captured(self, row: ProcessorTransaction) -> SafeString:
        return _component("money", amount=row.captured_amount, currency=row.currency or "BRL")

    @admin.display(description="Refunded")
    def money_refunded(self, row: ProcessorTransaction) -> SafeString:
        return _component("money", amount=row.refunded_amount, currency=row.currency or "BRL")

    @admin.display(description="Card")
    def card_used(self, row: ProcessorTransaction) -> str:
        return format_html('<span class="bo-nw">{}</span>', _card(row.card_brand, row.card_last4))

    @admin.display(description="Voided")
    def voided(self, row: ProcessorTransaction) -> SafeString:
        return _component("moment", at=row.voided_at)

    @admin.display(description="Refusal")
    def refusal(self, row: ProcessorTransaction) -> str:
        return row.error_message or "—"

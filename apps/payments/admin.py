"""Payments, cards and the processor's side, to look at."""

from decimal import Decimal
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.common.admin import (
    CreatedFilter,
    KeyedAdmin,
    Look,
    WordsFilter,
    address,
    as_uuid,
    chip,
    component,
    hinted,
    id_begins,
    link,
    moment,
    short,
)
from apps.payments import queries
from apps.payments.brands import BRANDS
from apps.payments.models import CardToken, Payment, PaymentOperation, ProcessorOperation, ProcessorTransaction

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


def _card(brand: str, last4: str) -> str:
    return f"{brand.capitalize()} •••• {last4}" if last4 else "—"


class StateFilter(WordsFilter):
    title, parameter_name, field = "state", "state__exact", "state"
    words = {state.value: state.label.capitalize() for state in Payment.State}


class BrandFilter(WordsFilter):
    title, parameter_name, field = "brand", "card_brand__exact", "card_brand"
    words = {brand.name: brand.name.capitalize() for brand in BRANDS}


class DecisionFilter(WordsFilter):
    title, parameter_name, field = "decision", "status__exact", "status"
    words = {"approved": "Approved", "rejected": "Refused"}


def _merchant(account_id: str) -> str:
    """Whose payment it is, below what it was for: a column of its own left none for the refusal."""
    return link(address("identity_account_change", account_id), account_id)


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


def _refunding(rows: list[dict[str, Any]]) -> Decimal:
    """What was asked to be given back and is not answered."""
    asked = [each["operation"] for each in rows if each["operation"].status == PaymentOperation.Status.REQUESTED]
    return sum((one.amount for one in asked if one.kind == PaymentOperation.Kind.REFUND), Decimal(0))


@admin.register(Payment)
class PaymentAdmin(KeyedAdmin):
    says = "Every payment by card, newest first: what became of it, for which order, and why it was refused."
    empty = "No payment yet. The first order that is paid by card appears here."
    change_form_template = "payments/admin/payment.html"
    list_display = ("shown_state", "shown_id", "money_amount", "card_used", "reference", "made", "refusal")
    list_display_links = ("shown_id",)
    list_filter = (StateFilter, BrandFilter, CreatedFilter)
    search_help_text = "An id or its beginning, a refund's whole id, or a whole order id, reference or merchant"
    fields = readonly_fields = ("shown_state",)

    def by_key(self, text: str) -> Q:
        whole = as_uuid(text)
        of_operation = queries.payment_of_operation(whole) if whole else None
        return Q(pk=of_operation) if of_operation else id_begins(text) | Q(order_ref=text) | Q(account_id=text)

    def page(self, row: Payment) -> dict[str, Any]:
        rows = _rows(row.operations.order_by("requested_at", "id"))
        theirs = ProcessorTransaction.objects.filter(payment_id=row.pk).first()
        sums = (row.captured_amount, row.refunded_amount)
        return {
            "tone": TONES.get(row.state, "run"),
            "rows": rows,
            "approved": sum(each["operation"].status == PaymentOperation.Status.APPROVED for each in rows),
            "refunding": _refunding(rows),
            "links": self._links(row, theirs),
            "short_ref": short(row.order_ref),
            "theirs": theirs,
            "theirs_look": look(theirs.status) if theirs else None,
            "agrees": theirs is not None and sums == (theirs.captured_amount, theirs.refunded_amount),
        }

    def _links(self, row: Payment, theirs: ProcessorTransaction | None) -> dict[str, str]:
        run = as_uuid(row.reply_to.partition(":")[0])  # a saga's step answers to "<run>:<step>"
        order = as_uuid(row.order_ref) if run else None
        return {
            "run": address("backoffice_run", run) if run else "",
            "order": address("orders_order_change", order) if order else "",
            "merchant": address("identity_account_change", row.account_id) if row.account_id else "",
            "theirs": address("payments_processortransaction_change", theirs.pk) if theirs else "",
        }

    @admin.display(description="State")
    def shown_state(self, row: Payment) -> SafeString:
        return component("chip", kind="payment", state=row.state)

    @admin.display(description="Payment")
    def shown_id(self, row: Payment) -> str:
        return hinted(short(row.pk), row.pk)

    @admin.display(description="Amount")
    def money_amount(self, row: Payment) -> SafeString:
        return component("money", amount=row.amount, currency=row.currency)

    @admin.display(description="Card")
    def card_used(self, row: Payment) -> str:
        return format_html('<span class="bo-nw">{}</span>', _card(row.card_brand, row.card_last4))

    @admin.display(description="Reference, merchant")
    def reference(self, row: Payment) -> str:
        order = as_uuid(row.order_ref) if row.reply_to else None
        href = address("orders_order_change", order) if order else ""
        known = link(href, short(row.order_ref), row.order_ref) if row.order_ref else "—"
        return format_html("<span>{}<br>{}</span>", known, _merchant(row.account_id)) if row.account_id else known

    @admin.display(description="Created")
    def made(self, row: Payment) -> SafeString:
        return moment(row.created_at)

    @admin.display(description="Refusal")
    def refusal(self, row: Payment) -> str:
        return row.error_message or "—"


@admin.register(CardToken)
class CardTokenAdmin(KeyedAdmin):
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
        return id_begins(text) | Q(owner_id=text)

    @admin.display(description="Card")
    def shown_card(self, row: CardToken) -> str:
        return format_html('<span class="bo-nw">{}</span>', _card(row.brand, row.last4))

    @admin.display(description="Id")
    def shown_id(self, row: CardToken) -> str:
        return hinted(short(row.pk), row.pk)

    @admin.display(description="Expires")
    def expires(self, row: CardToken) -> str:
        return f"{row.exp_month:02d}/{row.exp_year}"

    @admin.display(description="Token")
    def short_token(self, row: CardToken) -> str:
        return f"{row.token[:8]}…"

    @admin.display(description="Saved")
    def saved(self, row: CardToken) -> SafeString:
        return moment(row.created_at)


@admin.register(ProcessorTransaction)
class ProcessorTransactionAdmin(KeyedAdmin):
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
        payment = as_uuid(text)
        return id_begins(text) | Q(payment_id=payment) if payment else id_begins(text)

    def page(self, row: ProcessorTransaction) -> dict[str, Any]:
        return {
            "look": look(row.status),
            "rows": _rows(row.operations.order_by("id")),
            "currency": row.currency or "BRL",
            "payment_href": address("payments_payment_change", row.payment_id),
            "short_payment": short(row.payment_id),
        }

    @admin.display(description="Decision")
    def decision(self, row: ProcessorTransaction) -> SafeString:
        return chip(look(row.status))

    @admin.display(description="Payment")
    def payment(self, row: ProcessorTransaction) -> str:
        return hinted(short(row.payment_id), row.payment_id)

    @admin.display(description="Amount")
    def money_amount(self, row: ProcessorTransaction) -> SafeString:
        return component("money", amount=row.amount, currency=row.currency or "BRL")

    @admin.display(description="Captured")
    def money_captured(self, row: ProcessorTransaction) -> SafeString:
        return component("money", amount=row.captured_amount, currency=row.currency or "BRL")

    @admin.display(description="Refunded")
    def money_refunded(self, row: ProcessorTransaction) -> SafeString:
        return component("money", amount=row.refunded_amount, currency=row.currency or "BRL")

    @admin.display(description="Card")
    def card_used(self, row: ProcessorTransaction) -> str:
        return format_html('<span class="bo-nw">{}</span>', _card(row.card_brand, row.card_last4))

    @admin.display(description="Voided")
    def voided(self, row: ProcessorTransaction) -> SafeString:
        return moment(row.voided_at)

    @admin.display(description="Refusal")
    def refusal(self, row: ProcessorTransaction) -> str:
        return row.error_message or "—"

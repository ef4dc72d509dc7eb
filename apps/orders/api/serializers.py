"""The shapes of the orders API: exactly the seed's body in, the order with its steps and links out."""

from decimal import Decimal
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.common.known_fields import KnownFields
from apps.common.money import AMOUNT_TEXT, CENT
from apps.common.openapi import amount_schema
from apps.fiscal_docs import public as fiscal
from apps.orders.models import OrderStatus, PaymentMethod
from apps.orders.operations import ITEMS_MAX, QUANTITY_MAX
from apps.orders.queries import ListedOrder, OrderView
from apps.payments import public as payments
from apps.saga import public as saga

DOCUMENT_STEPS = frozenset({"issue_fiscal_doc", "sign_fiscal_doc"})  # that make a fiscal document


@extend_schema_field(amount_schema(minimum=0.01))
class AmountField(serializers.DecimalField):
    """At least a cent, as a JSON number or as a text of digits."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_digits=15, decimal_places=2, min_value=CENT, **options)

    def to_internal_value(self, data: Any) -> Decimal:
        if isinstance(data, str) and not AMOUNT_TEXT.fullmatch(data):
            self.fail("invalid")
        return super().to_internal_value(data)


class ItemSerializer(KnownFields):
    """One line."""

    id = serializers.UUIDField(help_text="The ticket.")
    name = serializers.CharField(max_length=200)
    amount = AmountField(help_text="Of one ticket.")
    quantity = serializers.IntegerField(min_value=1, max_value=QUANTITY_MAX)


class OrderItemSerializer(ItemSerializer):
    """One line, as it was taken."""

    amount = serializers.DecimalField(max_digits=15, decimal_places=2, help_text="Of one ticket.")  # type: ignore[assignment]  # always a text


class PaymentSerializer(KnownFields):
    """How to pay."""

    method = serializers.ChoiceField(choices=["card", "balance"])
    card_token = serializers.CharField(max_length=100, required=False, help_text="Only for a card; default: the saved one.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["method"] == "balance" and "card_token" in attrs:
            raise serializers.ValidationError({"card_token": "A payment from the balance has no card."})
        return attrs


class OrderRequestSerializer(KnownFields):
    """POST /orders."""

    customerId = serializers.UUIDField()
    amount = AmountField(help_text="What the customer pays. Below the items' sum it is a discount, above it other charges.")
    items = ItemSerializer(many=True, allow_empty=False, max_length=ITEMS_MAX)  # type: ignore[call-arg]  # of the list
    payment = PaymentSerializer(required=False, help_text="Default: the customer's saved method.")


class StepSerializer(serializers.Serializer[dict[str, Any]]):
    """One step of the order's run."""

    name = serializers.CharField()
    kind = serializers.ChoiceField(choices=["COMPENSABLE", "PIVOT", "RETRIABLE"])
    status = serializers.CharField()
    attempts = serializers.IntegerField()
    startedAt = serializers.DateTimeField(allow_null=True)
    finishedAt = serializers.DateTimeField(allow_null=True)
    undoneAt = serializers.DateTimeField(allow_null=True)
    error = serializers.CharField(allow_null=True)


class RunSerializer(serializers.Serializer[dict[str, Any]]):
    """The run that carries the order."""

    id = serializers.UUIDField()
    useCase = serializers.CharField()
    version = serializers.IntegerField()
    status = serializers.CharField()
    steps = StepSerializer(many=True)


class ErrorSerializer(serializers.Serializer[dict[str, Any]]):
    """Why the order was not completed."""

    code = serializers.CharField()
    detail = serializers.CharField()


class OrderLinksSerializer(serializers.Serializer[dict[str, Any]]):
    """Where to go on."""

    self = serializers.CharField()
    payment = serializers.CharField(allow_null=True)
    postings = serializers.CharField(allow_null=True)
    fiscalDocument = serializers.CharField(allow_null=True)


class ListedOrderLinksSerializer(serializers.Serializer[dict[str, Any]]):
    """Where to go on."""

    self = serializers.CharField()


class OrderSerializer(serializers.Serializer[dict[str, Any]]):
    """An order as it is now."""

    id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=OrderStatus.values)
    customerId = serializers.UUIDField()
    amount = serializers.DecimalField(max_digits=15, decimal_places=2)
    currency = serializers.CharField()
    items = OrderItemSerializer(many=True)
    payment = serializers.DictField()
    error = ErrorSerializer(allow_null=True)
    createdAt = serializers.DateTimeField()
    paidAt = serializers.DateTimeField(allow_null=True)
    finishedAt = serializers.DateTimeField(allow_null=True)
    run = RunSerializer(allow_null=True)
    links = OrderLinksSerializer()


class ListedOrderSerializer(serializers.Serializer[dict[str, Any]]):
    """An order in a list; its own address has its items and its run."""

    id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=OrderStatus.values)
    customerId = serializers.UUIDField()
    amount = serializers.DecimalField(max_digits=15, decimal_places=2)
    currency = serializers.CharField()
    payment = serializers.DictField()
    error = ErrorSerializer(allow_null=True)
    createdAt = serializers.DateTimeField()
    paidAt = serializers.DateTimeField(allow_null=True)
    finishedAt = serializers.DateTimeField(allow_null=True)
    links = ListedOrderLinksSerializer()


class OrderPageSerializer(serializers.Serializer[dict[str, Any]]):
    """A page of orders, newest first."""

    orders = ListedOrderSerializer(many=True)
    nextCursor = serializers.CharField(allow_null=True, help_text="Continue behind this page; null on the last one.")


def line_body(order: ListedOrder | OrderView) -> dict[str, Any]:
    """What a list says of an order, and its own address says too."""
    return {
        "id": str(order.id),
        "status": order.status,
        "customerId": str(order.customer_id),
        "amount": str(order.amount),
        "currency": order.currency,
        "payment": {"method": order.payment_method},
        "error": {"code": order.error_code, "detail": order.error_detail} if order.error_code else None,
        "createdAt": order.created_at.isoformat(),
        "paidAt": order.paid_at and order.paid_at.isoformat(),
        "finishedAt": order.finished_at and order.finished_at.isoformat(),
        "links": {"self": f"/orders/{order.id}"},
    }


def order_body(order: OrderView, run: saga.RunProgress | None = None) -> dict[str, Any]:
    """The JSON of an order: its state, the steps of its run with their times, links to what came of them."""
    if run is None and order.run_id:
        run = saga.run_progress(order.run_id)
    return {
        **line_body(order),
        "items": [
            {"id": str(item.ticket_id), "name": item.name, "amount": str(item.amount), "quantity": item.quantity}
            for item in order.items
        ],
        "run": _run_body(run) if run else None,
        "links": _links(order, run),
    }


def _run_body(run: saga.RunProgress) -> dict[str, Any]:
    return {
        "id": str(run.run_id),
        "useCase": run.use_case,
        "version": run.version,
        "status": run.status,
        "steps": [
            {
                "name": step.name,
                "kind": step.kind,
                "status": step.status,
                "attempts": step.attempts,
                "startedAt": step.started_at and step.started_at.isoformat(),
                "finishedAt": step.finished_at and step.finished_at.isoformat(),
                "undoneAt": step.undone_at and step.undone_at.isoformat(),
                "error": f"{step.error_code}: {step.error_detail}" if step.error_code else None,
            }
            for step in run.steps
        ],
    }


def _links(order: OrderView, run: saga.RunProgress | None) -> dict[str, str | None]:
    # Not asked for where there can be none: this is the answer that a customer waits for.
    paid = payments.payments_of(order_ref=str(order.id)) if order.payment_method == PaymentMethod.CARD else ()
    documented = run is not None and any(step.attempts for step in run.steps if step.name in DOCUMENT_STEPS)
    documents = fiscal.documents_of_order(order_id=order.id) if documented else ()
    tracekey = next((str(s.output["tracekey"]) for s in run.steps if "tracekey" in s.output), None) if run else None
    return {
        "self": f"/orders/{order.id}",
        "payment": f"/payments/{paid[0].id}" if paid else None,
        "postings": f"/ledger/transactions/{tracekey}" if tracekey else None,
        "fiscalDocument": documents[0].links["self"] if documents else None,
    }

"""Refunds of a merchant's own payments over HTTP."""

from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.common.known_fields import KnownFields
from apps.common.openapi import problem
from apps.identity.public import require_scope
from apps.payments import refunds
from apps.payments.api.serializers import AmountField, PaymentError, TextField, own_words
from apps.payments.api.views import NO_STORE, PROBLEMS, READ, READ_PROBLEMS, UNKNOWN, WRITE, keyed


class RefundRequest(KnownFields):
    """How much is given back, and why. An empty object: all that is left."""

    amount = AmountField(required=False, help_text="A part of what was captured; all that is left when missing.")
    reason = TextField(max_length=200, required=False, default="", allow_blank=True, help_text="Your own words.")

    def validate_reason(self, value: str) -> str:
        return own_words(value, "reason")


class RefundResponse(serializers.Serializer[Any]):
    """A refund."""

    id = serializers.UUIDField()
    payment_id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=["approved", "rejected", "pending"])
    amount = serializers.CharField()
    currency = serializers.CharField()
    reason = serializers.CharField(allow_blank=True)
    error = PaymentError(allow_null=True)
    created_at = serializers.DateTimeField()
    answered_at = serializers.DateTimeField(allow_null=True)


class RefundsResponse(serializers.Serializer[Any]):
    """The refunds of a payment."""

    refunds = RefundResponse(many=True)


class RefundsView(APIView):
    """Refunds of a payment."""

    @extend_schema(
        operation_id="refund_payment",
        tags=["payments"],
        summary="Give back a captured payment, or a part of it.",
        description="202: the processor decides; look at Location. Several partial refunds may follow each other until all "
        f"of it is given back, {refunds.REFUNDS_MAX} in all. The payment of an order is refunded by the order's return.",
        parameters=keyed(location="Where the refund is.", statuses=[202]),
        request=RefundRequest,
        responses={
            202: OpenApiResponse(RefundResponse, "Accepted; the processor decides."),
            **PROBLEMS,
            404: UNKNOWN,
            409: problem(
                "Not captured (R211), more than is left (R212), an order's payment (R218), too many refunds (R219), or the "
                "first request with this Idempotency-Key still runs (R012).",
            ),
        },
    )
    def post(self, request: Request, payment_id: UUID) -> Response:
        caller = require_scope(request, WRITE)
        form = RefundRequest(data=request.data)
        form.is_valid(raise_exception=True)
        command = refunds.NewRefund(
            account_id=caller.account_id,
            payment_id=payment_id,
            amount=form.validated_data.get("amount"),
            reason=form.validated_data["reason"],
            idempotency_key=request.headers.get("Idempotency-Key"),
            body=request.data,
        )
        answer = refunds.ask_refund(command, now=timezone.now())
        return Response(answer.body, status=answer.status, headers={**answer.headers, **NO_STORE})

    @extend_schema(
        operation_id="list_refunds",
        tags=["payments"],
        summary="The refunds of a payment, the latest first.",
        responses={200: RefundsResponse, **READ_PROBLEMS, 404: UNKNOWN},
    )
    def get(self, request: Request, payment_id: UUID) -> Response:
        caller = require_scope(request, READ)
        found = refunds.refunds_of(payment_id, account_id=caller.account_id)
        return Response({"refunds": [view.to_json() for view in found]}, headers=NO_STORE)


class RefundView(APIView):
    """One refund."""

    @extend_schema(
        operation_id="get_refund",
        tags=["payments"],
        summary="A refund: pending, approved, or rejected with the processor's reason.",
        responses={200: RefundResponse, **READ_PROBLEMS, 404: UNKNOWN},
    )
    def get(self, request: Request, payment_id: UUID, refund_id: UUID) -> Response:
        caller = require_scope(request, READ)
        view = refunds.refund_of(payment_id, refund_id, account_id=caller.account_id)
        return Response(view.to_json(), headers=NO_STORE)

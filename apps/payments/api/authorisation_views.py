"""Authorised payments over HTTP: captured, or voided."""

from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.common.known_fields import KnownFields
from apps.common.openapi import problem
from apps.identity.public import require_scope
from apps.payments import authorisations
from apps.payments.api.serializers import PaymentResponse
from apps.payments.api.views import NO_STORE, PROBLEMS, UNKNOWN, WRITE, keyed
from apps.payments.models import PaymentOperation

_HEADERS = keyed(location="Where the payment is.", statuses=[202])
_ACCEPTED = OpenApiResponse(PaymentResponse, "Accepted; the processor decides.")


_NOTHING_MORE = {"application/json": {"type": "object", "additionalProperties": False}}


class NothingMore(KnownFields):
    """An empty object, or no body: all of the amount."""


def _decide(request: Request, payment_id: UUID, kind: str) -> Response:
    caller = require_scope(request, WRITE)
    form = NothingMore(data=request.data)
    form.is_valid(raise_exception=True)
    command = authorisations.Decision(
        account_id=caller.account_id,
        payment_id=payment_id,
        kind=kind,
        idempotency_key=request.headers.get("Idempotency-Key"),
        body=request.data,
    )
    answer = authorisations.decide(command, now=timezone.now())
    return Response(answer.body, status=answer.status, headers={**answer.headers, **NO_STORE})


class CaptureView(APIView):
    """Take an authorised amount."""

    @extend_schema(
        operation_id="capture_payment",
        tags=["payments"],
        summary="Take the amount of an authorised payment.",
        description="Of a payment that was made with capture false. 202: look at Location. What the bank refuses leaves it "
        "authorised, with the reason in error: try again, or void it.",
        parameters=_HEADERS,
        request=_NOTHING_MORE,
        responses={
            202: _ACCEPTED,
            **PROBLEMS,
            404: UNKNOWN,
            409: problem(
                "Voided (R208), not authorised (R209), captured (R210), an order's (R218), refused too often (R220), or "
                "the first request with this Idempotency-Key still runs (R012).",
            ),
        },
    )
    def post(self, request: Request, payment_id: UUID) -> Response:
        return _decide(request, payment_id, PaymentOperation.Kind.CAPTURE.value)


class VoidView(APIView):
    """Give an authorised amount free."""

    @extend_schema(
        operation_id="void_payment",
        tags=["payments"],
        summary="Give the amount of a payment free that is not captured.",
        description="Also of one whose outcome is not known yet: whatever it is, nothing is taken. 202: look at Location. "
        f"What nobody captures in {authorisations.AUTHORISED_FOR.days} days is voided by itself.",
        parameters=_HEADERS,
        request=_NOTHING_MORE,
        responses={
            202: _ACCEPTED,
            **PROBLEMS,
            404: UNKNOWN,
            409: problem(
                "Captured: refund it (R210), an order's (R218), or the first request with this Idempotency-Key still runs "
                "(R012).",
            ),
        },
    )
    def post(self, request: Request, payment_id: UUID) -> Response:
        return _decide(request, payment_id, PaymentOperation.Kind.VOID.value)

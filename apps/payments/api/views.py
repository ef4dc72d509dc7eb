"""Merchants over HTTP: save a card, pay, look."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.common import parameters
from apps.common.openapi import problem
from apps.identity.public import require_scope
from apps.payments import merchants, queries
from apps.payments.api.serializers import (
    REFERENCE_CHARACTERS_MAX,
    CardRequest,
    CardResponse,
    OperationResponse,
    PaymentDetail,
    PaymentPage,
    PaymentRequest,
    PaymentResponse,
)
from apps.payments.models import Payment
from apps.payments.vault import CardInput

WRITE = "payments:write"
READ = "payments:read"


PROBLEMS = {
    400: problem("The body is not JSON (R002), or the Idempotency-Key is malformed (R014)."),
    401: problem("The account or its secret is wrong or missing (R010, R701)."),
    403: problem("The account lacks the scope (R702)."),
    422: problem("A field is missing or malformed (R001, R2xx)."),
}
READ_PROBLEMS = {401: PROBLEMS[401], 403: PROBLEMS[403]}
UNKNOWN = problem("There is no such object, or it is not yours.")
KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="1 to 255 printable ASCII characters, kept for 7 days. The same key and body: the first answer again, with "
    "Idempotent-Replayed: true. Another body: 422 (R013). The first request still runs: 409 (R012), repeat it.",
)


def keyed(*, location: str, statuses: Sequence[int]) -> list[OpenApiParameter]:
    """The headers of a POST that an Idempotency-Key repeats, and of its answers with these statuses."""
    replayed = "true: an answer given before."
    return [
        KEY,
        OpenApiParameter("Location", str, OpenApiParameter.HEADER, response=statuses, description=location),
        OpenApiParameter("Idempotent-Replayed", str, OpenApiParameter.HEADER, response=statuses, description=replayed),
    ]


NO_STORE = {"Cache-Control": "no-store"}


def _card_input(values: dict[str, Any]) -> CardInput:
    return CardInput(number=values["number"], exp_month=values["exp_month"], exp_year=values["exp_year"], cvv=values["cvv"])


class CardsView(APIView):
    """Cards of a merchant's customers."""

    @extend_schema(
        operation_id="save_card",
        tags=["payments"],
        summary="Put a card into the vault and get a token for it.",
        request=CardRequest,
        responses={201: CardResponse, **PROBLEMS},
    )
    def post(self, request: Request) -> Response:
        caller = require_scope(request, WRITE)
        form = CardRequest(data=request.data)
        form.is_valid(raise_exception=True)
        card = merchants.save_card(owner_id=caller.account_id, card=_card_input(form.validated_data), now=timezone.now())
        return Response(CardResponse(card).data, status=201, headers=NO_STORE)


class PaymentsView(APIView):
    """A merchant's payments."""

    @extend_schema(
        operation_id="create_payment",
        tags=["payments"],
        summary="Pay by card.",
        description="202: the processor decides; look at Location. 201: an invalid card, or an amount outside 1.00 to "
        "1000.00; the payment is stored as rejected with the reason.",
        parameters=keyed(location="Where the payment is.", statuses=[201, 202]),
        request=PaymentRequest,
        responses={
            201: OpenApiResponse(PaymentResponse, "Stored as rejected."),
            202: OpenApiResponse(PaymentResponse, "Accepted; the processor decides."),
            **PROBLEMS,
            404: problem("The card token is unknown (R207)."),
            409: problem("The first request with this Idempotency-Key still runs (R012)."),
            429: problem("Too many card payments were refused (R217), or logins failed (R008): see Retry-After."),
        },
    )
    def post(self, request: Request) -> Response:
        caller = require_scope(request, WRITE)
        form = PaymentRequest(data=request.data)
        form.is_valid(raise_exception=True)
        values = form.validated_data
        command = merchants.NewPayment(
            account_id=caller.account_id,
            amount=values["amount"],
            reference=values["reference"],
            card_token=values.get("card_token"),
            card=_card_input(values["card"]) if "card" in values else None,
            captures_itself=values["capture"],
            idempotency_key=request.headers.get("Idempotency-Key"),
            route="POST /payments",
            body=request.data,
        )
        answer = merchants.pay(command, now=timezone.now())
        return Response(answer.body, status=answer.status, headers={**answer.headers, **NO_STORE})

    @extend_schema(
        operation_id="list_payments",
        tags=["payments"],
        summary="Your payments, newest first.",
        parameters=[
            OpenApiParameter("state", str, enum=Payment.State.values, description="Those that are in this state now."),
            OpenApiParameter("reference", str, description="Those under this reference; an order's id is its payment's."),
            OpenApiParameter("created_from", datetime, description="Created at this moment or later."),
            OpenApiParameter("created_until", datetime, description="Created before this moment."),
            OpenApiParameter("limit", int, description="1 to 500; 50 when missing."),
            OpenApiParameter("cursor", str, description="The next_cursor of the page before, with the same filters."),
        ],
        responses={200: PaymentPage, **READ_PROBLEMS, 422: PROBLEMS[422]},
    )
    def get(self, request: Request) -> Response:
        caller = require_scope(request, READ)
        page = queries.payments_page(
            caller.account_id,
            parameters.part_of_list(request, since="created_from", until="created_until"),
            state=parameters.one_of(request, "state", Payment.State.values),
            reference=parameters.text(request, "reference", characters_max=REFERENCE_CHARACTERS_MAX),
        )
        body = {"payments": [view.to_json() for view in page.rows], "next_cursor": page.next_cursor}
        return Response(body, headers=NO_STORE)


class PaymentView(APIView):
    """One payment."""

    @extend_schema(
        operation_id="get_payment",
        tags=["payments"],
        summary="A payment, with what was asked of the processor.",
        responses={200: PaymentDetail, **READ_PROBLEMS, 404: UNKNOWN},
    )
    def get(self, request: Request, payment_id: UUID) -> Response:
        caller = require_scope(request, READ)
        view = queries.payment(payment_id, account_id=caller.account_id)
        body = {**view.to_json(), "operations": OperationResponse(view.operations, many=True).data}
        return Response(body, headers=NO_STORE)

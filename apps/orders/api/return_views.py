"""Returns of orders over HTTP."""

from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.common.errors import InvalidRequest, NotFound
from apps.common.problems import ProblemSerializer
from apps.observability.logs import mask_cards
from apps.orders import queries, returns
from apps.orders.api.serializers import ErrorSerializer
from apps.orders.api.views import PROBLEMS, OrdersMayBeAnonymous, account_id
from apps.orders.models import ReturnStatus
from apps.orders.sagas.ask_return import AskReturn, ask_return

_LOOK_REFUSED = dict.fromkeys((401, 404), ProblemSerializer)


class ReturnRequestSerializer(serializers.Serializer[dict[str, Any]]):
    """Why it is given back."""

    reason = serializers.CharField(min_length=3, max_length=200, help_text="In the customer's words, without card numbers.")

    def validate_reason(self, value: str) -> str:
        if mask_cards(value) != value:  # it is stored and shown as it is, to whoever approves
            raise serializers.ValidationError("There seems to be a card number in it. Leave it out.")
        return value


class ReturnLinksSerializer(serializers.Serializer[dict[str, Any]]):
    """Where to go on."""

    self = serializers.CharField()
    order = serializers.CharField()


class ReturnSerializer(serializers.Serializer[dict[str, Any]]):
    """A return as it is now."""

    id = serializers.UUIDField()
    orderId = serializers.UUIDField()
    status = serializers.ChoiceField(choices=ReturnStatus.values)
    amount = serializers.DecimalField(max_digits=15, decimal_places=2)
    reason = serializers.CharField()
    error = ErrorSerializer(allow_null=True)
    fiscalDocument = serializers.ChoiceField(
        choices=["CANCELLED", "NO_DOCUMENT", "RETURN_DOCUMENT_NEEDED"],
        allow_null=True,
        help_text="RETURN_DOCUMENT_NEEDED: too late to cancel it, a return document has to be issued.",
    )
    createdAt = serializers.DateTimeField()
    acceptedAt = serializers.DateTimeField(allow_null=True)
    finishedAt = serializers.DateTimeField(allow_null=True)
    runId = serializers.UUIDField()
    links = ReturnLinksSerializer()


class ReturnsSerializer(serializers.Serializer[dict[str, Any]]):
    """The returns of an order."""

    returns = ReturnSerializer(many=True)


class ReturnsView(APIView):
    """Returns of an order."""

    permission_classes = [OrdersMayBeAnonymous]

    @extend_schema(
        operation_id="returnOrder",
        summary="Give an order back",
        request=ReturnRequestSerializer,
        parameters=[OpenApiParameter("Idempotency-Key", str, OpenApiParameter.HEADER, description="One key, one return.")],
        responses={202: ReturnSerializer, **PROBLEMS},
    )
    def post(self, request: Request, order_id: UUID) -> Response:
        """The whole order: money, tickets and fiscal document. A large amount waits for a person: follow Location.

        409 when the order is not complete, too old, or being returned already (R538).
        """
        mine = account_id(request, "orders:write")
        if not isinstance(request.data, dict):
            raise InvalidRequest("The body is not an object.")
        serializer = ReturnRequestSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        command = AskReturn(
            account_id=mine,
            order_id=order_id,
            reason=serializer.validated_data["reason"],
            idempotency_key=request.headers.get("Idempotency-Key"),
            body=request.data,
        )
        asked = ask_return(command, now=timezone.now())
        if asked.replay is not None:
            return Response(asked.replay.body, status=asked.replay.status, headers=asked.replay.headers)
        assert asked.found is not None  # noqa: S101  # it is None only for a replay
        body = asked.found.to_json()
        return Response(body, status=202, headers={"Location": body["links"]["self"]})

    @extend_schema(
        operation_id="listReturns", summary="The returns of an order", responses={200: ReturnsSerializer, **_LOOK_REFUSED}
    )
    def get(self, request: Request, order_id: UUID) -> Response:
        """The latest first. An order has one, and more when those before it were refused."""
        _check_mine(request, order_id)
        return Response({"returns": [found.to_json() for found in returns.returns_of(order_id)]})


class ReturnView(APIView):
    """One return."""

    permission_classes = [OrdersMayBeAnonymous]

    @extend_schema(operation_id="getReturn", summary="Look at a return", responses={200: ReturnSerializer, **_LOOK_REFUSED})
    def get(self, request: Request, order_id: UUID, return_id: UUID) -> Response:
        """Its state; its run (GET /sagas/{runId}) has every step."""
        _check_mine(request, order_id)
        found = returns.return_of(return_id)
        if found is None or found.order_id != order_id:
            raise NotFound("There is no such return.")
        return Response(found.to_json())


def _check_mine(request: Request, order_id: UUID) -> None:
    mine = account_id(request, "orders:read")
    order = queries.order(order_id)
    if order is None or order.account_id != mine:
        raise NotFound("There is no such order, or it is not yours.")

"""HTTP in, HTTP out: parse, take the time, one call inward, answer."""

import re
import time
from dataclasses import dataclass
from datetime import datetime
from threading import BoundedSemaphore
from typing import Any
from uuid import UUID

from django.conf import settings
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.common import parameters
from apps.common.errors import InvalidRequest, NotFound, Unauthenticated
from apps.common.problems import ProblemSerializer
from apps.idempotency import public as idempotency
from apps.identity.public import require_scope
from apps.orders import queries
from apps.orders.api.serializers import OrderPageSerializer, OrderRequestSerializer, OrderSerializer, line_body, order_body
from apps.orders.models import OrderStatus
from apps.orders.operations import OrderLine
from apps.orders.sagas.place import Placed, PlaceOrder, json_of, place_order

WAIT_S_MAX = 10.0  # a waiting request holds a thread of the server
# Who asks for a longer wait than usual gets it while at most half of the threads wait so: the others answer everybody else.
LONG_WAITS_MAX = max(settings.WEB_THREADS // 2, 1)
LONG_WAITS = BoundedSemaphore(LONG_WAITS_MAX)
_WAIT = re.compile(r"wait\s*=\s*\"?([0-9]{1,4}(?:\.[0-9]{1,3})?)\"?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Preference:
    """RFC 7240: how long the caller wants to wait, and what we say that we honoured."""

    wait_s: float
    applied: str | None

    @classmethod
    def of(cls, header: str) -> "Preference":
        """Read a Prefer header. Unknown preferences are ignored, as the RFC wants."""
        words = [word.strip() for word in header.split(",") if word.strip()]
        if any(word.lower() == "respond-async" for word in words):
            return cls(0.0, "respond-async")
        for word in words:
            if match := _WAIT.fullmatch(word):
                wait_s = min(float(match.group(1)), WAIT_S_MAX)
                return cls(wait_s, f"wait={wait_s:g}")
        return cls(settings.INLINE_BUDGET_MS / 1000, None)


class OrdersMayBeAnonymous(BasePermission):
    """An account, or nobody where ORDERS_ALLOW_ANONYMOUS lets orders in without credentials."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        if not _is_known(request) and not settings.ORDERS_ALLOW_ANONYMOUS:
            raise Unauthenticated
        return True


def _is_known(request: Request) -> bool:
    return getattr(request, "user", None) is not None  # UNAUTHENTICATED_USER is None here, which DRF's types do not know


def account_id(request: Request, scope: str) -> str:
    """Whose orders: the caller's account, which must have this scope; empty for nobody's."""
    return require_scope(request, scope).account_id if _is_known(request) else ""


PROBLEMS = dict.fromkeys((400, 401, 404, 409, 413, 422), ProblemSerializer)


class OrdersView(APIView):
    """Orders."""

    permission_classes = [OrdersMayBeAnonymous]

    @extend_schema(
        operation_id="placeOrder",
        summary="Place an order",
        description=(
            "Reserves the tickets, takes the payment, issues the fiscal document and posts the sale; or undoes what was "
            "done. 201 when the outcome is known in time, else 202: follow Location."
        ),
        request=OrderRequestSerializer,
        parameters=[
            OpenApiParameter(
                "Prefer",
                str,
                OpenApiParameter.HEADER,
                description="wait=0.1 (seconds) or respond-async; Preference-Applied tells what was honoured.",
            ),
            OpenApiParameter("Idempotency-Key", str, OpenApiParameter.HEADER, description="One key, one order."),
        ],
        responses={201: OrderSerializer, 202: OrderSerializer, **PROBLEMS},
    )
    def post(self, request: Request) -> Response:
        """Place an order."""
        started = time.monotonic()
        preference = Preference.of(request.headers.get("Prefer", ""))
        command = _command(request)
        inline_ms = int(preference.wait_s * 1000)
        placed = place_order(command, inline_ms=inline_ms, now=timezone.now())
        if placed.replay is not None:
            return Response(placed.replay.body, status=placed.replay.status, headers=placed.replay.headers)
        return _answer(placed, preference, spent_s=time.monotonic() - started)

    @extend_schema(
        operation_id="listOrders",
        summary="Your orders, newest first",
        parameters=[
            OpenApiParameter("status", str, enum=OrderStatus.values, description="Those that are in this status now."),
            OpenApiParameter("customerId", UUID, description="Those of this customer."),
            OpenApiParameter("createdFrom", datetime, description="Placed at this moment or later."),
            OpenApiParameter("createdUntil", datetime, description="Placed before this moment."),
            OpenApiParameter("limit", int, description="1 to 500; 50 when absent."),
            OpenApiParameter("cursor", str, description="The nextCursor of the page before, with the same filters."),
        ],
        responses={200: OrderPageSerializer, **dict.fromkeys((401, 422), ProblemSerializer)},
    )
    def get(self, request: Request) -> Response:
        """Of the account alone that asks: what nobody's account has placed is found by its id, and in no list."""
        mine = account_id(request, "orders:read")
        if not mine:
            raise Unauthenticated
        page = queries.orders_page(
            mine,
            parameters.part_of_list(request, since="createdFrom", until="createdUntil"),
            status=parameters.one_of(request, "status", OrderStatus.values),
            customer_id=parameters.uuid(request, "customerId"),
        )
        return Response({"orders": [line_body(order) for order in page.rows], "nextCursor": page.next_cursor})


def _command(request: Request) -> PlaceOrder:
    mine = account_id(request, "orders:write")  # first: what is wrong with a body is told to whoever may send one
    if not isinstance(request.data, dict):
        raise InvalidRequest("The body is not an object.")
    serializer = OrderRequestSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    values: dict[str, Any] = serializer.validated_data
    payment = values.get("payment", {})
    return PlaceOrder(
        account_id=mine,
        customer_id=values["customerId"],
        amount=values["amount"],
        method=payment.get("method"),
        card_token=payment.get("card_token"),
        lines=tuple(
            OrderLine(ticket_id=item["id"], name=item["name"], amount=item["amount"], quantity=item["quantity"])
            for item in values["items"]
        ),
        idempotency_key=request.headers.get("Idempotency-Key"),
        body=request.data,
    )


def _answer(placed: Placed, preference: Preference, *, spent_s: float) -> Response:
    order, run = placed.order, placed.progress
    assert order is not None  # noqa: S101  # it is None only for a replay
    if preference.wait_s > 0 and not order.decided:
        preference = _wait(order.id, preference, spent_s=spent_s)
        order, run = queries.order(order.id), None
        assert order is not None  # noqa: S101  # orders are never deleted
    decided = preference.wait_s > 0 and order.decided
    status, body, headers = (201 if decided else 202), order_body(order, run), {"Location": f"/orders/{order.id}"}
    if preference.applied:
        headers["Preference-Applied"] = preference.applied
    if placed.begun is not None:
        idempotency.complete(placed.begun, status=status, body=json_of(body), headers=headers, now=timezone.now())
    return Response(body, status=status, headers=headers)


def _wait(order_id: UUID, asked: Preference, *, spent_s: float) -> Preference:
    """Wait until the outcome is known, as long as was asked for, or as usual. Gives what was honoured."""
    usual = Preference.of("")
    is_long = asked.wait_s > usual.wait_s and LONG_WAITS.acquire(blocking=False)
    honoured = asked if is_long or asked.wait_s <= usual.wait_s else usual
    try:
        queries.wait_until_decided(order_id, timeout_s=max(honoured.wait_s - spent_s, 0.0))
    finally:
        if is_long:
            LONG_WAITS.release()
    return honoured


class OrderView(APIView):
    """One order."""

    permission_classes = [OrdersMayBeAnonymous]

    @extend_schema(
        operation_id="getOrder",
        summary="Look at an order",
        responses={200: OrderSerializer, 401: ProblemSerializer, 404: ProblemSerializer},
    )
    def get(self, request: Request, order_id: UUID) -> Response:
        """The state of an order, the steps of its run with their times, and links to what came of them."""
        order, mine = queries.order(order_id), account_id(request, "orders:read")
        if order is None or order.account_id != mine:
            raise NotFound("There is no such order, or it is not yours.")
        return Response(order_body(order))

"""Webhooks over HTTP: where a merchant wants to be told, and how the telling went."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.common import parameters
from apps.common.openapi import problem
from apps.common.pagination import page_rows
from apps.identity.public import Caller, require_scope
from apps.webhooks import endpoints, queries, redelivery
from apps.webhooks.api.serializers import (
    WebhookDeliveryPage,
    WebhookEndpointChange,
    WebhookEndpointRequest,
    WebhookEndpointResponse,
    WebhookEndpointsResponse,
    WebhookEndpointWithSecret,
    WebhookEventTypesResponse,
    WebhookPingResponse,
    WebhookRedeliveryRequest,
    WebhookRedeliveryResponse,
    WebhookSecretRequest,
)
from apps.webhooks.catalogue import TYPES, scope_of
from apps.webhooks.models import Delivery

WRITE, READ = "webhooks:write", "webhooks:read"
NO_STORE = {"Cache-Control": "no-store"}


REFUSED = {
    401: problem("The account or its secret is wrong or missing (R010, R701)."),
    403: problem("The account lacks a scope: this one's, or that of an event type (R702)."),
}
MALFORMED = problem("A field is missing or malformed (R001), or the URL cannot be told anything (R902).")
UNKNOWN = problem("There is no such endpoint, or it is not yours (R901).")
DISABLED = problem("The endpoint is disabled (R905).")


def _may_be_told(request: Request, event_types: Sequence[str]) -> None:
    """Who may not look at something is not told of it either."""
    for scope in sorted({scope_of(event_type) for event_type in event_types}):
        require_scope(request, scope)


def _values(form: Any) -> dict[str, Any]:
    form.is_valid(raise_exception=True)
    values: dict[str, Any] = form.validated_data
    return values


def _with_secret(made: endpoints.WithSecret, *, status: int) -> Response:
    body = {**made.endpoint.to_json(), "secret": made.secret}
    headers = {**NO_STORE, "Location": f"/webhooks/endpoints/{made.endpoint.id}"} if status == 201 else NO_STORE
    return Response(body, status=status, headers=headers)


class EventTypesView(APIView):
    """What an endpoint may be told of."""

    @extend_schema(
        operation_id="list_webhook_event_types",
        tags=["webhooks"],
        summary="What an endpoint may be told of.",
        responses={200: WebhookEventTypesResponse, **REFUSED},
    )
    def get(self, request: Request) -> Response:
        require_scope(request, READ)
        rows = [{"type": name, "description": text, "scope": scope_of(name)} for name, text in TYPES.items()]
        return Response({"event_types": rows})


class EndpointsView(APIView):
    """A merchant's endpoints."""

    @extend_schema(
        operation_id="create_webhook_endpoint",
        tags=["webhooks"],
        summary="Register an endpoint. The answer shows its signing secret, this once.",
        request=WebhookEndpointRequest,
        responses={
            201: WebhookEndpointWithSecret,
            **REFUSED,
            409: problem("There are too many endpoints (R903), or there is one with this URL (R904)."),
            422: MALFORMED,
        },
    )
    def post(self, request: Request) -> Response:
        caller = require_scope(request, WRITE)
        values = _values(WebhookEndpointRequest(data=request.data))
        _may_be_told(request, values["event_types"])
        made = endpoints.register(account_id=caller.account_id, **values, now=timezone.now())
        return _with_secret(made, status=201)

    @extend_schema(
        operation_id="list_webhook_endpoints",
        tags=["webhooks"],
        summary="Your endpoints, the oldest first.",
        responses={200: WebhookEndpointsResponse, **REFUSED},
    )
    def get(self, request: Request) -> Response:
        caller = require_scope(request, READ)
        rows = queries.endpoints_of(caller.account_id, now=timezone.now())
        return Response({"endpoints": [view.to_json() for view in rows]}, headers=NO_STORE)


class EndpointView(APIView):
    """One endpoint."""

    @extend_schema(
        operation_id="get_webhook_endpoint",
        tags=["webhooks"],
        summary="An endpoint.",
        responses={200: WebhookEndpointResponse, **REFUSED, 404: UNKNOWN},
    )
    def get(self, request: Request, endpoint_id: UUID) -> Response:
        caller = require_scope(request, READ)
        view = queries.endpoint(endpoint_id, account_id=caller.account_id, now=timezone.now())
        return Response(view.to_json(), headers=NO_STORE)

    @extend_schema(
        operation_id="change_webhook_endpoint",
        tags=["webhooks"],
        summary="Change, disable or enable an endpoint.",
        request=WebhookEndpointChange,
        responses={
            200: WebhookEndpointResponse,
            **REFUSED,
            404: UNKNOWN,
            409: problem("There is another endpoint with this URL (R904)."),
            422: MALFORMED,
        },
    )
    def patch(self, request: Request, endpoint_id: UUID) -> Response:
        caller = require_scope(request, WRITE)
        values = _values(WebhookEndpointChange(data=request.data))
        _may_be_told(request, values.get("event_types", ()))
        view = endpoints.change(account_id=caller.account_id, endpoint_id=endpoint_id, **values, now=timezone.now())
        return Response(view.to_json(), headers=NO_STORE)

    @extend_schema(
        operation_id="delete_webhook_endpoint",
        tags=["webhooks"],
        summary="Delete an endpoint. What waits for it is never sent.",
        responses={204: None, **REFUSED, 404: UNKNOWN},
    )
    def delete(self, request: Request, endpoint_id: UUID) -> Response:
        caller = require_scope(request, WRITE)
        endpoints.delete(account_id=caller.account_id, endpoint_id=endpoint_id, now=timezone.now())
        return Response(status=204)


class SecretView(APIView):
    """An endpoint's signing secret."""

    @extend_schema(
        operation_id="rotate_webhook_secret",
        tags=["webhooks"],
        summary="A new signing secret, shown this once. The one before signs beside it for 24 hours.",
        request=WebhookSecretRequest,
        responses={200: WebhookEndpointWithSecret, **REFUSED, 404: UNKNOWN, 422: MALFORMED},
    )
    def post(self, request: Request, endpoint_id: UUID) -> Response:
        caller = require_scope(request, WRITE)
        values = _values(WebhookSecretRequest(data=request.data))
        made = endpoints.rotate(
            account_id=caller.account_id,
            endpoint_id=endpoint_id,
            overlap=timedelta(hours=values["overlap_hours"]),
            now=timezone.now(),
        )
        return _with_secret(made, status=200)


class PingView(APIView):
    """A test."""

    @extend_schema(
        operation_id="ping_webhook_endpoint",
        tags=["webhooks"],
        summary="Send an event of type ping; look for it among the deliveries.",
        request=None,
        responses={202: WebhookPingResponse, **REFUSED, 404: UNKNOWN, 409: DISABLED},
    )
    def post(self, request: Request, endpoint_id: UUID) -> Response:
        caller = require_scope(request, WRITE)
        delivery_id = endpoints.ping(account_id=caller.account_id, endpoint_id=endpoint_id, now=timezone.now())
        return Response({"delivery_id": str(delivery_id)}, status=202, headers=NO_STORE)


class DeliveriesView(APIView):
    """An endpoint's deliveries."""

    @extend_schema(
        operation_id="list_webhook_deliveries",
        tags=["webhooks"],
        summary="An endpoint's deliveries, newest first.",
        parameters=[
            OpenApiParameter("state", str, enum=Delivery.State.values, description="Only these."),
            OpenApiParameter("limit", int, description="1 to 500; 50 when missing."),
            OpenApiParameter("cursor", str, description="The next_cursor of the page before."),
        ],
        responses={200: WebhookDeliveryPage, **REFUSED, 404: UNKNOWN, 422: problem("A parameter is malformed (R001).")},
    )
    def get(self, request: Request, endpoint_id: UUID) -> Response:
        caller, asked = require_scope(request, READ), request.query_params
        page = queries.deliveries_page(
            endpoint_id,
            account_id=caller.account_id,
            state=parameters.one_of(request, "state", Delivery.State.values),
            rows_max=page_rows(asked.get("limit")),
            cursor=asked.get("cursor"),
        )
        body = {"deliveries": [view.to_json() for view in page.rows], "next_cursor": page.next_cursor}
        return Response(body, headers=NO_STORE)


class RedeliveriesView(APIView):
    """Deliver again."""

    @extend_schema(
        operation_id="redeliver_webhooks",
        tags=["webhooks"],
        summary="Deliver again: one delivery, or those given up since a moment, at most 1,000 in one call.",
        request=WebhookRedeliveryRequest,
        responses={
            202: WebhookRedeliveryResponse,
            **REFUSED,
            404: problem("There is no such endpoint (R901) or delivery (R906), or it is not yours."),
            409: DISABLED,
            422: MALFORMED,
        },
    )
    def post(self, request: Request, endpoint_id: UUID) -> Response:
        caller = require_scope(request, WRITE)
        values = _values(WebhookRedeliveryRequest(data=request.data))
        count = _redeliver(caller, endpoint_id, values)
        return Response({"count": count}, status=202, headers=NO_STORE)


def _redeliver(caller: Caller, endpoint_id: UUID, values: dict[str, Any]) -> int:
    mine: dict[str, Any] = {"account_id": caller.account_id, "endpoint_id": endpoint_id, "now": timezone.now()}
    if "delivery_id" in values:
        return redelivery.redeliver_one(delivery_id=values["delivery_id"], **mine)
    return redelivery.redeliver_failed(since=values["failed_since"], **mine)

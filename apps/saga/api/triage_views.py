"""Triage over HTTP. Scopes: sagas:read, sagas:operate."""

import json
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, PolymorphicProxySerializer, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.common.errors import InvalidRequest
from apps.common.pagination import decode_id_cursor, decode_moment_cursor, encode_cursor, page_rows
from apps.idempotency import public as idempotency
from apps.identity.public import require_scope
from apps.saga import bulk, incidents, selection
from apps.saga.api import triage_serializers as serializers
from apps.saga.api.views import CHANGE_REFUSED, READ, REFUSED, operator, read
from apps.saga.asking import Repeatable, request_once
from apps.saga.bulk_state import ActionState, action_items, action_state, latest_actions
from apps.saga.filters import Filter, condition
from apps.saga.incidents import IncidentQuestion, IncidentState
from apps.saga.selection import Selection, UnknownIncident
from apps.saga.triage import Action, Wanted, wanted

TREND_BUCKETS = 24  # of five minutes
ACTIONS_TOLD = 10
OUTCOMES_MAX = 500
ROUTE = "POST /sagas/actions"
_CURSOR = OpenApiParameter("cursor", str, description="next_cursor of the page before.")


def _limit(what: str) -> OpenApiParameter:
    return OpenApiParameter("limit", int, description=f"{what} on a page; 50 when absent.")


# --- Incidents ----------------------------------------------------------------------------------------------------------
class IncidentsView(APIView):
    """Incidents."""

    @extend_schema(
        operation_id="saga_incidents",
        summary="What broke",
        parameters=[
            OpenApiParameter("status", str, enum=["open", "handled", "all"], description="open when absent."),
            OpenApiParameter("use_case", str),
            OpenApiParameter("step", str),
            OpenApiParameter("error_code", str),
            OpenApiParameter("owner", str, description="Who sees to it; given and empty: nobody does."),
            OpenApiParameter("silenced", bool),
            _CURSOR,
            _limit(f"Incidents, 1 to {incidents.LIMIT_MAX},"),
        ],
        responses={200: serializers.IncidentsSerializer, **REFUSED},
    )
    def get(self, request: Request) -> Response:
        """Errors by use case, step and code, those seen last first, with the runs and the money that they affect now."""
        require_scope(request, READ)
        limit = min(page_rows(request.query_params.get("limit")), incidents.LIMIT_MAX)
        found = incidents.incidents(_question(request), limit=limit, after=_after(request))
        total = found[0].total if found else 0
        more = len(found) == limit
        last = encode_cursor(found[-1].last_seen.isoformat(), str(found[-1].id)) if more else None
        told = {"incidents": found, "next_cursor": last, "total": total}
        return Response(serializers.IncidentsSerializer(told).data)


def _question(request: Request) -> IncidentQuestion:
    words = {"open": "OPEN", "handled": "HANDLED", "all": ""}
    given = {name: request.query_params.get(name, "") for name in ("use_case", "step", "error_code")}
    which = request.query_params.get("status", "open")
    if which not in words:
        raise InvalidRequest("status is open, handled or all.", field="status")
    owner = request.query_params.get("owner")
    for name, value in (*given.items(), ("owner", owner or "")):
        if "\x00" in value:
            raise InvalidRequest(f"{name} holds a character that no text has.", field=name)
    silenced = request.query_params.get("silenced", "")
    if silenced not in ("", "true", "false"):
        raise InvalidRequest("silenced is true or false.", field="silenced")
    return IncidentQuestion(
        status=words[which],
        use_case=given["use_case"],
        step=given["step"],
        error_code=given["error_code"],
        owner=owner,
        silenced=silenced == "true" if silenced else None,
        now=timezone.now(),
    )


def _after(request: Request) -> tuple[datetime, UUID] | None:
    cursor = request.query_params.get("cursor")
    return decode_moment_cursor(cursor) if cursor is not None else None


class IncidentView(APIView):
    """One incident."""

    @extend_schema(
        operation_id="saga_incident",
        summary="An incident",
        responses={200: serializers.IncidentDetailSerializer, **REFUSED},
    )
    def get(self, request: Request, incident_id: UUID) -> Response:
        """An incident with its trend, and the actions that were asked for on it. Its runs: GET /sagas."""
        require_scope(request, READ)
        found: IncidentState | None = incidents.incident(incident_id)
        if found is None:
            raise UnknownIncident
        trend = incidents.trends([incident_id], buckets=TREND_BUCKETS, now=timezone.now())[incident_id]
        actions = latest_actions(limit=ACTIONS_TOLD, incident_id=incident_id)
        told = {**asdict(found), "runs_is_exact": found.runs_is_exact, "trend": trend, "actions": actions}
        return Response(serializers.IncidentDetailSerializer(told).data)


# --- Actions ------------------------------------------------------------------------------------------------------------
class ActionsView(APIView):
    """Do something about runs."""

    @extend_schema(
        operation_id="saga_act",
        summary="Retry, compensate, skip or close runs",
        request=serializers.ActionRequestSerializer,
        parameters=[
            OpenApiParameter("Idempotency-Key", str, OpenApiParameter.HEADER, description="One key, one action."),
        ],
        responses={
            200: PolymorphicProxySerializer(
                component_name="ActionOrPreview",
                serializers=[serializers.ActionSerializer, serializers.PreviewSerializer],
                resource_type_field_name=None,
            ),
            202: serializers.ActionSerializer,
            **CHANGE_REFUSED,
        },
    )
    def post(self, request: Request) -> Response:
        """Do it to one run, to the runs of an incident, or to those of a filter; each is settled for itself.

        With dry_run nothing is changed: 200 tells what would become of each run. Few runs are settled before the answer
        (200); many go on in the background, and an action that needs a second person waits for approval (202): see
        GET /sagas/actions/{id}.
        """
        by = operator(request)
        values = read(request, serializers.ActionRequestSerializer)
        now = timezone.now()
        which, what = _selection(values, now=now), _wanted(values)
        more = {"expected": values["expected"], "runs_max": values["runs_max"]}
        if values["dry_run"]:
            return _preview(what.action, selection.preview(which, what, now=now, **more))
        more |= {"reason": values["reason"], "by": by}
        key = request.headers.get("Idempotency-Key")
        if key is None:
            return _carried_out(bulk.request(which, what, now=now, **more), now=now)
        once = Repeatable(account_id=by.removeprefix("account:"), key=key, route=ROUTE, body=request.data)
        asked = request_once(which, what, once=once, tell=_told, now=now, **more)
        if isinstance(asked, idempotency.Replay):
            return Response(asked.body, status=asked.status, headers=asked.headers)
        answer = _carried_out(asked.action_id, now=now)
        idempotency.complete(asked.begun, status=answer.status_code, body=answer.data, headers={}, now=timezone.now())
        return answer


def _carried_out(action_id: UUID, *, now: datetime) -> Response:
    """Few runs are settled before the answer."""
    if action_state(action_id).runs <= bulk.INLINE_RUNS:
        bulk.work(action_id, now=now)
    state = action_state(action_id)
    return Response(_told(state), status=status.HTTP_202_ACCEPTED if state.live else status.HTTP_200_OK)


def _told(state: ActionState) -> Any:
    return json.loads(json.dumps(serializers.ActionSerializer(state).data, default=str))


def _preview(action: Action, dry: selection.Preview) -> Response:
    told = {
        "action": action,
        "told": dry.told,
        "runs": len(dry.outcomes),
        "amount": dry.amount,
        "needs_approval": dry.needs_approval,
        "sums": dry.sums,
        "outcomes": dry.outcomes[:OUTCOMES_MAX],
    }
    return Response(serializers.PreviewSerializer(told).data)


def _wanted(values: dict[str, Any]) -> Wanted:
    return wanted(Action(values["action"]), patch=values["input"], output=values["output"])


def _selection(values: dict[str, Any], *, now: datetime) -> Selection:
    given = values["filter"]
    return Selection(
        run_ids=tuple(values["run_ids"]),
        incident_id=values["incident_id"],
        filter=_filter(given, now=now) if given is not None else None,
    )


def _filter(given: dict[str, Any], *, now: datetime) -> Filter:
    before, older = given["started_before"], given["older_than_s"]
    if older is not None:
        latest = now - timedelta(seconds=older)
        before = min(before, latest) if before is not None else latest
    return Filter(
        use_case=given["use_case"],
        version=given["version"],
        state=given["state"],
        statuses=tuple(given["status"]),
        step=given["step"],
        error_code=given["error_code"],
        waiting_for=given["waiting_for"],
        started_from=given["started_from"],
        started_before=before,
        conditions=tuple(condition(text, use_case=given["use_case"]) for text in given["attributes"]),
    )


class ActionView(APIView):
    """One action."""

    @extend_schema(
        operation_id="saga_action",
        summary="How far an action is",
        parameters=[
            OpenApiParameter("status", str, enum=["PENDING", "DONE", "REFUSED", "FAILED", "CANCELLED"]),
            _CURSOR,
            _limit("Runs, 1 to 500,"),
        ],
        responses={200: serializers.ActionPageSerializer, **REFUSED},
    )
    def get(self, request: Request, action_id: UUID) -> Response:
        """How many of its runs are settled in which way, and what became of each, in pages."""
        require_scope(request, READ)
        state = action_state(action_id)
        cursor = request.query_params.get("cursor")
        items, after = action_items(
            action_id,
            limit=page_rows(request.query_params.get("limit")),
            after=decode_id_cursor(cursor) if cursor is not None else None,
            status=_item_status(request),
        )
        told = {**asdict(state), "items": items, "next_cursor": encode_cursor(str(after)) if after else None}
        return Response(serializers.ActionPageSerializer(told).data)


def _item_status(request: Request) -> str:
    wanted_status = request.query_params.get("status", "")
    if wanted_status not in ("", "PENDING", "DONE", "REFUSED", "FAILED", "CANCELLED"):
        raise InvalidRequest("status is PENDING, DONE, REFUSED, FAILED or CANCELLED.", field="status")
    return wanted_status


class ApproveActionView(APIView):
    """Approve an action."""

    @extend_schema(
        operation_id="saga_approve_action",
        summary="Approve an action of somebody else",
        request=None,
        responses={200: serializers.ActionSerializer, 202: serializers.ActionSerializer, **CHANGE_REFUSED},
    )
    def post(self, request: Request, action_id: UUID) -> Response:
        """Let an action begin that waits for a second person. Whoever asked for it is refused (R552)."""
        by, now = operator(request), timezone.now()
        bulk.approve(action_id, by=by, now=now)
        return _carried_out(action_id, now=now)


class CancelActionView(APIView):
    """Cancel an action."""

    @extend_schema(
        operation_id="saga_cancel_action",
        summary="Stop an action",
        request=serializers.CancelActionSerializer,
        responses={200: serializers.ActionSerializer, **CHANGE_REFUSED},
    )
    def post(self, request: Request, action_id: UUID) -> Response:
        """Leave the runs as they are that are not settled yet; what was done stays done. Also refuses an approval."""
        by = operator(request)
        values = read(request, serializers.CancelActionSerializer)
        bulk.cancel(action_id, reason=values["reason"], by=by, now=timezone.now())
        return Response(serializers.ActionSerializer(action_state(action_id)).data)

"""Approvals over HTTP: those that wait, and deciding one. Scopes: sagas:read, sagas:operate."""

from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.common.errors import InvalidRequest, NotFound
from apps.common.pagination import page_rows
from apps.common.problems import ProblemSerializer
from apps.identity.public import require_scope
from apps.saga import deciding
from apps.saga.api.serializers import ReasonSerializer, Shape

READ, OPERATE = "sagas:read", "sagas:operate"
STATES = ("open", "all")
_REFUSED = dict.fromkeys((401, 403, 404, 422), ProblemSerializer)


class DecisionSerializer(ReasonSerializer):
    """Approve or refuse, and why."""

    approve = serializers.BooleanField(help_text="False refuses: what the run has done is undone.")


class ApprovalSerializer(Shape):
    """A step of a run that waits, or waited, for a person."""

    id = serializers.UUIDField()
    run_id = serializers.UUIDField()
    use_case = serializers.CharField()
    step = serializers.CharField()
    business_key = serializers.CharField()
    question = serializers.CharField()
    facts = serializers.DictField(child=serializers.CharField())
    status = serializers.ChoiceField(choices=["OPEN", "APPROVED", "REFUSED", "EXPIRED", "CLOSED"])
    who = serializers.ListField(child=serializers.CharField(), help_text="Who decides now: group:…, permission:…, scope:…")
    delegated = serializers.BooleanField(help_text="The first ones did not decide in time.")
    asked_by = serializers.CharField(help_text="Who wants it, and so does not decide it; empty when nobody is named.")
    asked_at = serializers.DateTimeField()
    until = serializers.DateTimeField()
    decided_at = serializers.DateTimeField(allow_null=True)
    decided_by = serializers.CharField()
    reason = serializers.CharField()


class ApprovalsSerializer(Shape):
    """A page of approvals, the newest first."""

    approvals = ApprovalSerializer(source="rows", many=True)
    next_cursor = serializers.CharField(allow_null=True)
    total = serializers.IntegerField(help_text="Of the whole question; exact up to 10,000.")
    total_is_exact = serializers.BooleanField()


class ApprovalsView(APIView):
    """Approvals."""

    @extend_schema(
        operation_id="saga_approvals",
        summary="What waits for a person's decision",
        parameters=[
            OpenApiParameter("use_case", str, description="Of one use case."),
            OpenApiParameter("state", str, enum=STATES, description="open (the default), or all."),
            OpenApiParameter("cursor", str, description="next_cursor of the page before."),
            OpenApiParameter("limit", int, description="Approvals on a page, 1 to 500; 50 when absent."),
        ],
        responses={200: ApprovalsSerializer, **_REFUSED},
    )
    def get(self, request: Request) -> Response:
        """The newest first, in pages, with a total that is exact up to 10,000."""
        require_scope(request, READ)
        state = request.query_params.get("state", "open")
        if state not in STATES:
            raise InvalidRequest(f"A state is one of {', '.join(STATES)}.", field="state")
        use_case = request.query_params.get("use_case", "")
        if "\x00" in use_case:
            raise InvalidRequest("use_case holds a character that no text has.", field="use_case")
        page = deciding.find_approvals(
            limit=page_rows(request.query_params.get("limit")),
            cursor=request.query_params.get("cursor"),
            use_case=use_case,
            open_only=state == "open",
        )
        return Response(ApprovalsSerializer(page).data)


class ApprovalView(APIView):
    """One approval."""

    @extend_schema(operation_id="saga_approval", summary="An approval", responses={200: ApprovalSerializer, **_REFUSED})
    def get(self, request: Request, approval_id: UUID) -> Response:
        """The question, its facts, and what was decided."""
        require_scope(request, READ)
        found = deciding.approval(approval_id)
        if found is None:
            raise NotFound("There is no such approval.")
        return Response(ApprovalSerializer(found).data)

    @extend_schema(
        operation_id="saga_decide",
        summary="Approve or refuse",
        request=DecisionSerializer,
        responses={200: ApprovalSerializer, **_REFUSED, 409: ProblemSerializer},
    )
    def post(self, request: Request, approval_id: UUID) -> Response:
        """Decide, if the step lets a scope of this account decide it: the run goes on, or is undone. Decided once."""
        caller = require_scope(request, OPERATE)
        if not isinstance(request.data, dict):
            raise InvalidRequest("The body is not an object.")
        serializer = DecisionSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        values: dict[str, Any] = serializer.validated_data
        by = deciding.Decider(f"account:{caller.account_id}", frozenset(f"scope:{scope}" for scope in caller.scopes))
        found = deciding.decide(approval_id, approve=values["approve"], by=by, reason=values["reason"], now=timezone.now())
        return Response(ApprovalSerializer(found).data)

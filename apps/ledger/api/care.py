"""Suspending posting over HTTP. Scope: ledger:admin."""

from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.common.errors import InvalidRequest
from apps.common.money import CURRENCY
from apps.common.problems import ProblemSerializer
from apps.identity.public import require_scope
from apps.ledger import public

ADMIN = "ledger:admin"
MODES = [("WAIT", "Wait"), ("REFUSE", "Refuse")]
_REFUSED = {401: ProblemSerializer, 403: ProblemSerializer, 404: ProblemSerializer, 422: ProblemSerializer}


class SuspensionRequestSerializer(serializers.Serializer[Any]):
    """Without branch: the whole ledger; without account: the whole branch."""

    branch = serializers.CharField(required=False, max_length=40)
    account = serializers.CharField(required=False, max_length=40)
    currency = serializers.CharField(required=False, default=CURRENCY, max_length=3)
    mode = serializers.ChoiceField(MODES, help_text="WAIT: writers wait a few seconds before they are refused.")
    reason = serializers.CharField(max_length=500)
    until = serializers.DateTimeField(required=False, default=None, allow_null=True, help_text="In an hour when absent.")


class SuspensionSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    branch = serializers.CharField(allow_null=True)
    account = serializers.CharField(allow_null=True)
    currency = serializers.CharField(allow_null=True)
    mode = serializers.ChoiceField(MODES)
    reason = serializers.CharField()
    suspendedby = serializers.CharField(source="suspended_by")
    since = serializers.DateTimeField()
    until = serializers.DateTimeField()
    liftedat = serializers.DateTimeField(source="lifted_at", allow_null=True)
    liftedby = serializers.CharField(source="lifted_by")


class SuspensionsSerializer(serializers.Serializer[Any]):
    suspensions = SuspensionSerializer(many=True)


class SuspensionsView(APIView):
    """Suspensions of posting."""

    @extend_schema(
        operation_id="ledger_suspended", summary="What is suspended", responses={200: SuspensionsSerializer, **_REFUSED}
    )
    def get(self, request: Request) -> Response:
        """The suspensions that hold now, oldest first."""
        require_scope(request, ADMIN)
        found = public.suspended(now=timezone.now())
        return Response(SuspensionsSerializer({"suspensions": found}).data)

    @extend_schema(
        operation_id="ledger_suspend",
        summary="Suspend posting",
        request=SuspensionRequestSerializer,
        responses={201: SuspensionSerializer, 409: ProblemSerializer, **_REFUSED},
    )
    def post(self, request: Request) -> Response:
        """Suspend posting. When this is answered, nobody is posting there any more. Each call is one more suspension."""
        caller = require_scope(request, ADMIN)
        asked = SuspensionRequestSerializer().run_validation(request.data)
        branch, account = asked.get("branch"), asked.get("account")
        if account and not branch:
            raise InvalidRequest("An account is named with its branch.", field="branch")
        with transaction.atomic(durable=True):
            view = public.suspend(
                mode=asked["mode"],
                reason=asked["reason"],
                by=caller.account_id,
                branch=branch,
                account=public.AccountRef(branch, account, asked["currency"]) if account else None,
                until=asked["until"],
                now=timezone.now(),
            )
        return Response(SuspensionSerializer(view).data, status=201)


class SuspensionView(APIView):
    """One suspension."""

    @extend_schema(
        operation_id="ledger_resume", summary="Lift a suspension", responses={200: SuspensionSerializer, **_REFUSED}
    )
    def delete(self, request: Request, suspension_id: UUID) -> Response:
        """Lift it: who waits goes on. Safe to repeat."""
        caller = require_scope(request, ADMIN)
        with transaction.atomic(durable=True):
            view = public.resume(suspension_id=suspension_id, by=caller.account_id, now=timezone.now())
        return Response(SuspensionSerializer(view).data)

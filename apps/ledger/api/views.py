"""The ledger over HTTP. Scopes: ledger:read, ledger:post."""

from datetime import date
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, PolymorphicProxySerializer, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.common.clock import business_date
from apps.common.errors import InvalidRequest, NotFound
from apps.common.money import CURRENCY
from apps.common.pagination import page_rows
from apps.common.problems import ProblemSerializer
from apps.identity.public import require_scope
from apps.ledger import public
from apps.ledger.api import serializers

READ, POST = "ledger:read", "ledger:post"
_CURRENCY = OpenApiParameter("currency", str, description="ISO 4217; BRL when absent.")
_REFUSED = {401: ProblemSerializer, 403: ProblemSerializer, 404: ProblemSerializer, 422: ProblemSerializer}


def _account(request: Request, branch: str, account: str) -> public.AccountRef:
    return public.AccountRef(branch, account, request.query_params.get("currency", CURRENCY))


def _day(request: Request, name: str) -> date | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{name} is a date such as 2025-01-31.", field=name) from None


class BalanceView(APIView):
    """An account's balance."""

    @extend_schema(
        operation_id="ledger_balance",
        parameters=[OpenApiParameter("date", date, description="Absent: now, with what is held."), _CURRENCY],
        responses={
            200: PolymorphicProxySerializer(
                component_name="LedgerBalance",
                serializers=[serializers.BalanceSerializer, serializers.DayBalanceSerializer],
                resource_type_field_name=None,
            ),
            **_REFUSED,
        },
    )
    def get(self, request: Request, branch: str, account: str) -> Response:
        """The balance now (posted, pending, available), or at the end of a day."""
        require_scope(request, READ)
        ref, day = _account(request, branch, account), _day(request, "date")
        if day is None:
            return Response(serializers.BalanceSerializer(public.balance(ref)).data)
        return Response(serializers.DayBalanceSerializer(public.balance_on(ref, day)).data)


class StatementView(APIView):
    """An account's statement."""

    @extend_schema(
        operation_id="ledger_statement",
        parameters=[
            OpenApiParameter("from", date, description="First day; absent: the first of to's month."),
            OpenApiParameter("to", date, description="Last day; absent: today in São Paulo."),
            OpenApiParameter("cursor", str, description="next_cursor of the page before."),
            OpenApiParameter("limit", int, description="Lines on a page, 1 to 500; 50 when absent."),
            _CURRENCY,
        ],
        responses={200: serializers.StatementSerializer, **_REFUSED},
    )
    def get(self, request: Request, branch: str, account: str) -> Response:
        """Opening balance, lines with the balance after each, closing balance; oldest first, in pages."""
        require_scope(request, READ)
        date_to = _day(request, "to") or business_date(timezone.now())
        found = public.statement(
            _account(request, branch, account),
            date_from=_day(request, "from") or date_to.replace(day=1),
            date_to=date_to,
            cursor=request.query_params.get("cursor"),
            limit=page_rows(request.query_params.get("limit")),
        )
        return Response(serializers.StatementSerializer(found).data)


class PostingView(APIView):
    """Postings."""

    @extend_schema(
        operation_id="ledger_post",
        request=PolymorphicProxySerializer(
            component_name="LedgerPosting",
            serializers=[serializers.LineRequestSerializer, serializers.EntryRequestSerializer],
            resource_type_field_name=None,
        ),
        responses={
            201: serializers.PostResultSerializer,
            200: serializers.PostResultSerializer,
            409: ProblemSerializer,
            **_REFUSED,
        },
    )
    def post(self, request: Request) -> Response:
        """Post one line, or several legs whose debits equal their credits. 200: it had been posted before."""
        require_scope(request, POST)
        entry = serializers.read_entry(request.data)
        with transaction.atomic(durable=True):
            posting = public.post(entry, now=timezone.now())
        return Response(serializers.PostResultSerializer(posting).data, status=200 if posting.replayed else 201)


class TransactionView(APIView):
    """Posted lines."""

    @extend_schema(operation_id="ledger_transaction", responses={200: serializers.TransactionsSerializer, **_REFUSED})
    def get(self, request: Request, key: UUID) -> Response:
        """The line with this id, or all lines of the entry with this tracekey."""
        require_scope(request, READ)
        line = public.transaction_by_id(key)
        lines = (line,) if line else public.transactions_by_tracekey(key)
        if not lines:
            raise NotFound("There is no transaction with this id or tracekey.")
        return Response(serializers.TransactionsSerializer({"transactions": lines}).data)

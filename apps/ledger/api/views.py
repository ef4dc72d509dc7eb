"""The ledger over HTTP. Scopes: ledger:read, ledger:post."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from uuid import UUID

from django.db import transaction
from django.urls import reverse
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, PolymorphicProxySerializer, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.common.clock import business_date
from apps.common.errors import DomainError, InvalidRequest, NotFound
from apps.common.money import CURRENCY
from apps.common.pagination import page_rows
from apps.common.problems import ProblemSerializer
from apps.identity.public import require_scope
from apps.ledger import public
from apps.ledger.api import serializers

READ, POST = "ledger:read", "ledger:post"
TRACEKEYS_MAX = 100  # in one address: 4.6 KB, and servers take 8
_PREFER = OpenApiParameter(
    "Prefer",
    str,
    OpenApiParameter.HEADER,
    description="respond-async: queue it and answer 202. The result is published, and found by its tracekey.",
)
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
        responses={200: serializers.StatementSerializer, 409: ProblemSerializer, **_REFUSED},
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


def _wants_the_queue(request: Request) -> bool:
    """RFC 7240. Preferences that we do not know are ignored."""
    return "respond-async" in {word.strip().lower() for word in request.headers.get("Prefer", "").split(",")}


def _queue(entries: Sequence[public.Entry], *, location: str | None = None) -> Response:
    with transaction.atomic(durable=True):
        public.request_postings(entries)
    headers = {"Preference-Applied": "respond-async", **({"Location": location} if location else {})}
    accepted = serializers.PostingsAcceptedSerializer({"tracekeys": [entry.tracekey for entry in entries]})
    return Response(accepted.data, status=202, headers=headers)


class PostingView(APIView):
    """Postings."""

    @extend_schema(
        operation_id="ledger_outcomes",
        parameters=[
            OpenApiParameter("tracekey", UUID, required=True, many=True, description=f"1 to {TRACEKEYS_MAX} of them.")
        ],
        responses={200: serializers.PostingOutcomesSerializer, **_REFUSED},
    )
    def get(self, request: Request) -> Response:
        """What became of entries, by tracekey: posted, refused by the queue, or neither so far."""
        require_scope(request, READ)
        found = public.outcomes(_tracekeys(request))
        return Response(serializers.PostingOutcomesSerializer({"results": found}).data)

    @extend_schema(
        operation_id="ledger_post",
        request=serializers.either_entry(),
        parameters=[_PREFER],
        responses={
            201: serializers.PostResultSerializer,
            200: serializers.PostResultSerializer,
            202: serializers.PostingsAcceptedSerializer,
            409: ProblemSerializer,
            **_REFUSED,
        },
    )
    def post(self, request: Request) -> Response:
        """Post one line, or several legs whose debits equal their credits. 200: it had been posted before. 202: queued."""
        require_scope(request, POST)
        entry = serializers.EntryReader().read(request.data)
        if _wants_the_queue(request):
            public.check_form(entry)
            return _queue([entry], location=f"{reverse('ledger-post')}?tracekey={entry.tracekey}")
        posting = public.post_alone(entry, now=timezone.now())
        return Response(serializers.PostResultSerializer(posting).data, status=200 if posting.replayed else 201)


def _tracekeys(request: Request) -> list[UUID]:
    texts = request.query_params.getlist("tracekey")
    if not 1 <= len(texts) <= TRACEKEYS_MAX:
        raise InvalidRequest(f"Give 1 to {TRACEKEYS_MAX} tracekeys.", field="tracekey")
    try:
        return [UUID(text) for text in texts]
    except ValueError:
        raise InvalidRequest("A tracekey is a UUID.", field="tracekey") from None


class BatchView(APIView):
    """Many postings."""

    @extend_schema(
        operation_id="ledger_post_batch",
        request=serializers.PostingBatchRequestSerializer,
        parameters=[_PREFER],
        responses={200: serializers.PostingOutcomesSerializer, 202: serializers.PostingsAcceptedSerializer, **_REFUSED},
    )
    def post(self, request: Request) -> Response:
        """Post many entries, each all or nothing; one result per entry, in order. 202: queued.

        An entry that is malformed refuses the request as a whole, and nothing is posted.
        """
        caller = require_scope(request, POST)
        entries = serializers.read_batch(request.data)
        options = serializers.BatchOptionsSerializer().run_validation(request.data)
        if _wants_the_queue(request):
            if options["key"] is not None or options["dry_run"]:
                raise InvalidRequest("key and dry_run are for postings that are answered at once.", field="key")
            for index, entry in enumerate(entries):
                with _naming(index):
                    public.check_form(entry)
            return _queue(entries)
        with transaction.atomic(durable=True):
            results = public.post_batch(
                entries, now=timezone.now(), key=_batch_key(caller.account_id, options["key"]), dry_run=options["dry_run"]
            )
            _refuse_malformed(results)  # rolls back
        outcomes = [serializers.outcome_of(result) for result in results]
        return Response(serializers.PostingOutcomesSerializer({"results": outcomes}).data)


def _batch_key(account_id: str, key: str | None) -> str | None:
    """Everybody has keys of their own."""
    return None if key is None else f"{account_id}/{key}"


@contextmanager
def _naming(index: int) -> Iterator[None]:
    """Say which entry of the batch a refusal means."""
    try:
        yield
    except DomainError as refusal:
        at = f"transactions[{index}]"
        field = f"{at}.{refusal.field}" if refusal.field else at
        raise type(refusal)(f"{at}: {refusal.detail}", field=field) from None


def _refuse_malformed(results: Sequence[public.EntryResult]) -> None:
    for index, result in enumerate(results):
        if result.refusal is not None and result.refusal.status == 422:
            with _naming(index):
                raise result.refusal


class TransactionView(APIView):
    """Posted lines."""

    @extend_schema(
        operation_id="ledger_transaction",
        responses={200: serializers.TransactionsSerializer, 409: ProblemSerializer, **_REFUSED},
    )
    def get(self, request: Request, key: UUID) -> Response:
        """The line with this id, or all lines of the entry with this tracekey."""
        require_scope(request, READ)
        line = public.transaction_by_id(key)
        lines = (line,) if line else public.transactions_by_tracekey(key)
        if not lines:
            public.check_line(key)
            raise NotFound("There is no transaction with this id or tracekey.")
        return Response(serializers.TransactionsSerializer({"transactions": lines}).data)

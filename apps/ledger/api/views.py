"""The ledger over HTTP. Scopes: ledger:read, ledger:post."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from uuid import UUID

from django.db import transaction
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, PolymorphicProxySerializer, extend_schema
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.common import parameters
from apps.common.clock import business_date
from apps.common.errors import DomainError, InvalidRequest, NotFound
from apps.common.money import CURRENCY
from apps.common.pagination import page_rows
from apps.common.problems import ProblemSerializer
from apps.identity.public import require_scope
from apps.ledger import logbook, public
from apps.ledger.api import downloads, serializers
from apps.ledger.api.freshness import QUESTION, WRITE, ask_for, tell, tell_written
from apps.observability import ids

READ, POST = "ledger:read", "ledger:post"
TRACEKEYS_MAX = 100  # in one address: 4.6 KB, and servers take 8
_PREFER = OpenApiParameter(
    "Prefer",
    str,
    OpenApiParameter.HEADER,
    description="respond-async: queue it and answer 202. The result is published, and found by its tracekey.",
)
_CURRENCY = OpenApiParameter("currency", str, description="ISO 4217; BRL when absent.")
_PERIOD = (
    OpenApiParameter("from", date, description="First day; absent: the first of to's month."),
    OpenApiParameter("to", date, description="Last day; absent: today in São Paulo."),
)
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


def _period(request: Request) -> tuple[date, date]:
    date_to = _day(request, "to") or business_date(timezone.now())
    return _day(request, "from") or date_to.replace(day=1), date_to


class BalanceView(APIView):
    """An account's balance."""

    @extend_schema(
        operation_id="ledger_balance",
        summary="The balance of an account",
        parameters=[
            OpenApiParameter("date", date, description="At the end of this day. Absent: now, with what is held."),
            OpenApiParameter(
                "as_of",
                datetime,
                description="As the ledger knew it at this moment: lines posted later are left out, also those that "
                "are dated earlier. With date: of what it knew, up to the end of that day.",
            ),
            _CURRENCY,
            *QUESTION,
        ],
        responses={
            200: PolymorphicProxySerializer(
                component_name="LedgerBalance",
                serializers=[
                    serializers.BalanceSerializer,
                    serializers.DayBalanceSerializer,
                    serializers.MomentBalanceSerializer,
                ],
                resource_type_field_name=None,
            ),
            409: ProblemSerializer,
            **_REFUSED,
        },
    )
    def get(self, request: Request, branch: str, account: str) -> Response:
        """The balance now (posted, pending, available), at the end of a day, or as it was known at a moment."""
        require_scope(request, READ)
        ref, day, moment = _account(request, branch, account), _day(request, "date"), parameters.moment(request, "as_of")
        if moment is not None:
            now = timezone.now()
            known = ask_for(request, lambda: public.balance_as_of(ref, moment, day=day, now=now))
            return tell(Response(serializers.MomentBalanceSerializer(known.value).data), known)
        if day is None:
            today = ask_for(request, lambda: public.balance(ref))
            return tell(Response(serializers.BalanceSerializer(today.value).data), today)
        found = ask_for(request, lambda: public.balance_on(ref, day))
        return tell(Response(serializers.DayBalanceSerializer(found.value).data), found)


class TotalsView(APIView):
    """Totals by event."""

    @extend_schema(
        operation_id="ledger_totals",
        summary="Totals by event",
        parameters=[
            OpenApiParameter("branch", str, description="Absent: all branches."),
            OpenApiParameter("account", str, description="Of that branch; absent: all of them."),
            *_PERIOD,
            _CURRENCY,
            *QUESTION,
        ],
        responses={200: serializers.EventTotalsSerializer, 409: ProblemSerializer, **_REFUSED},
    )
    def get(self, request: Request) -> Response:
        """How often each event was posted and how much, on either side, in at most 366 days."""
        require_scope(request, READ)
        date_from, date_to = _period(request)
        scope = {
            name: request.query_params[name] for name in ("branch", "account", "currency") if name in request.query_params
        }
        found = ask_for(request, lambda: public.totals_by_event(date_from=date_from, date_to=date_to, **scope))
        return tell(Response(serializers.EventTotalsSerializer(found.value).data), found)


class StatementView(APIView):
    """An account's statement."""

    renderer_classes = (JSONRenderer, downloads.CsvRenderer, downloads.OfxRenderer)
    content_negotiation_class = downloads.Negotiation

    @extend_schema(
        operation_id="ledger_statement",
        summary="The statement of an account",
        parameters=[
            *_PERIOD,
            OpenApiParameter("cursor", str, description="next_cursor of the page before; JSON only."),
            OpenApiParameter("limit", int, description="Lines on a page, 1 to 500; 50 when absent; JSON only."),
            _CURRENCY,
            *QUESTION,
        ],
        responses={
            (200, "application/json"): serializers.StatementSerializer,
            (200, "text/csv"): OpenApiTypes.STR,
            (200, "application/x-ofx"): OpenApiTypes.STR,
            **{(status, "application/json"): ProblemSerializer for status in (401, 403, 404, 406, 409, 422)},
        },
    )
    def get(self, request: Request, branch: str, account: str) -> HttpResponseBase:
        """Opening balance, lines with the balance after each, closing balance; oldest first.

        JSON in pages; as CSV or OFX (`?format=` or `Accept`) the whole period as one file of at most 500,000 lines, which
        is what the ledger held when it was asked for, whatever is posted while it is sent.

        CSV: RFC 4180, UTF-8, decimal point. Its header is
        `id,dateref,debitcredit,amount,eventcode,description,tracekey,createdat,running`; an apostrophe stands before what a
        spreadsheet would take for a formula. OFX: a bank statement of version 2.1.1; FITID is the line's id, REFNUM its
        tracekey, LEDGERBAL the closing balance.
        """
        require_scope(request, READ)
        date_from, date_to = _period(request)
        ref = _account(request, branch, account)
        kind = request.accepted_renderer.format
        if kind != "json":
            now = timezone.now()
            file = ask_for(
                request,
                lambda: public.export_statement(ref, date_from=date_from, date_to=date_to, format=kind, now=now),
            )
            return tell(downloads.send(file.value), file)
        cursor, limit = request.query_params.get("cursor"), page_rows(request.query_params.get("limit"))
        found = ask_for(
            request, lambda: public.statement(ref, date_from=date_from, date_to=date_to, cursor=cursor, limit=limit)
        )
        return tell(Response(serializers.StatementSerializer(found.value).data), found)


def _wants_the_queue(request: Request) -> bool:
    """RFC 7240. Preferences that we do not know are ignored."""
    return "respond-async" in {word.strip().lower() for word in request.headers.get("Prefer", "").split(",")}


def _queue(entries: Sequence[public.Entry], *, location: str | None = None) -> Response:
    with transaction.atomic(durable=True):
        public.request_postings(entries)
    logbook.tell_queued(entries)
    headers = {"Preference-Applied": "respond-async", **({"Location": location} if location else {})}
    accepted = serializers.PostingsAcceptedSerializer({"tracekeys": [entry.tracekey for entry in entries]})
    return Response(accepted.data, status=202, headers=headers)


class PostingView(APIView):
    """Postings."""

    @extend_schema(
        operation_id="ledger_outcomes",
        summary="What became of tracekeys",
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
        summary="Post a line or an entry",
        request=serializers.either_entry(),
        parameters=[_PREFER, WRITE],
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
        posting = _post_alone(entry)
        answer = serializers.PostResultSerializer(posting).data
        return tell_written(Response(answer, status=200 if posting.replayed else 201))


def _post_alone(entry: public.Entry) -> public.PostResult:
    try:
        # Whatever is logged below stands under the tracekey, too.
        with ids.bound(tracekey=str(entry.tracekey)):
            posting = public.post_alone(entry, now=timezone.now())
    except DomainError as refusal:
        logbook.tell_refused(entry, refusal)
        raise
    logbook.tell_posted(posting)
    return posting


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
        summary="Post many entries",
        request=serializers.PostingBatchRequestSerializer,
        parameters=[_PREFER, WRITE],
        responses={
            200: serializers.PostingOutcomesSerializer,
            202: serializers.PostingsAcceptedSerializer,
            409: ProblemSerializer,
            413: ProblemSerializer,
            **_REFUSED,
        },
    )
    def post(self, request: Request) -> Response:
        """Post up to 10,000 lines (8 MiB), each entry all or nothing; one result per entry, in order. 202: queued.

        An entry that is malformed refuses the request as a whole, and nothing is posted. So does a key that was used for
        another batch.

        A key is remembered for 30 days, or as the server is set (LEDGER_BATCH_KEYS_DAYS). A repeat after that posts nothing
        twice, for tracekeys are remembered for ever; but what was refused may then be posted.
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
        if not options["dry_run"]:
            logbook.tell_results(results)
        outcomes = [serializers.outcome_of(result) for result in results]
        return tell_written(Response(serializers.PostingOutcomesSerializer({"results": outcomes}).data))


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
        summary="One transaction",
        parameters=[*QUESTION],
        responses={200: serializers.TransactionsSerializer, 409: ProblemSerializer, **_REFUSED},
    )
    def get(self, request: Request, key: UUID) -> Response:
        """The line with this id, or all lines of the entry with this tracekey."""
        require_scope(request, READ)
        found = ask_for(request, lambda: _lines(key))
        return tell(Response(serializers.TransactionsSerializer({"transactions": found.value}).data), found)


def _lines(key: UUID) -> tuple[public.TransactionLine, ...]:
    line = public.transaction_by_id(key)
    lines = (line,) if line else public.transactions_by_tracekey(key)
    if not lines:
        public.check_line(key)
        raise NotFound("There is no transaction with this id or tracekey.")
    return lines

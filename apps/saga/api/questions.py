"""What a request asks for: its parameters as a filter of runs, and how the document tells of them."""

from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from django.utils.dateparse import parse_datetime
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from apps.common.errors import InvalidRequest
from apps.saga import filters
from apps.saga.filters import STATES, Filter


def _parameter(name: str, kind: Any, told: str, **more: Any) -> OpenApiParameter:
    return OpenApiParameter(name, kind, description=told, **more)


VERSION = _parameter("version", int, "The newest when absent.")
PARAMETERS = [
    _parameter("use_case", str, "Runs of one use case."),
    _parameter("version", int, "Of one version of it."),
    _parameter("state", str, "Runs that are not over, and how they are. slow and late: against their SLA.", enum=STATES),
    _parameter("status", str, "One of these statuses; may be given more than once.", many=True),
    _parameter("step", str, "Where the run is, or failed."),
    _parameter("error_code", str, "R… of a refusal, the name of a technical error."),
    _parameter("waiting_for", str, "The partner whose answer or call is waited for."),
    _parameter("older_than_s", int, "Began so many seconds ago, or earlier."),
    _parameter("started_from", OpenApiTypes.DATETIME, "Began then or later."),
    _parameter("started_before", OpenApiTypes.DATETIME, "Began before then."),
    _parameter(
        "attribute",
        str,
        "A condition on a search attribute: customer_id=…, amount>=100, due<=2026-12-31; may be given more than once.",
        many=True,
    ),
    _parameter("amount_min", OpenApiTypes.DECIMAL, "At least so much at risk."),
    _parameter("amount_max", OpenApiTypes.DECIMAL, "At most so much at risk."),
    _parameter("global_id", UUID, "The id that travels in its messages."),
    _parameter("subject_id", UUID, "What it is about: an order's id."),
    _parameter("business_key", str, "The name by which people know it."),
    _parameter("idempotency_key", str, "The Idempotency-Key of the request that began it."),
    _parameter("cursor", str, "next_cursor of the page before."),
    _parameter("limit", int, "Runs on a page, 1 to 500; 50 when absent."),
]


def _text(request: Request, name: str) -> str:
    value: str = request.query_params.get(name, "")
    if "\x00" in value:
        raise InvalidRequest(f"{name} holds a character that no text has.", field=name)
    return value


def _uuid(request: Request, name: str) -> UUID | None:
    value = request.query_params.get(name)
    try:
        return UUID(value) if value is not None else None
    except ValueError:
        raise InvalidRequest(f"{name} is a UUID.", field=name) from None


def _moment(request: Request, name: str) -> datetime | None:
    value = request.query_params.get(name)
    if value is None:
        return None
    try:
        found = parse_datetime(value)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise InvalidRequest(f"{name} is a time with a zone, such as 2026-01-31T12:00:00Z.", field=name)
    return found


def whole(request: Request, name: str) -> int | None:
    """A whole number of a parameter; None when it is absent. Raises InvalidRequest."""
    value = request.query_params.get(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise InvalidRequest(f"{name} is a whole number.", field=name)
    return int(value)


def _conditions(request: Request, use_case: str) -> tuple[filters.Condition, ...]:
    texts = request.query_params.getlist("attribute")
    found = [filters.condition(text, use_case=use_case) for text in texts[: filters.CONDITIONS_MAX + 1]]
    for name, operator in (("amount_min", ">="), ("amount_max", "<=")):
        value = request.query_params.get(name)
        if value is not None:
            found.append(_amount(name, operator, value))
    if len(found) > filters.CONDITIONS_MAX:
        raise InvalidRequest(f"At most {filters.CONDITIONS_MAX} conditions.", field="attribute")
    return tuple(found)


def _amount(name: str, operator: str, value: str) -> filters.Condition:
    try:
        return filters.amount_condition(operator, Decimal(value))
    except (InvalidOperation, TypeError):
        raise InvalidRequest(f"{name} is an amount such as 10.50.", field=name) from None


def filter_of(request: Request, *, now: datetime) -> Filter:
    """Which runs a request asks for. Raises InvalidRequest, InvalidCondition, UnknownAttribute."""
    use_case, older = _text(request, "use_case"), whole(request, "older_than_s")
    before = _moment(request, "started_before")
    if older is not None:
        latest = now - timedelta(seconds=older)
        before = min(before, latest) if before is not None else latest
    return Filter(
        use_case=use_case,
        version=whole(request, "version"),
        state=_text(request, "state"),
        statuses=tuple(request.query_params.getlist("status")),
        step=_text(request, "step"),
        error_code=_text(request, "error_code"),
        waiting_for=_text(request, "waiting_for"),
        started_from=_moment(request, "started_from"),
        started_before=before,
        conditions=_conditions(request, use_case),
        global_id=_uuid(request, "global_id"),
        subject_id=_uuid(request, "subject_id"),
        business_key=_text(request, "business_key"),
        idempotency_key=_text(request, "idempotency_key"),
    )

"""Errors out: one place turns every refusal into application/problem+json (RFC 9457)."""

import logging
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, JsonResponse
from django.http.response import HttpResponseBase
from rest_framework import exceptions as drf
from rest_framework.response import Response
from rest_framework.serializers import Serializer

from apps.common import errors

logger = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"


def _member(path: str, name: str | int) -> str:
    if isinstance(name, int):  # DRF keys the errors of a list's members by their index
        return f"{path}[{name}]"
    if name == "non_field_errors":
        return path
    return f"{path}.{name}" if path else name


def _violations(detail: Any, path: str = "") -> list[dict[str, str]]:
    """Flatten DRF's nested error detail into [{field: "items[0].quantity", message: …}]."""
    if isinstance(detail, dict):
        found = []
        for name, inner in detail.items():
            found += _violations(inner, _member(path, name))
        return found
    if isinstance(detail, list):
        found = []
        for index, inner in enumerate(detail):
            nested = isinstance(inner, dict | list)
            found += _violations(inner, f"{path}[{index}]" if nested else path)
        return found
    return [{"field": path or "body", "message": str(detail)}]


def document(
    error: errors.DomainError, *, request_id: str, violations: list[dict[str, str]] | None = None
) -> dict[str, Any]:
    """The members of a problem document: type, title, status, code, detail, retryable, request_id, field, violations."""
    body: dict[str, Any] = {
        "type": f"urn:lastro:error:{error.code}",
        "title": f"{error.code} {error.title()}",
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        "retryable": error.retryable,
        "request_id": request_id,
    }
    if error.field:
        body["field"] = error.field
    if violations:
        body["violations"] = violations
        body.setdefault("field", violations[0]["field"])
    return body


def _translate(error: Exception) -> tuple[errors.DomainError, list[dict[str, str]] | None]:
    """The coded refusal for any exception that a view lets out."""
    if isinstance(error, errors.DomainError):
        return error, None
    if isinstance(error, drf.ValidationError):
        violations = _violations(error.detail)
        first = violations[0] if violations else {"field": "body", "message": "The request is malformed."}
        return errors.InvalidRequest(f"{first['field']}: {first['message']}", field=first["field"]), violations
    simple: list[tuple[tuple[type[Exception], ...], type[errors.DomainError]]] = [
        ((Http404, drf.NotFound), errors.NotFound),
        ((drf.ParseError,), errors.MalformedJson),
        ((drf.MethodNotAllowed,), errors.MethodNotAllowed),
        ((drf.UnsupportedMediaType,), errors.UnsupportedMediaType),
        ((drf.NotAcceptable,), errors.NotAcceptable),
        ((drf.Throttled,), errors.TooManyRequests),
        ((PermissionDenied, drf.PermissionDenied), errors.Forbidden),
        ((drf.NotAuthenticated, drf.AuthenticationFailed), errors.Unauthenticated),
    ]
    for kinds, refusal in simple:
        if isinstance(error, kinds):
            return refusal(), None
    logger.error("unhandled error in a view", exc_info=error)
    return errors.InternalError(), None


def _request_id(request: HttpRequest | None) -> str:
    return str(getattr(request, "request_id", ""))


def exception_handler(error: Exception, context: dict[str, Any]) -> Response:
    """DRF's EXCEPTION_HANDLER: every exception of an API view becomes a problem document."""
    request = context.get("request")
    refusal, violations = _translate(error)
    body = document(refusal, request_id=_request_id(getattr(request, "_request", request)), violations=violations)
    response = Response(body, status=refusal.status, content_type=CONTENT_TYPE)
    if refusal.status == 401:
        response["WWW-Authenticate"] = 'Basic realm="Lastro", charset="UTF-8"'
    if refusal.retryable:
        response["Retry-After"] = str(refusal.retry_after_s)
    return response


def response(error: errors.DomainError, request: HttpRequest) -> JsonResponse:
    """A problem document outside DRF: middleware and Django's own 404 and 500."""
    answer = JsonResponse(document(error, request_id=_request_id(request)), status=error.status, content_type=CONTENT_TYPE)
    if error.retryable:
        answer["Retry-After"] = str(error.retry_after_s)
    return answer


def page_not_found(request: HttpRequest) -> HttpResponseBase:
    """Django's handler404, for programs; people read pages (apps/backoffice/pages/errors.py)."""
    return response(errors.NotFound(), request)


def server_error(request: HttpRequest) -> HttpResponseBase:
    """Django's handler500, for programs."""
    return response(errors.InternalError(), request)


class ViolationSerializer(Serializer[dict[str, Any]]):
    """One thing that is wrong with a malformed request."""

    from rest_framework import serializers as _fields

    field = _fields.CharField(help_text="Where: items[0].quantity; or body, when it belongs to no field.")
    message = _fields.CharField()


class ProblemSerializer(Serializer[dict[str, Any]]):
    """The shape of every refusal, for the OpenAPI document."""

    from rest_framework import serializers as _fields

    type = _fields.CharField(help_text="urn:lastro:error:<code>")
    title = _fields.CharField()
    status = _fields.IntegerField()
    code = _fields.CharField(help_text="Stable: R + three digits; see docs/errors.md.")
    detail = _fields.CharField()
    retryable = _fields.BooleanField(help_text="May the very same request succeed later?")
    request_id = _fields.CharField()
    field = _fields.CharField(required=False)
    violations = ViolationSerializer(
        many=True, required=False, help_text="Everything that is wrong, of a malformed request."
    )

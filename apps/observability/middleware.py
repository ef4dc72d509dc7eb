"""Around every request: its id, and the size of its body."""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from apps.common import problems
from apps.common.clock import uuid7
from apps.common.errors import BodyTooLarge
from apps.observability import ids

GetResponse = Callable[[HttpRequest], HttpResponseBase]


class RequestIdMiddleware:
    """Take the caller's X-Request-ID when it is safe, else make one; give it back, and log under it."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        given = request.headers.get("X-Request-ID", "")
        request_id = given if ids.is_safe(given) else str(uuid7())
        request.request_id = request_id  # type: ignore[attr-defined]  # read by problems.py
        with ids.bound(request_id=request_id):
            response = self.get_response(request)
        response["X-Request-ID"] = request_id
        return response


def _declared_length(request: HttpRequest) -> float:
    length = request.META.get("CONTENT_LENGTH") or "0"
    plain = length.isascii() and length.isdigit() and len(length) < 20
    return int(length) if plain else float("inf")


def body_bytes_max(path: str) -> int:
    """How long a body may be at this address. The admin's forms have Django's limit."""
    if path.startswith("/admin/"):
        return int(settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
    return int(settings.REQUEST_BODY_BYTES_MAX_AT.get(path, settings.REQUEST_BODY_BYTES_MAX))


class BodyLimitMiddleware:
    """Refuse an API body over its address's limit before anything reads it. The admin's forms have Django's limit."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        limit = body_bytes_max(request.path)
        if _declared_length(request) > limit and not request.path.startswith("/admin/"):
            return problems.response(BodyTooLarge(f"The limit is {limit} bytes."), request)
        # A chunked body has no length: config/threads.py has taken a little more than the limit, so measure what came.
        if "CONTENT_LENGTH" not in request.META and request.method in {"POST", "PUT", "PATCH"}:
            body = request.read(limit + 1)
            if len(body) > limit:
                return problems.response(BodyTooLarge(f"The limit is {limit} bytes."), request)
            request._body = body  # what HttpRequest.body itself stores
            request.META["CONTENT_LENGTH"] = str(len(body))  # without it the REST framework takes the body for empty
        return self.get_response(request)

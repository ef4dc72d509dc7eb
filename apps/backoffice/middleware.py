"""The people of the back office live in one zone; the API speaks UTC."""

from collections.abc import Callable

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone

from apps.common.clock import BUSINESS_ZONE

GetResponse = Callable[[HttpRequest], HttpResponseBase]


class BusinessZoneMiddleware:
    """Show times of the admin in the business zone (UTC stands beside them, on hover)."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not request.path.startswith("/admin/"):
            return self.get_response(request)
        with timezone.override(BUSINESS_ZONE):
            return self.get_response(request)

"""What all pages of the back office share: its people live in one zone, its pages run no script but ours, and lead nobody
where he is refused.
"""

from collections.abc import Callable
from functools import partial

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone

from apps.backoffice.doors import may_open
from apps.backoffice.policy import policy
from apps.common import doors
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


class DoorsMiddleware:
    """Links to what the viewer may not open are their text alone."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not request.path.startswith("/admin/"):
            return self.get_response(request)
        with doors.seen_by(partial(may_open, request)):
            return self.get_response(request)


class PolicyMiddleware:
    """Tell the browser what a page of the back office may run, load and send; a stricter word of the page itself stands."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        # A PDF is no page: the policy of a page would keep the browser's viewer from showing it.
        if request.path.startswith("/admin/") and response.headers.get("Content-Type", "").startswith("text/html"):
            response.headers.setdefault("Content-Security-Policy", policy())
        return response

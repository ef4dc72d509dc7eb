"""What somebody sees where there is no page for him: what happened, whether something was done, and where to go on."""

from dataclasses import dataclass

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.template.loader import render_to_string
from django.views import defaults

from apps.common import problems

PAGES = "/admin/"  # below it people read; everywhere else programs do


@dataclass(frozen=True, slots=True)
class Trouble:
    """``title`` says what happened, ``text`` what to do about it."""

    status: int
    title: str
    text: str


DENIED = Trouble(
    403,
    "You may not open this page.",
    "It needs a permission that your login does not have. Nothing was done. Whoever manages the users can give it to you.",
)
UNKNOWN = Trouble(
    404,
    "There is no such page.",
    "The address has a mistake, or what it led to is not kept any more. Under Runs an order is found by its whole id.",
)
STALE_FORM = Trouble(
    403,
    "Nothing was done: the form was too old.",
    "Somebody logged in or out in this browser since it was opened. Go back, load the page again, and send it once more.",
)
BROKEN = Trouble(
    500,
    "Something broke on our side.",
    "Look whether your last action was done before you repeat it: it may have been. Loading the page again may help.",
)


def denied(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """Django's handler403."""
    if not request.path.startswith(PAGES):
        return defaults.permission_denied(request, exception)
    return _page(request, DENIED)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:  # noqa: ARG001  # Django's signature
    """Django's handler404: people read pages, programs read problem documents."""
    return _page(request, UNKNOWN) if request.path.startswith(PAGES) else problems.page_not_found(request)


def form_refused(request: HttpRequest, reason: str = "") -> HttpResponseBase:
    """Django's CSRF_FAILURE_VIEW. Only the back office has forms."""
    if not request.path.startswith(PAGES):
        return defaults.permission_denied(request, PermissionDenied(reason))
    return _page(request, STALE_FORM)


def broken(request: HttpRequest) -> HttpResponseBase:
    """Django's handler500."""
    if not request.path.startswith(PAGES):
        return problems.server_error(request)
    return _bare(BROKEN, request_id=str(getattr(request, "request_id", "")))


def _page(request: HttpRequest, trouble: Trouble) -> HttpResponse:
    """Around it stands the menu, for those who have one."""
    if not admin.site.has_permission(request):
        return _bare(trouble)
    context = {**admin.site.each_context(request), "title": str(trouble.status), "trouble": trouble}
    return render(request, "backoffice/error.html", context, status=trouble.status)


def _bare(trouble: Trouble, *, request_id: str = "") -> HttpResponse:
    """Without the menu, and without asking anybody anything: what broke may be the database."""
    page = render_to_string("backoffice/bare.html", {"trouble": trouble, "request_id": request_id})
    return HttpResponse(page, status=trouble.status)

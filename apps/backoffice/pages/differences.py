"""Differences: where the ledger does not add up, as its checks found it, and who said that it is known."""

from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone

from apps.backoffice.components.formats import count, plural
from apps.backoffice.components.verdicts import Verdict
from apps.backoffice.pages.account import address_of
from apps.backoffice.pages.entry import ReasonForm
from apps.backoffice.pages.triage import actor_of, require
from apps.common.errors import DomainError
from apps.common.transactions import transaction
from apps.ledger import public as ledger

VIEW, ACT = "ledger.view_difference", "ledger.change_difference"
SHOWN = 200
TABS = ("still", "gone")


def list_view(request: HttpRequest) -> HttpResponse:
    """Those that still are, or those that are gone."""
    require(request, VIEW)
    tab = request.GET.get("tab", TABS[0])
    tab = tab if tab in TABS else TABS[0]
    found = ledger.find_differences(gone=tab == "gone", limit=SHOWN)
    still = found if tab == "still" else ledger.find_differences(limit=SHOWN)
    context = {
        **admin.site.each_context(request),
        "title": "Differences",
        "tab": tab,
        "lines": lines_of(found),
        "verdict": verdict_of(still),
        "may_act": request.user.has_perm(ACT),
        "most": SHOWN,
    }
    return render(request, "backoffice/differences.html", context)


def lines_of(found: tuple[ledger.Finding, ...]) -> list[tuple[ledger.Finding, str]]:
    """Each with the page of its account, if it has one."""
    return [(each, address_of(each.account) if each.account else "") for each in found]


def verdict_of(still: tuple[ledger.Finding, ...]) -> Verdict:
    """Does the ledger add up?"""
    opened = sum(each.state == "OPEN" for each in still)
    if opened:
        known = f" {count(len(still) - opened)} more are known." if len(still) > opened else ""
        title = f"{plural(opened, 'difference', 'differences')} nobody has looked into."
        return Verdict(
            "bad", "bad", title, f"What is stored is not what the lines prove.{known} Nothing is corrected by itself."
        )
    if still:
        said = plural(len(still), "difference is known", "differences are known")
        return Verdict("warn", "warn", f"{said}.", "Somebody has said why. Nothing is corrected by itself.")
    return Verdict(
        "ok", "ok", "The ledger adds up.", "The checks found no difference between what is stored and what the lines prove."
    )


def acknowledge_view(request: HttpRequest, difference_id: UUID) -> HttpResponse:
    """GET asks why, POST says that a difference is known. The ledger is not changed."""
    require(request, VIEW)
    require(request, ACT)
    found = ledger.find_differences(difference_id=difference_id)
    if not found:
        raise Http404("There is no such difference.")
    form = ReasonForm(request.POST if request.method == "POST" else None)
    if request.method != "POST" or not form.is_valid():
        return _page(request, found[0], form, status=422 if request.method == "POST" else 200)
    try:
        _acknowledge(difference_id, by=actor_of(request), reason=form.cleaned_data["reason"])
    except DomainError as refusal:
        messages.warning(request, f"Nothing done. {refusal.code}: {refusal.detail}")
    else:
        messages.success(request, "It is known now. It stays in the list until a check finds it gone.")
    return redirect("admin:backoffice_differences")


@transaction
def _acknowledge(difference_id: UUID, *, by: str, reason: str) -> None:
    ledger.acknowledge(difference_id=difference_id, by=by, reason=reason, now=timezone.now())


def _page(request: HttpRequest, found: ledger.Finding, form: ReasonForm, *, status: int) -> HttpResponse:
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": "This difference is known",
        "difference": found,
        "href": address_of(found.account) if found.account else "",
        "form": form,
        "back": reverse("admin:backoffice_differences"),
    }
    return render(request, "backoffice/difference.html", context, status=status)

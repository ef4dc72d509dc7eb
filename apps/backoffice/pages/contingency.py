"""The switch of contingency: receipts are handed out before the tax authority has them, while it is away."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone

from apps.backoffice.components.formats import plural
from apps.backoffice.components.links import list_link
from apps.backoffice.components.needs import Need
from apps.backoffice.pages.triage import actor_of, require
from apps.common.errors import DomainError
from apps.common.reasons import reason_field
from apps.fiscal_docs import public as fiscal
from apps.orders import public as orders

VIEW, SWITCH = "fiscal_docs.view_document", "fiscal_docs.change_contingency"


def need(period: fiscal.ContingencyPeriod) -> Need:
    """What the home page says while it is on."""
    waiting = plural(fiscal.handed_out(), "receipt is", "receipts are")
    return Need(
        title="Contingency is on",
        where=f"{waiting} handed out and not delivered",
        since=period.began_at,
        amount=None,
        who="",
        href=reverse("admin:backoffice_contingency"),
        door="Open contingency",
        icon="warn",
        tone="warn",
    )


class SwitchForm(forms.Form):
    """Why it is switched. The documents of the time carry what is said on the way in."""

    reason = reason_field(kept="Say why: every document of that time carries it.", max_length=255)


def contingency_view(request: HttpRequest) -> HttpResponse:
    """GET tells whether it is on, POST switches it. Never a change on GET."""
    user = require(request, SWITCH if request.method == "POST" else VIEW)
    form = SwitchForm(request.POST or None)
    if request.method != "POST" or not form.is_valid():
        return _page(request, form, status=422 if request.method == "POST" else 200)
    enter, now = request.POST.get("switch") == "on", timezone.now()
    switch = orders.enter_contingency if enter else orders.leave_contingency
    try:
        switch(reason=form.cleaned_data["reason"], by=actor_of(user), now=now)
    except fiscal.ReasonUnfit as refusal:
        form.add_error("reason", refusal.detail)
        return _page(request, form, status=422)
    except DomainError as refusal:
        messages.warning(request, f"Nothing done. {refusal.code}: {refusal.detail}")
    else:
        messages.success(request, "It is on." if enter else "It is off: what was handed out is delivered now.")
    return redirect("admin:backoffice_contingency")


def _page(request: HttpRequest, form: SwitchForm, *, status: int) -> HttpResponse:
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": "Contingency",
        "period": fiscal.contingency(),
        "periods": fiscal.contingencies(),
        "handed_out": fiscal.handed_out(),
        "handed_out_href": list_link("fiscal_docs_document", state__exact="OFFLINE"),
        "may_switch": request.user.has_perm(SWITCH),
        "form": form,
    }
    return render(request, "backoffice/contingency.html", context, status=status)

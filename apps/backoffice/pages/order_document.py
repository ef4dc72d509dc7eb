"""Settle the fiscal document that an order's run has left behind: see what would happen, choose, say why, confirm."""

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone

from apps.backoffice.pages.triage import ACT, actor_of, require
from apps.common.errors import DomainError, NotFound
from apps.common.reasons import reason_field
from apps.orders import public as orders


class SettleForm(forms.Form):
    """What shall become of it, and why."""

    settle = forms.ChoiceField(
        choices=[(each.value, each.value) for each in orders.Settle],
        error_messages={"required": "Choose what shall become of it.", "invalid_choice": "There is no such choice."},
    )
    reason = reason_field()


def settle_view(request: HttpRequest, order_id: UUID) -> HttpResponse:
    """GET shows what would happen, POST asks for it. Never a change on GET."""
    user = require(request, ACT)
    form = SettleForm(request.POST or None)
    if request.method != "POST":
        return _page(request, order_id, form, status=200)
    if not form.is_valid():
        return _page(request, order_id, form, status=422)
    values = form.cleaned_data
    try:
        run_id = orders.settle_document(
            order_id=order_id,
            settle=orders.Settle(values["settle"]),
            reason=values["reason"],
            by=actor_of(user),
            now=timezone.now(),
        )
    except NotFound:
        raise Http404("There is no such order.") from None
    except DomainError as refusal:
        messages.warning(request, f"Nothing done. {refusal.code}: {refusal.detail}")
        return redirect("admin:orders_order_change", order_id)
    return redirect("admin:backoffice_run", run_id)


def _page(request: HttpRequest, order_id: UUID, form: SettleForm, *, status: int) -> HttpResponse:
    now = timezone.now()
    try:
        found = orders.left_behind(order_id=order_id, now=now)
    except NotFound:
        raise Http404("There is no such order.") from None
    except DomainError as refusal:
        messages.warning(request, f"{refusal.code}: {refusal.detail}")
        return redirect("admin:orders_order_change", order_id)
    if found.run_id is not None:
        return redirect("admin:backoffice_run_retry", found.run_id)
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": "Settle the fiscal document of an order",
        "found": found,
        "order_id": order_id,
        "correction": found.preview,
        "chosen": form["settle"].value() or (orders.Settle.SEND if found.may_send else orders.Settle.VOID),
        "back": reverse("admin:fiscal_docs_document_change", args=[found.document.id]),
        "form": form,
        "now": now,
    }
    return render(request, "backoffice/order_document.html", context, status=status)

"""Endpoints and deliveries, to look at; and the one thing that is done by hand: deliver again."""

import json
from typing import Any
from urllib.parse import urlsplit

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.common.admin import (
    CreatedFilter,
    KeyedAdmin,
    Look,
    WordsFilter,
    address,
    as_uuid,
    chip,
    column,
    component,
    id_begins,
    link,
    moment,
    short,
)
from apps.common.reasons import reason_field
from apps.webhooks import redelivery
from apps.webhooks.events import body_of
from apps.webhooks.models import Attempt, Delivery, Endpoint, Event

PERMISSION = "webhooks.redeliver_delivery"
REDELIVERED_MAX = 100  # by one request: the page names each. The API takes a thousand
ATTEMPTS_SHOWN = 100  # of one delivery, the last ones; ten come by themselves
PLACE_CHARACTERS_MAX = 40  # of a URL in a table
SEARCHED_MAX = 100  # events of one object, endpoints of one merchant, whose deliveries a search finds
CONFIRMED = "confirmed"
REASON_CHARACTERS_MAX = 500

LOOKS = {
    "PENDING": Look("run", "wait", "On its way"),
    "RETRYING": Look("warn", "again", "Tried again"),
    "DELIVERED": Look("ok", "ok", "Delivered"),
    "FAILED": Look("bad", "bad", "Given up"),
}


def _endpoint_look(row: Endpoint) -> Look:
    if row.deleted_at is not None:
        return Look("idle", "close", "Deleted")
    if row.disabled_at is not None:
        return Look("bad", "bar", "Disabled")
    return Look("warn", "warn", "Failing") if row.failing_since else Look("ok", "ok", "Well")


def _delivery_look(row: Delivery) -> Look:
    pending = row.state == Delivery.State.PENDING
    if pending and _silent(row.endpoint):
        return Look("idle", "lock", "Waits")
    retrying = pending and row.last_error
    return LOOKS["RETRYING" if retrying else row.state]


def _attempt_look(row: Attempt) -> Look:
    if row.took_ms is None:
        return Look("unk", "unknown", "No word of it")
    said = str(row.status) if row.status is not None else "No answer"
    return Look("idle", "close", said) if row.error else Look("ok", "ok", said)


def _merchant(account_id: str) -> str:
    return link(address("identity_account_change", account_id), account_id)


def _place(row: Endpoint) -> str:
    """Where it is, without what may be a secret of the merchant's; the whole URL stands on the endpoint's page."""
    parts = urlsplit(row.url)
    text = f"{parts.netloc}{parts.path}"
    return f"{text[: PLACE_CHARACTERS_MAX - 1]}…" if len(text) > PLACE_CHARACTERS_MAX else text


def _endpoint_link(row: Endpoint) -> str:
    return link(address("webhooks_endpoint_change", row.pk), _place(row))


class EndpointStateFilter(admin.SimpleListFilter):
    """How an endpoint is."""

    title, parameter_name = "state", "state"
    _wanted = {
        "well": Q(deleted_at=None, disabled_at=None, failing_since=None),
        "failing": Q(deleted_at=None, disabled_at=None, failing_since__isnull=False),
        "disabled": Q(deleted_at=None, disabled_at__isnull=False),
        "deleted": Q(deleted_at__isnull=False),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name.capitalize()) for name in self._wanted]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Endpoint]) -> QuerySet[Endpoint]:
        return queryset.filter(self._wanted[self.value() or ""]) if self.value() in self._wanted else queryset


@admin.register(Endpoint)
class EndpointAdmin(KeyedAdmin):
    says = "Where merchants want to be told. One that fails for days is disabled, and says why; its owner enables it again."
    empty = "No merchant has registered an endpoint yet."
    list_display = ("shown_state", "place", "merchant", "why", "shown_failing", "deliveries", "made")
    list_display_links = ("place",)
    list_filter = (EndpointStateFilter,)
    search_help_text = "An id or its beginning, or a whole merchant"
    fields = (
        *("shown_state", "whole_url", "merchant", "description", "told_of", "why", "failures", "shown_failing", "paused"),
        *("deliveries", "overlap", "made", "deleted"),
    )

    shown_state = column("State", lambda row: chip(_endpoint_look(row)))
    place = column("Where", _place)
    whole_url = column("URL", lambda row: row.url)
    merchant = column("Merchant", lambda row: _merchant(row.account_id))
    told_of = column("Is told of", lambda row: ", ".join(row.event_types))
    why = column("Disabled because", lambda row: row.disabled_reason or "—")
    shown_failing = column("Failing since", lambda row: moment(row.failing_since))
    paused = column("Left alone until", lambda row: moment(row.paused_until))
    overlap = column("The secret before signs until", lambda row: moment(row.previous_until))
    made = column("Registered", lambda row: moment(row.created_at))
    deleted = column("Deleted", lambda row: moment(row.deleted_at))
    deliveries = column(
        "Deliveries",
        lambda row: link(address("webhooks_delivery_changelist", query=f"?q={row.pk}"), "Its deliveries"),
    )

    def by_key(self, text: str) -> Q:
        return id_begins(text) | Q(account_id=text)


class StateFilter(WordsFilter):
    title, parameter_name, field = "state", "state", "state"
    words = {state: LOOKS[state].word for state in Delivery.State.values}


class ReasonForm(forms.Form):
    """Why somebody delivers again."""

    reason = reason_field(
        kept="Say why: the audit log keeps it.",
        max_length=REASON_CHARACTERS_MAX,
        widget=forms.Textarea(attrs={"rows": 3}),
    )


@admin.register(Delivery)
class DeliveryAdmin(KeyedAdmin):
    says = "Every event on its way to every endpoint, newest first. What failed is tried again for three days."
    empty = "Nothing was to be told yet."
    change_form_template = "webhooks/admin/delivery.html"
    list_display = ("shown_state", "told", "endpoint_url", "attempts", "answer", "due", "made")
    list_display_links = ("told",)
    list_filter = (StateFilter, CreatedFilter)
    list_select_related = ("event", "endpoint")
    search_help_text = "An id or its beginning; a whole webhook-id, endpoint, order, payment or merchant"
    fields = ("shown_state",)
    actions = ("redeliver",)
    list_disable_select_all = True  # what is sent again is what somebody saw

    shown_state = column("State", lambda row: chip(_delivery_look(row)))
    told = column(
        "Event, delivery",
        lambda row: format_html('<span title="{}">{}<br>{}</span>', row.pk, row.event.type, short(row.pk)),
    )
    endpoint_url = column(
        "Endpoint, merchant",
        lambda row: format_html("<span>{}<br>{}</span>", _endpoint_link(row.endpoint), _merchant(row.endpoint.account_id)),
    )
    answer = column("Last answer", lambda row: row.last_error or row.last_status or "—")
    made = column("Written", lambda row: moment(row.created_at))

    @admin.display(description="Next attempt")
    def due(self, row: Delivery) -> SafeString:
        waits = row.state == Delivery.State.PENDING and not _silent(row.endpoint)
        return moment(row.due_at if waits else None)

    def by_key(self, text: str) -> Q:
        # The keys first: no index serves a question to three tables at once, and it would read all deliveries.
        key = as_uuid(text)
        events = Event.objects.filter(Q(id=key) | Q(object_id=key)).order_by("-pk") if key else Event.objects.none()
        places = Endpoint.objects.filter(Q(pk=key) if key else Q(account_id=text)).order_by("-pk")
        found = [list(rows.values_list("pk", flat=True)[:SEARCHED_MAX]) for rows in (events, places)]
        return id_begins(text) | Q(event_id__in=found[0]) | Q(endpoint_id__in=found[1])

    def page(self, row: Delivery) -> dict[str, Any]:
        attempts = row.tried.order_by("-number")[:ATTEMPTS_SHOWN]
        return {
            "tone": _delivery_look(row).tone,
            "look": _delivery_look(row),
            "attempts": [(attempt, _attempt_look(attempt)) for attempt in attempts],
            "waits": row.state == Delivery.State.PENDING and not _silent(row.endpoint),
            "endpoint_link": _endpoint_link(row.endpoint),
            "merchant_link": _merchant(row.endpoint.account_id),
            "silent": _silent(row.endpoint),
            "sent": component("json", value=json.loads(body_of(row.event))),
            "list": address("webhooks_delivery_changelist"),
            "checkbox": ACTION_CHECKBOX_NAME,
        }

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **options: Any) -> Any:
        may = {"may_redeliver": self.has_redeliver_permission(request)}
        return super().render_change_form(request, context | may, *args, **options)

    # --- Deliver again --------------------------------------------------------------------------------------------------
    def has_redeliver_permission(self, request: HttpRequest) -> bool:
        """Who may run the action."""
        return bool(request.user.has_perm(PERMISSION))

    @admin.action(description="Deliver again…", permissions=["redeliver"])
    def redeliver(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> HttpResponse | None:
        """The page that asks for a reason, or, when it was given, the deed; None leads back to the list."""
        user = request.user
        if not isinstance(user, User) or not user.has_perm(PERMISSION):
            raise PermissionDenied
        chosen = list(queryset.select_related("event", "endpoint").order_by("id")[: REDELIVERED_MAX + 1])
        if len(chosen) > REDELIVERED_MAX:
            messages.warning(request, f"Nothing done: {REDELIVERED_MAX} at most.")
            return None
        fit = [row for row in chosen if not _silent(row.endpoint)]
        form = ReasonForm(request.POST if CONFIRMED in request.POST else None)
        if fit and form.is_valid():
            self._redeliver(request, fit, form.cleaned_data["reason"])
            return None
        context = {
            **admin.site.each_context(request),
            "title": "Deliver again",
            "opts": self.opts,
            "fit": [(row, _delivery_look(row), _place(row.endpoint)) for row in fit],
            "others": len(chosen) - len(fit),
            "form": form,
            "checkbox": ACTION_CHECKBOX_NAME,
            "confirmed": CONFIRMED,
        }
        return render(request, "webhooks/admin/redeliver.html", context, status=422 if form.errors else 200)

    def _redeliver(self, request: HttpRequest, fit: list[Delivery], reason: str) -> None:
        with transaction.atomic():  # with its entries in the log of the back office
            done = set(redelivery.redeliver([row.pk for row in fit], now=timezone.now()))
            for row in fit:
                if row.pk in done:
                    self.log_change(request, row, f"Delivered again: {reason}")
        if done:
            messages.success(request, f"{len(done)} on {'its' if len(done) == 1 else 'their'} way again.")
        if len(done) < len(fit):
            messages.warning(request, f"{len(fit) - len(done)} left alone: the endpoint was disabled meanwhile.")


def _silent(row: Endpoint) -> str:
    """Why nothing is sent to an endpoint; empty when something is."""
    if row.deleted_at is not None:
        return "The endpoint is deleted."
    return f"The endpoint is disabled. {row.disabled_reason}" if row.disabled_at is not None else ""

"""Incidents and actions, to look at: also those that are long over. They are seen to on the pages of triage."""

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import RangeDateTimeFilter

from apps.common.admin import (
    KeyedAdmin,
    Look,
    ReadOnlyAdmin,
    address,
    as_uuid,
    chip,
    column,
    component,
    hinted,
    link,
    moment,
    short,
)
from apps.saga.admin_filters import UseCaseFilter
from apps.saga.models import BulkAction, Incident
from apps.saga.triage import Action

_ACTIONS = {
    BulkAction.Status.ASKED: Look("warn", "eye", "Waits for approval"),
    BulkAction.Status.RUNNING: Look("run", "run", "Running"),
    BulkAction.Status.DONE: Look("ok", "ok", "Done"),
    BulkAction.Status.CANCELLED: Look("idle", "close", "Stopped"),
}


def _incident_state(row: Incident) -> SafeString:
    if row.status == Incident.Status.HANDLED:
        return chip(Look("idle", "lock", "Handled"))
    if row.silenced_until is not None and row.silenced_until > timezone.now():
        return chip(Look("idle", "bar", "Silenced"))
    return chip(Look("bad", "bad", "Open"))


def _owner(row: Incident) -> str:
    name = row.owner.partition(":")[2] or row.owner
    return hinted(name, row.owner_note) if name else "—"


def _what(row: BulkAction) -> str:
    """The action and its runs; a single run by its short id."""
    told, _, key = row.told.rpartition(" ")
    return f"{row.action}: {told} {short(key)}" if as_uuid(key) else f"{row.action}: {row.told}"[:100]


class CareFilter(admin.SimpleListFilter):
    """Who sees to it, and whether anybody wants to hear of it."""

    title = "care"
    parameter_name = "care"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("mine", "Mine"), ("unowned", "Open, no owner"), ("silenced", "Silenced")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Incident]) -> QuerySet[Incident]:
        opened = queryset.filter(status=Incident.Status.OPEN)
        if self.value() == "mine":
            return opened.filter(owner=f"user:{request.user.get_username()}")
        if self.value() == "unowned":
            return opened.filter(owner="")
        return opened.filter(silenced_until__gt=timezone.now()) if self.value() == "silenced" else queryset


@admin.register(Incident)
class IncidentAdmin(ReadOnlyAdmin):
    """Kinds of errors. One row a kind, opened again when it comes back."""

    list_display = ("state", "what", "use_case", "step", "attempts", "owned", "seen_first", "seen_last")
    list_display_links = None
    list_filter = ("status", CareFilter, UseCaseFilter, ("last_seen", RangeDateTimeFilter))
    list_filter_submit = True
    ordering = ("-last_seen", "id")
    search_fields = ("error_code",)  # shows the search box; get_search_results decides
    search_help_text = "A whole error code or step"
    says = "Kinds of errors, those seen last first. Take, silence and handle them on their page."
    empty = "No run ever failed. Good."
    state = column("State", _incident_state)
    what = column("What", lambda row: link(address("backoffice_triage_group", row.pk), row.error_code))
    attempts = column("Failed attempts", lambda row: f"{row.count:,}")
    owned = column("Owner", _owner)
    seen_first = column("First seen", lambda row: moment(row.first_seen))
    seen_last = column("Last seen", lambda row: moment(row.last_seen))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        text = search_term.strip()
        return (queryset.filter(Q(error_code=text) | Q(step=text)) if text else queryset), False


class ActionFilter(admin.SimpleListFilter):
    """What was asked for."""

    title = "action"
    parameter_name = "action__exact"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(each.value, each.value.capitalize()) for each in Action]

    def queryset(self, request: HttpRequest, queryset: QuerySet[BulkAction]) -> QuerySet[BulkAction]:
        return queryset.filter(action=self.value()) if self.value() else queryset


@admin.register(BulkAction)
class BulkActionAdmin(KeyedAdmin):
    """What people asked to have done to runs."""

    list_display = ("state", "what", "runs", "money_at_risk", "asked_by", "asked", "agreed", "ended", "why")
    list_display_links = None
    list_filter = ("status", ActionFilter, ("asked_at", RangeDateTimeFilter))
    list_filter_submit = True
    search_help_text = "How the id of an action begins, or who asked for it"
    says = "Retries, undos, skips and closings that people asked for, with their reasons."
    empty = "Nobody has asked for anything yet."
    state = column("State", lambda row: chip(_ACTIONS[BulkAction.Status(row.status)]))
    what = column("What", lambda row: link(address("backoffice_triage_action", row.pk), _what(row), wraps=True))
    money_at_risk = column("At risk then", lambda row: component("money", amount=row.amount, currency="BRL"))
    asked = column("Asked", lambda row: moment(row.asked_at))
    agreed = column("Approved by", lambda row: row.approved_by or "—")
    ended = column("Ended", lambda row: moment(row.finished_at))
    why = column("Why", lambda row: row.reason)

    def by_key(self, text: str) -> Q:
        return super().by_key(text) | Q(asked_by__in=[text, f"user:{text}"])

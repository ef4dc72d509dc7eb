"""The ledger's care, to look at: checks, what they found to differ, and suspensions. Nothing here changes the ledger."""

from typing import Any

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

from apps.common.admin import KeyedAdmin, Look, WordsFilter, address, chip, column, component, link, moment, short
from apps.common.reasons import reason_field
from apps.ledger import differences, suspensions
from apps.ledger.admin import OfAccountAdmin, _day, _entry, _list, _money
from apps.ledger.care_models import Check, Difference, Suspension
from apps.ledger.models import Branch
from apps.ledger.reconciliation import CHECKS

PERMISSION = "ledger.change_difference"
ACKNOWLEDGED_MAX = 500  # by one request: the page names each
TRIES_NORMAL = 1  # of the piece that is just being proved
BRANCHES_SHOWN = 50  # in the filter; the search takes any
CONFIRMED = "confirmed"

_STATES = {
    "OPEN": Look("bad", "bad", "Open"),
    "ACKNOWLEDGED": Look("warn", "ok", "Acknowledged"),
    "GONE": Look("idle", "ok", "Gone"),
}
_KINDS = {"FULL": "Full", "INCREMENTAL": "What changed"}


class StateFilter(WordsFilter):
    title, parameter_name, field = "state", "state", "state"
    words = {state: look.word for state, look in _STATES.items()}


class RuleFilter(WordsFilter):
    title, parameter_name, field = "rule", "rule", "rule"
    words = {rule: rule for rule in CHECKS}


class BranchFilter(admin.SimpleListFilter):
    """Rows of one branch."""

    title, parameter_name = "branch", "branch"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        names = Branch.objects.order_by("branch").values_list("branch", flat=True)[:BRANCHES_SHOWN]
        return [(name, name) for name in names]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(branch=self.value()) if self.value() else queryset


class KindFilter(WordsFilter):
    title, parameter_name, field = "kind", "kind", "kind"
    words = _KINDS


class OutcomeFilter(admin.SimpleListFilter):
    """How a check ended."""

    title, parameter_name = "outcome", "outcome"
    _wanted = {"differs": Q(differences__gt=0), "broke": ~Q(failure=""), "running": Q(ended_at=None)}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("differs", "Found differences"), ("broke", "Broke off"), ("running", "No end yet")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(self._wanted[self.value() or ""]) if self.value() in self._wanted else queryset


def _so_far(row: Check) -> str:
    """Of a full check in pieces."""
    done = f"{min(99, 100 * row.looked // row.expected)} % proven" if row.expected else f"{row.looked} rows proven"
    return f"{done}, tried {row.tries} times" if row.tries > TRIES_NORMAL else done


def _outcome(row: Check) -> SafeString:
    if row.failure:
        return chip(Look("warn", "warn", "Broke off"))
    if row.ended_at is None:
        return chip(Look("run", "wait", _so_far(row) if row.progress else "No end yet"))
    return chip(Look("bad", "bad", "Differences") if row.differences else Look("ok", "ok", "All proven"))


def _scope(row: Check | Suspension) -> str:
    return "/".join(part for part in (row.branch, row.account, row.currency) if part) or "The whole ledger"


def _took(row: Check) -> str:
    return component("duration", length=row.ended_at - row.began_at) if row.ended_at else "—"


@admin.register(Check)
class CheckAdmin(KeyedAdmin):
    says = "Every run that proved balances from their lines: what it looked at, and how many differences it found."
    empty = "No check has run yet."
    list_display = ("outcome", "shown_kind", "scope", "saw", "took", "accounts", "days", "lines", "found")
    list_display_links = ("shown_kind",)
    list_filter = (KindFilter, OutcomeFilter)
    search_help_text = "How the id of a check begins"
    fields = (
        "outcome",
        "shown_kind",
        "scope",
        "exclusive",
        "saw",
        "took",
        "accounts",
        "days",
        "lines",
        "found",
        "left",
        "failure",
    )

    outcome = column("Outcome", _outcome)
    shown_kind = column("Kind", lambda row: _KINDS[row.kind])
    scope = column("Of", _scope)
    saw = column("As of", lambda row: moment(row.snapshot_at))
    took = column("Took", _took)
    left = column("Accounts still to prove", lambda row: str(row.unproven) if row.ended_at else "—")
    found = column("Differences", lambda row: link(_list("difference"), str(row.differences)) if row.differences else "0")


def _place(row: Any) -> str:
    if row.account is None:
        return "—"
    name = f"{row.branch} · {row.account} {row.currency}"
    return link(address("ledger_account_change", row.account_pk) if row.account_pk else "", name)


# What has no currency is no amount: a key, and how many lines it has.
def _stored(row: Difference) -> str:
    if row.currency is None:
        return "known" if row.stored else "not known"
    return _money(row.stored, row.currency)


def _proven(row: Difference) -> str:
    if row.currency is None:
        return "1 line" if row.proven == 1 else f"{row.proven or 0:.0f} lines"
    return _money(row.proven, row.currency)


def _next_step(row: Difference) -> str:
    if row.state != Difference.State.OPEN:
        return "Nothing."
    place = f"?q={row.branch}/{row.account}" if row.account is not None else "?state=OPEN"
    door = link(address("ledger_difference_changelist", query=place), "mark it in the list")
    told = "Find the cause, then reverse or post what is missing. Or {}, and acknowledge it with a reason."
    return format_html(told, door)


def _seen(row: Difference) -> str:
    """What somebody sees of it who is asked for a reason."""
    return f"{row.pk} {row.stored} {row.proven}"


@admin.register(Difference)
class DifferenceAdmin(OfAccountAdmin):
    says = (
        "What does not follow from the lines. Nothing is corrected by itself: find the cause, then acknowledge or reverse."
    )
    empty = "Nothing differs. Good."
    list_display = ("shown_state", "rule", "of_place", "day", "entry", "shown_stored", "shown_proven", "first", "last")
    list_display_links = ("rule",)
    list_filter = (StateFilter, RuleFilter, BranchFilter)
    search_help_text = "A whole branch/account"
    ordering = ("-id",)
    fields = (
        *("shown_state", "rule", "of_place", "day", "entry", "shown_stored", "shown_proven", "first", "last", "check_link"),
        *("next_step", "acknowledged", "acknowledged_by", "reason", "gone"),
    )
    actions = ("acknowledge",)
    list_disable_select_all = True  # what is acknowledged is what somebody saw

    shown_state = column("State", lambda row: chip(_STATES[row.state]))
    of_place = column("Account", _place)
    day = column("Day", lambda row: _day(row.dateref) if row.dateref else "—")
    entry = column("Entry", lambda row: _entry(row.tracekey))
    shown_stored = column("Stored", _stored)
    shown_proven = column("Proven", _proven)
    first = column("First seen", lambda row: moment(row.first_seen))
    last = column("Last seen", lambda row: moment(row.last_seen))
    check_link = column(
        "Seen by", lambda row: link(address("ledger_check_change", row.check_run_id), short(row.check_run_id))
    )
    next_step = column("What to do", _next_step)
    acknowledged = column("Acknowledged", lambda row: moment(row.acknowledged_at))
    gone = column("Gone", lambda row: moment(row.gone_at))

    def has_acknowledge_permission(self, request: HttpRequest) -> bool:
        """Who may run the action."""
        return bool(request.user.has_perm(PERMISSION))

    @admin.action(description="Acknowledge…", permissions=["acknowledge"])
    def acknowledge(self, request: HttpRequest, queryset: QuerySet[Difference]) -> HttpResponse | None:
        """The page that asks for a reason, or, when it was given, the deed; None leads back to the list."""
        user = request.user
        if not isinstance(user, User) or not user.has_perm(PERMISSION):
            raise PermissionDenied
        chosen = list(queryset.order_by("id")[:ACKNOWLEDGED_MAX])
        fit = [row for row in chosen if row.state != Difference.State.GONE]
        form = ReasonForm(request.POST if CONFIRMED in request.POST else None)
        status = 422 if form.errors else 200
        if fit and form.is_valid():
            if self._acknowledge(request, user, fit, form.cleaned_data["reason"]):
                return None
            fit, status = list(queryset.exclude(state=Difference.State.GONE).order_by("id")[:ACKNOWLEDGED_MAX]), 409
        context = {
            **admin.site.each_context(request),
            "title": "Acknowledge differences",
            "opts": self.opts,
            "fit": [(row, _stored(row), _proven(row), _seen(row)) for row in fit],
            "others": len(chosen) - len(fit),
            "changed": status == 409,
            "form": form,
            "checkbox": ACTION_CHECKBOX_NAME,
            "confirmed": CONFIRMED,
        }
        return render(request, "ledger/admin/acknowledge.html", context, status=status)

    def _acknowledge(self, request: HttpRequest, user: User, chosen: list[Difference], reason: str) -> bool:
        """All of them, if they still are what was seen: a check may have found other amounts since. Was it done?"""
        seen = set(request.POST.getlist("seen"))
        with transaction.atomic():  # with its entries in the log of the back office
            rows = list(Difference.objects.select_for_update().filter(pk__in=[row.pk for row in chosen]).order_by("id"))
            if any(_seen(row) not in seen or row.state == Difference.State.GONE for row in rows):
                return False
            for row in rows:
                differences.acknowledge(difference_id=row.pk, by=user.get_username(), reason=reason, now=timezone.now())
                self.log_change(request, row, f"Acknowledged: {reason}")
        messages.success(request, f"{len(rows)} acknowledged.")
        return True


class ReasonForm(forms.Form):
    """Why a difference may stay for now."""

    reason = reason_field(
        kept="Say why: it stays with the difference.",
        max_length=differences.REASON_CHARACTERS_MAX,
        widget=forms.Textarea(attrs={"rows": 3}),
    )


def _suspension_state(row: Suspension) -> SafeString:
    if row.lifted_at is not None:
        return chip(Look("idle", "ok", "Lifted"))
    return chip(Look("warn", "bar", "In force") if row.until > timezone.now() else Look("idle", "clock", "Over"))


@admin.register(Suspension)
class SuspensionAdmin(KeyedAdmin):
    says = "Where posting was suspended, by whom and why. Made and lifted by manage.py ledger_suspend, or over the API."
    empty = "Posting was never suspended."
    list_display = fields = ("in_force", "scope", "mode", "reason", "suspended_by", "began", "ends", "lifted", "lifted_by")
    list_display_links = ("scope",)
    search_help_text = "How the id of a suspension begins"
    actions = ("lift",)
    list_disable_select_all = True

    in_force = column("State", _suspension_state)
    scope = column("Of", _scope)
    began = column("Since", lambda row: moment(row.since))
    ends = column("Until", lambda row: moment(row.until))
    lifted = column("Lifted", lambda row: moment(row.lifted_at))

    def has_lift_permission(self, request: HttpRequest) -> bool:
        """Who may run the action."""
        return bool(request.user.has_perm("ledger.change_suspension"))

    @admin.action(description="Lift", permissions=["lift"])
    def lift(self, request: HttpRequest, queryset: QuerySet[Suspension]) -> None:
        """Let writers in again."""
        rows = list(queryset.filter(lifted_at=None)[: suspensions.ACTIVE_MAX])
        with transaction.atomic():
            for row in rows:
                by = request.user.get_username()
                suspensions.resume(suspension_id=row.pk, by=by, now=timezone.now())
                self.log_change(request, row, "Lifted")
        messages.success(request, f"{len(rows)} lifted.")

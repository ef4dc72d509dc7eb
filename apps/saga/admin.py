"""Runs, to look at. The page of one run joins what other apps know, so it stands on the floor above: the back office."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import RangeDateTimeFilter
from unfold.paginator import InfinitePaginator

from apps.common.admin import KeyedAdmin, Look, address, as_uuid, chip, column, link, moment, short
from apps.saga import triage_admin
from apps.saga.admin_filters import LED_TO, UseCaseFilter
from apps.saga.filters import STATES, Filter, in_state
from apps.saga.models import Approval, ApprovalStatus, Audit, Lock, Pause, Run, RunStatus, Step
from apps.saga.overview import in_need
from apps.saga.queries import NAMESAKES_MAX, runs_known_by
from apps.saga.search import TOTAL_MAX

_ = triage_admin  # it registers itself


class NeedsFilter(admin.SimpleListFilter):
    """The runs that somebody should look at, by the same rules as the home page."""

    title = "attention"
    parameter_name = "needs"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("any", "Needs a person"),
            ("stuck", "Stuck"),
            ("undoing", "Undoing for long"),
            ("overdue", "Overdue: nobody wakes it"),
            ("open", "Not over yet"),
            ("live", "On the way"),
            ("in_error", "In error: retried, undoing or stuck"),
            ("held", "Held by a pause"),
            ("slow", "Slow: past the target"),
            ("late", "Late: past the deadline"),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Run]) -> QuerySet[Run]:
        wanted, now = self.value(), timezone.now()
        if wanted in STATES and wanted != "stuck":
            return queryset.filter(in_state(Filter(state=wanted), now=now))
        known = {value for value, _ in self.lookup_choices}
        return queryset.filter(in_need(wanted, now=now)) if wanted in known else queryset


def _component(name: str, **context: Any) -> SafeString:
    return render_to_string(f"components/{name}.html", context)


class CountedPaginator(InfinitePaginator):
    """Pages without a count of all rows, and a total that is exact as far as it is counted."""

    @cached_property
    def total_text(self) -> str:
        """1,284 or 10,000+."""
        counted = self.object_list.order_by()[: TOTAL_MAX + 1].count()
        return f"{min(counted, TOTAL_MAX):,}" + ("+" if counted > TOTAL_MAX else "")


# The theme writes "9999999999 results" over a list, unless its paginator is called by this name.
CountedPaginator.__name__ = InfinitePaginator.__name__


@admin.register(Run)
class RunAdmin(ModelAdmin):
    change_list_template = "backoffice/runs.html"
    empty = "No run yet. The first order begins one."
    list_display = ("state", "business", "use_case", "current_step", "started", "age", "error")
    list_display_links = ("business",)
    list_filter = (NeedsFilter, "status", UseCaseFilter, ("started_at", RangeDateTimeFilter), *LED_TO)
    list_filter_submit = True
    list_per_page = 50
    ordering = ("-id",)
    paginator = CountedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # facets count whole tables
    search_fields = ("business_key",)  # shows the field; get_search_results decides
    search_help_text = "A whole run id, order id, global id, business key or Idempotency-Key"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        current = Step.objects.filter(run=OuterRef("pk"), position=OuterRef("cursor")).values("name")[:1]
        queryset: QuerySet[Run] = super().get_queryset(request).annotate(step_name=Subquery(current)).defer("data")
        return queryset

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Run], search_term: str
    ) -> tuple[QuerySet[Run], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        by_text = Q(business_key=term) | (Q(idempotency_key=term) & ~Q(idempotency_key=""))
        try:
            wanted = UUID(term)
        except ValueError:
            return queryset.filter(by_text), False
        by_key = queryset.model.objects.filter(by_text).order_by().values_list("pk", flat=True)[:NAMESAKES_MAX]
        return queryset.filter(pk__in=[*runs_known_by(wanted), *by_key]), False

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        run_id = as_uuid(object_id)
        if run_id is None:
            raise Http404("There is no such run.")
        return redirect("admin:backoffice_run", run_id)

    @admin.display(description="State", ordering="status")
    def state(self, row: Run) -> SafeString:
        return _component("chip", kind="run", state="HELD" if row.held_by is not None else row.status)

    @admin.display(description="Order")
    def business(self, row: Run) -> str:
        return row.business_key

    @admin.display(description="Step")
    def current_step(self, row: Run) -> str:
        if row.status == RunStatus.STUCK and row.failed_step:
            return row.failed_step
        return str(row.step_name or "—") if row.finished_at is None else "—"  # type: ignore[attr-defined]

    @admin.display(description="Started", ordering="-id")
    def started(self, row: Run) -> SafeString:
        return _component("moment", at=row.started_at)

    @admin.display(description="Age")
    def age(self, row: Run) -> SafeString:
        length: timedelta = (row.finished_at or timezone.now()) - row.started_at
        return _component("duration", length=length)

    @admin.display(description="Error")
    def error(self, row: Run) -> str:
        return row.error_code or "—"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _pause_state(row: Pause) -> SafeString:
    if row.lifted_at is None:
        return chip(Look("warn", "bar", "In force"))
    return chip(Look("run", "run", "Letting go") if row.released_at is None else Look("idle", "ok", "Lifted"))


@admin.register(Pause)
class PauseAdmin(KeyedAdmin):
    """Pauses, also those that are over. They are made and lifted on the page of their use case."""

    list_display = ("in_force", "use_case", "step", "kind", "paused", "paused_by", "why", "lifted", "lifted_by")
    list_display_links = ("use_case",)
    list_filter = (("paused_at", RangeDateTimeFilter),)
    list_filter_submit = True
    search_help_text = "How the id of a pause begins"
    fields = readonly_fields = (
        *("in_force", "use_case", "step", "kind", "refuses", "holds_undo", "paused", "paused_by", "reason"),
        *("lifted", "lifted_by", "lift_reason"),
    )
    says = "What was paused, by whom and why. Pause and resume on the page of the use case."
    empty = "Nothing was ever paused. Good."
    in_force = column("State", _pause_state)
    paused = column("Paused", lambda row: moment(row.paused_at))
    lifted = column("Lifted", lambda row: moment(row.lifted_at))
    why = column("Why", lambda row: row.reason)


_APPROVALS = {
    ApprovalStatus.OPEN: Look("run", "wait", "Waits"),
    ApprovalStatus.APPROVED: Look("ok", "ok", "Approved"),
    ApprovalStatus.REFUSED: Look("idle", "close", "Refused"),
    ApprovalStatus.EXPIRED: Look("warn", "warn", "Nobody decided"),
    ApprovalStatus.CLOSED: Look("undo", "undo", "Not needed any more"),
}


def _run_link(row: Any) -> str:
    return link(address("backoffice_run", row.run_id), short(row.run_id))


@admin.register(Approval)
class ApprovalAdmin(KeyedAdmin):
    """Approvals, also those that are decided. They are decided on the page of each."""

    list_display = ("state", "asks", "business_key", "use_case", "asked", "open_until", "decided", "decided_by")
    list_display_links = None
    list_filter = ("status", ("asked_at", RangeDateTimeFilter))
    list_filter_submit = True
    search_help_text = "How the id of an approval begins, or a whole business key"
    fields = readonly_fields = (
        *("state", "asks", "run", "use_case", "step", "told", "deciders", "delegates", "asked", "open_until"),
        *("decided", "decided_by", "reason"),
    )
    says = "What runs have asked people, and what was decided."
    empty = "No run has asked anybody yet."
    state = column("State", lambda row: chip(_APPROVALS[ApprovalStatus(row.status)]))
    told = column("Facts", lambda row: "; ".join(f"{name}: {text}" for name, text in row.facts) or "—")
    asks = column("Question", lambda row: link(address("backoffice_approval", row.pk), row.question[:100], wraps=True))
    run = column("Run", _run_link)
    asked = column("Asked", lambda row: moment(row.asked_at))
    open_until = column("Until", lambda row: moment(row.until))
    decided = column("Decided", lambda row: moment(row.decided_at))

    def by_key(self, text: str) -> Q:
        return super().by_key(text) | Q(business_key=text)


@admin.register(Lock)
class LockAdmin(KeyedAdmin):
    """Keys of runs that are not over."""

    list_display = ("key", "state", "run", "asked", "held")
    list_display_links = None
    list_filter = ("state",)
    ordering = ("key",)
    search_help_text = "How a key begins"
    says = "Keys that runs hold until they end, and the runs that wait for them, in their order."
    empty = "No run holds a key."
    run = column("Run", _run_link)
    asked = column("Asked", lambda row: moment(row.asked_at))
    held = column("Held since", lambda row: moment(row.held_at))

    def by_key(self, text: str) -> Q:
        return Q(key__startswith=text)


@admin.register(Audit)
class AuditAdmin(KeyedAdmin):
    """Who intervened, and why."""

    list_display = ("when", "actor", "action", "use_case", "step", "run", "why")
    list_display_links = ("when",)
    list_filter = (("at", RangeDateTimeFilter),)
    list_filter_submit = True
    search_help_text = "How the id of an intervention begins"
    fields = readonly_fields = ("when", "actor", "action", "use_case", "step", "run", "reason", "detail")
    says = "Every intervention of a person, a program or a breaker, with its reason. Nothing here is ever changed."
    empty = "Nobody had to intervene yet."
    when = column("Time", lambda row: moment(row.at))
    run = column("Run", lambda row: link(address("backoffice_run", row.run_id), short(row.run_id)) if row.run_id else "—")
    why = column("Why", lambda row: row.reason)

"""Runs, to look at. The page of one run joins what other apps know, so it stands on the floor above: the back office."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import RangeDateTimeFilter
from unfold.paginator import InfinitePaginator

from apps.saga.definition import registered
from apps.saga.models import LIVE, Run, RunStatus, Step
from apps.saga.overview import in_need
from apps.saga.queries import NAMESAKES_MAX, runs_known_by


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
            ("live", "On the way"),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Run]) -> QuerySet[Run]:
        wanted = self.value()
        if wanted == "live":
            return queryset.filter(status__in=LIVE)
        known = {value for value, _ in self.lookup_choices}
        return queryset.filter(in_need(wanted, now=timezone.now())) if wanted in known else queryset


class UseCaseFilter(admin.SimpleListFilter):
    """The use cases that are registered: asking the table for them would read all of it."""

    title = "use case"
    parameter_name = "use_case"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in sorted({definition.use_case for definition in registered()})]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Run]) -> QuerySet[Run]:
        return queryset.filter(use_case=self.value()) if self.value() else queryset


def _component(name: str, **context: Any) -> SafeString:
    return render_to_string(f"components/{name}.html", context)


@admin.register(Run)
class RunAdmin(ModelAdmin):
    list_display = ("state", "business", "use_case", "current_step", "started", "age", "error")
    list_display_links = ("business",)
    list_filter = (NeedsFilter, "status", UseCaseFilter, ("started_at", RangeDateTimeFilter))
    list_filter_submit = True
    list_per_page = 50
    ordering = ("-started_at",)
    paginator = InfinitePaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # facets count whole tables
    search_fields = ("business_key",)  # shows the field; get_search_results decides
    search_help_text = "A whole run id, order id, global id or business key"

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
        try:
            wanted = UUID(term)
        except ValueError:
            return queryset.filter(business_key=term), False
        by_key = queryset.model.objects.filter(business_key=term).order_by().values_list("pk", flat=True)[:NAMESAKES_MAX]
        return queryset.filter(pk__in=[*runs_known_by(wanted), *by_key]), False

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return redirect("admin:backoffice_run", object_id)

    @admin.display(description="State", ordering="status")
    def state(self, row: Run) -> SafeString:
        return _component("chip", kind="run", state=row.status)

    @admin.display(description="Order")
    def business(self, row: Run) -> str:
        return row.business_key

    @admin.display(description="Step")
    def current_step(self, row: Run) -> str:
        if row.status == RunStatus.STUCK and row.failed_step:
            return row.failed_step
        return str(row.step_name or "—") if row.finished_at is None else "—"  # type: ignore[attr-defined]

    @admin.display(description="Started", ordering="-started_at")
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

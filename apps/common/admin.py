"""Pages of the back office that are there to look at: what the admins of all apps share.

The templates are the back office's, and are used by name.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin, TabularInline
from unfold.paginator import InfinitePaginator

from apps.common.doors import address as address  # noqa: PLC0414  # every admin takes it from here
from apps.common.looks import Look as Look  # noqa: PLC0414  # every admin takes it from here

Found = tuple[QuerySet[Any], bool]  # what a search answers: the rows, and whether one may stand twice among them


def component(name: str, **context: Any) -> SafeString:
    """One of the back office's components, drawn."""
    return render_to_string(f"components/{name}.html", context)


def chip(look: Look) -> SafeString:
    """A state's word with its icon, in its colours."""
    return component("chip_of", look=look)


def moment(at: Any) -> SafeString:
    """A time in the viewer's zone; a dash for None."""
    return component("moment", at=at)


def hinted(text: Any, whole: Any) -> SafeString:
    """A text on one line; what it is short for, or a note to it, stands on hover."""
    return format_html('<span class="bo-nw" title="{}">{}</span>', whole, text)


def link(href: str, text: str, title: str = "", *, wraps: bool = False) -> str:
    """A link, on one line unless it ``wraps``; the text alone when there is no address."""
    css = "bo-l" if wraps else "bo-l bo-nw"
    return format_html('<a class="{}" href="{}" title="{}">{}</a>', css, href, title, text) if href else text


def short(key: object) -> str:
    """Beginning and end of a long key."""
    text = str(key)
    return f"{text[:8]}…{text[-6:]}" if len(text) > 20 else text


def as_uuid(text: str) -> UUID | None:
    """The UUID that a text is, if it is one."""
    try:
        return UUID(text)
    except ValueError:
        return None


def id_begins(text: str) -> Q:
    """Rows whose id, a UUID, begins so: a range, which the primary key's index answers."""
    digits = text.replace("-", "").lower()
    if not digits or len(digits) > 32 or set(digits) - set("0123456789abcdef"):
        return Q(pk__in=[])
    return Q(pk__range=(UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))))


def column(title: str, show: Callable[[Any], Any]) -> Any:
    """A column, or a line of a page, that shows something of a row."""

    @admin.display(description=title)
    def shown(_admin: ModelAdmin, row: Any) -> Any:
        return show(row)

    return shown


class WordsFilter(admin.SimpleListFilter):
    """Rows with one value, which the list calls by its word. It reads no table."""

    field = ""
    words: dict[str, str] = {}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(self.words.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        return queryset.filter(**{self.field: self.value()}) if self.value() in self.words else queryset


class CreatedFilter(admin.SimpleListFilter):
    """Rows of a recent time: they are the newest, at which the list begins anyway."""

    title = "created"
    parameter_name = "created"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("today", "Today"), ("hour", "In the last hour"), ("week", "In the last 7 days")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        now = timezone.localtime()
        since = {
            "today": now.replace(hour=0, minute=0, second=0, microsecond=0),
            "hour": now - timedelta(hours=1),
            "week": now - timedelta(days=7),
        }.get(self.value() or "")
        return queryset.filter(created_at__gte=since) if since else queryset


class ReadOnly:
    """Nothing is added, changed or deleted here: that is what verbs are for."""

    def _never(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    # Fields of a page that nobody may change need no readonly_fields: Django takes all of them for that.
    has_add_permission = has_change_permission = has_delete_permission = _never


class ReadOnlyInline(ReadOnly, TabularInline):
    """Rows that belong to the row of a page."""

    extra = 0
    hide_title = True


class ReadOnlyAdmin(ReadOnly, ModelAdmin):
    """A list and a page for each row. ``says`` stands over the list, ``empty`` in place of one without rows."""

    change_list_template = "backoffice/list.html"
    list_per_page = 50  # two screens
    paginator = InfinitePaginator
    show_full_result_count = False  # a count reads the whole table
    show_facets = admin.ShowFacets.NEVER  # facets count whole tables
    sortable_by = ()  # in the order of an index: any other sorts the whole table
    says = ""
    empty = ""

    def page(self, row: Any) -> dict[str, Any]:
        """What the page of a row shows beside the row."""
        return {}

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **options: Any
    ) -> HttpResponseBase:
        more = self.page(options["obj"]) if options.get("obj") else {}
        answer: HttpResponseBase = super().render_change_form(request, context | more, *args, **options)
        return answer


class KeyedAdmin(ReadOnlyAdmin):
    """Rows whose id is a uuid7: newest first, and found by how an id begins."""

    ordering = ("-id",)
    search_fields = ("id",)  # shows the search box; get_search_results decides

    def by_key(self, text: str) -> Q:
        """What a searched text may name."""
        return id_begins(text)

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> Found:
        text = search_term.strip()
        return (queryset.filter(self.by_key(text)) if text else queryset), False

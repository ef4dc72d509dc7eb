"""What the back office adds to the admin: its own pages, and Django's users, groups and audit log in the same clothes."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import URLPattern
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.paginator import InfinitePaginator

from apps.backoffice.login import limited
from apps.common.admin import column


def _page_urls() -> list[URLPattern]:
    # Late: every process of ours loads the admin, and most never show a page.
    from apps.backoffice.urls import page_urls

    return page_urls()


admin.site.extra_urls = _page_urls  # type: ignore[attr-defined]  # unfold's site asks for pages that belong to no model

admin.site.login = limited(admin.site.login)  # type: ignore[assignment,method-assign]  # its URLs are made later

admin.site.empty_value_display = "—"  # as our own columns have it

admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs alone
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    paginator = InfinitePaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # facets count whole tables


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, ModelAdmin):
    pass


@admin.register(LogEntry)
class LogEntryAdmin(ModelAdmin):
    """Who did what, and why: written by every action, changed by none."""

    change_list_template = "backoffice/list.html"
    says = "What people did here, and why. What they did about runs stands under Interventions."
    empty = "Nobody has done anything yet."

    list_display = ("at", "user", "what", "kind", "done", "why")
    list_display_links = None
    list_filter = ("action_flag",)
    list_select_related = ("user", "content_type")
    list_per_page = 50
    ordering = ("-action_time", "-id")
    paginator = InfinitePaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # facets count whole tables
    search_fields = ("object_id__exact", "user__username__exact")
    search_help_text = "A whole object id or user name"

    @admin.display(description="Time", ordering="-action_time")
    def at(self, row: LogEntry) -> SafeString:
        return render_to_string("components/moment.html", {"at": row.action_time})

    # Django's own names for them are those of its columns.
    what = column("What", lambda row: row.object_repr)
    kind = column("Kind", lambda row: row.content_type.name if row.content_type else "—")
    done = column("Done", lambda row: row.get_action_flag_display())
    why = column("Why", lambda row: row.get_change_message())

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

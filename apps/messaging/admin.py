"""The post office, to look at: the log of all messages, what waits to be sent, what is tried again."""

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.paginator import InfinitePaginator

from apps.messaging.inbox import groups
from apps.messaging.models import Inbox, Message, Pending, Redelivery
from apps.messaging.overview import error_topics


def _component(name: str, **context: Any) -> SafeString:
    return render_to_string(f"components/{name}.html", context)


class ReadOnlyAdmin(ModelAdmin):
    """A list and a page for each row, without any way to write: messages are facts."""

    list_per_page = 50
    paginator = InfinitePaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # facets count whole tables

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class KindFilter(admin.SimpleListFilter):
    """Dead letters, or what has not been sent."""

    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("dead", "Dead letters"), ("pending", "Not sent yet")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Message]) -> QuerySet[Message]:
        if self.value() == "dead":
            return queryset.filter(topic__in=error_topics())
        return (
            queryset.filter(message_id__in=Pending.objects.values("message_id")) if self.value() == "pending" else queryset
        )


class TopicFilter(admin.SimpleListFilter):
    """The topics that somebody reads: asking the table for them would read all of it."""

    title = "topic"
    parameter_name = "topic"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        names = sorted({topic for topics in groups().values() for topic in topics} | set(error_topics()))
        return [(name, name) for name in names]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Message]) -> QuerySet[Message]:
        return queryset.filter(topic=self.value()) if self.value() else queryset


@admin.register(Message)
class MessageAdmin(ReadOnlyAdmin):
    list_display = ("made", "state", "topic", "key", "schema")
    list_filter = (KindFilter, TopicFilter)
    ordering = ("-message_id",)  # an id begins with its time
    search_fields = ("message_id",)  # shows the field; get_search_results decides
    search_help_text = "A whole message id, a whole global id, or a whole topic"
    fields = readonly_fields = ("state", "topic", "key", "schema", "message_id", "made", "handled_by", "reason", "envelope")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Message]:
        waiting = Pending.objects.filter(seq=OuterRef("seq"))
        queryset: QuerySet[Message] = super().get_queryset(request)
        return queryset.annotate(
            is_pending=Exists(waiting.filter(parked_at__isnull=True)),
            is_parked=Exists(waiting.filter(parked_at__isnull=False)),
            is_handled=Exists(Inbox.objects.filter(message_id=OuterRef("message_id"))),
            is_retrying=Exists(Redelivery.objects.filter(message_id=OuterRef("message_id"))),
        )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Message], search_term: str
    ) -> tuple[QuerySet[Message], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        try:
            found = UUID(term)
        except ValueError:
            return queryset.filter(topic=term), False
        return queryset.filter(Q(message_id=found) | Q(global_id=str(found))), False

    @admin.display(description="State")
    def state(self, row: Any) -> SafeString:
        states = [
            ("PARKED", row.is_parked),
            ("PENDING", row.is_pending),
            ("RETRYING", row.is_retrying),
            ("DEAD", row.topic.endswith(".error")),
            ("HANDLED", row.is_handled),
        ]
        return _component("chip", kind="message", state=next((name for name, holds in states if holds), "SENT"))

    @admin.display(description="Made", ordering="message_id")
    def made(self, row: Message) -> SafeString:
        return _component("moment", at=row.created_at)

    @admin.display(description="Handled by")
    def handled_by(self, row: Message) -> str:
        found = Inbox.objects.filter(message_id=row.message_id).order_by("group").values_list("group", flat=True)
        return ", ".join(found) or "—"

    @admin.display(description="Reason")
    def reason(self, row: Message) -> str:
        return str(row.meta.get("error", {}).get("reason") or "—")

    @admin.display(description="Envelope")
    def envelope(self, row: Message) -> SafeString:
        return _component("json", value=row.envelope)


class ParkedFilter(admin.SimpleListFilter):
    """Rows that the broker refuses to take, and that wait for a person."""

    title = "parked"
    parameter_name = "parked"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Parked"), ("no", "On the way")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Pending]) -> QuerySet[Pending]:
        parked = Q(parked_at__isnull=False)
        return {"yes": queryset.filter(parked), "no": queryset.exclude(parked)}.get(self.value() or "", queryset)


@admin.register(Pending)
class PendingAdmin(ReadOnlyAdmin):
    list_display = ("seq", "state", "topic", "key", "attempts", "due", "error")
    list_filter = (ParkedFilter,)
    ordering = ("seq",)
    search_fields = ("=topic",)
    search_help_text = "A whole topic"
    fields = readonly_fields = ("seq", "state", "topic", "key", "bucket", "attempts", "due", "parked_at", "error")

    @admin.display(description="State")
    def state(self, row: Pending) -> SafeString:
        return _component("chip", kind="message", state="PARKED" if row.parked_at else "PENDING")

    @admin.display(description="Due", ordering="due_at")
    def due(self, row: Pending) -> SafeString:
        return _component("moment", at=row.due_at)


@admin.register(Redelivery)
class RedeliveryAdmin(ReadOnlyAdmin):
    list_display = ("id", "group", "topic", "key", "attempts", "due", "error")
    ordering = ("id",)
    search_fields = ("=topic", "=group")
    search_help_text = "A whole topic or group"
    fields = readonly_fields = ("group", "topic", "key", "message_id", "attempts", "due", "error", "shown_envelope")

    @admin.display(description="Due", ordering="due_at")
    def due(self, row: Redelivery) -> SafeString:
        return _component("moment", at=row.due_at)

    @admin.display(description="Envelope")
    def shown_envelope(self, row: Redelivery) -> SafeString:
        return _component("json", value=row.envelope)

"""The post office, to look at: the log of all messages, what waits to be sent, what is tried again."""

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.paginator import InfinitePaginator

from apps.common.admin import address, as_uuid, link
from apps.messaging import replay_page
from apps.messaging.dead_letters import error_topics, is_dead_letter, replays_of
from apps.messaging.inbox import groups
from apps.messaging.models import DeadLetterReplay, Inbox, Message, Pending, Redelivery
from apps.messaging.replay import REPLAY_OF

REPLAYS_SHOWN = 20  # of one dead letter, the last ones


def _component(name: str, **context: Any) -> SafeString:
    return render_to_string(f"components/{name}.html", context)


def _message_link(message_id: UUID | None) -> SafeString | str:
    """A message by its id; empty for what is no id."""
    return link(address("messaging_message_change", message_id), str(message_id), wraps=True) if message_id else ""


class ReadOnlyAdmin(ModelAdmin):
    """A list and a page for each row, without any way to write: messages are facts."""

    change_list_template = "backoffice/list.html"
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
        return [("dead", "Dead letters"), ("replayed", "Replayed dead letters"), ("pending", "Not sent yet")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Message]) -> QuerySet[Message]:
        wanted = self.value()
        if wanted in {"dead", "replayed"}:
            replayed = Exists(replays_of(OuterRef("message_id")))
            return queryset.filter(replayed if wanted == "replayed" else ~replayed, topic__in=error_topics())
        return queryset.filter(message_id__in=Pending.objects.values("message_id")) if wanted == "pending" else queryset


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
    says = "Everything that was published, newest first. Dead letters are what nobody could handle: a filter finds them."
    empty = "Nothing was published yet."
    list_display = ("made", "state", "topic", "key", "schema")
    list_filter = (KindFilter, TopicFilter)
    ordering = ("-message_id",)  # an id begins with its time
    search_fields = ("message_id",)  # shows the field; get_search_results decides
    search_help_text = "A whole message id, a whole global id, or a whole topic"
    fields = readonly_fields = ("state", "topic", "key", "schema", "message_id", "made", "handled_by", "envelope")
    actions = ("replay",)
    list_disable_select_all = True  # what is replayed is what somebody saw; the paginator does not count the rest anyway

    def get_queryset(self, request: HttpRequest) -> QuerySet[Message]:
        waiting = Pending.objects.filter(seq=OuterRef("seq"))
        queryset: QuerySet[Message] = super().get_queryset(request)
        return queryset.annotate(
            is_pending=Exists(waiting.filter(parked_at__isnull=True)),
            is_parked=Exists(waiting.filter(parked_at__isnull=False)),
            is_handled=Exists(Inbox.objects.filter(message_id=OuterRef("message_id"))),
            is_retrying=Exists(Redelivery.objects.filter(message_id=OuterRef("message_id"))),
            is_replayed=Exists(replays_of(OuterRef("message_id"))),
        )

    def get_fields(self, request: HttpRequest, obj: Message | None = None) -> tuple[str, ...]:
        if obj is None:
            return self.fields
        more = ("error", "origin", "replays") if is_dead_letter(obj) else ()
        return (*self.fields[:-1], *more, *(("replay_of",) if REPLAY_OF in obj.meta else ()), "envelope")

    def get_readonly_fields(self, request: HttpRequest, obj: Message | None = None) -> tuple[str, ...]:
        return self.get_fields(request, obj)

    def has_replay_permission(self, request: HttpRequest) -> bool:
        """Who may run the action."""
        return bool(request.user.has_perm(replay_page.PERMISSION))

    @admin.action(description="Replay dead letters…", permissions=["replay"])
    def replay(self, request: HttpRequest, queryset: QuerySet[Message]) -> HttpResponse | None:
        return replay_page.answer(request, queryset, self)

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
            ("REPLAYED", row.is_replayed),
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

    @admin.display(description="Error")
    def error(self, row: Message) -> SafeString:
        return _component("letter_error", error=row.meta["error"])

    @admin.display(description="Came from")
    def origin(self, row: Message) -> SafeString:
        error = row.meta["error"]
        original = as_uuid(str(error.get("message-id")))
        return _component("letter_origin", error=error, original=original and _message_link(original))

    @admin.display(description="Replays")
    def replays(self, row: Message) -> SafeString | str:
        found = [(replay, _message_link(replay.message_id)) for replay in replays_of(row.message_id)[:REPLAYS_SHOWN]]
        if found:
            return _component("letter_replays", replays=found)
        door = address("messaging_message_changelist", query=f"?kind=dead&q={row.message_id}")
        return format_html("Not replayed. {} to send it again.", link(door, "Mark it in the list"))

    @admin.display(description="Replay of")
    def replay_of(self, row: Message) -> SafeString | str:
        return _message_link(as_uuid(str(row.meta[REPLAY_OF]))) or "—"

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
    says = "Messages that the broker has not acknowledged yet. A parked one holds up its key until somebody lets it go on."
    empty = "Nothing waits: the broker has everything. Good."
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
    says = "Messages whose handler failed and which are handled again, and those of their key that wait behind them."
    empty = "Nothing waits to be handled again. Good."
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


@admin.register(DeadLetterReplay)
class DeadLetterReplayAdmin(ReadOnlyAdmin):
    """Who sent which dead letter again, and why."""

    says = "Dead letters that somebody sent again, and why."
    empty = "No dead letter was sent again yet."
    list_display = ("at", "replayed_by", "group", "topic", "reason", "letter")
    ordering = ("-message_id",)  # an id begins with its time
    search_fields = ("message_id",)  # shows the field; get_search_results decides
    search_help_text = "A whole id, of the dead letter or of the message that was sent"
    fields = readonly_fields = ("at", "replayed_by", "reason", "group", "topic", "letter", "number", "sent", "corrected")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[DeadLetterReplay], search_term: str
    ) -> tuple[QuerySet[DeadLetterReplay], bool]:
        term = search_term.strip()
        found = as_uuid(term)
        return (queryset.filter(Q(message_id=found) | Q(dead_letter_id=found)) if term else queryset), False

    @admin.display(description="Replayed", ordering="message_id")
    def at(self, row: DeadLetterReplay) -> SafeString:
        return _component("moment", at=row.replayed_at)

    @admin.display(description="Dead letter")
    def letter(self, row: DeadLetterReplay) -> SafeString | str:
        return _message_link(row.dead_letter_id)

    @admin.display(description="Sent as")
    def sent(self, row: DeadLetterReplay) -> SafeString | str:
        return _message_link(row.message_id)

"""Idempotency keys, to look at."""

from django.contrib import admin
from django.utils.safestring import SafeString

from apps.common.admin import Look, ReadOnlyAdmin, WordsFilter, address, chip, component, link, moment
from apps.idempotency.models import IdempotencyKey


class StateFilter(WordsFilter):
    """Is the work under way, or is its answer kept?"""

    title, parameter_name, field = "state", "state__exact", "state"
    words = {"IN_FLIGHT": "Under way", "DONE": "Answered"}


@admin.register(IdempotencyKey)
class IdempotencyKeyAdmin(ReadOnlyAdmin):
    list_display = ("shown_state", "key", "merchant", "route", "number_status", "created", "until")
    list_display_links = ("key",)
    list_filter = (StateFilter,)
    search_fields = ("key__exact", "account_id__exact")
    search_help_text = "A whole key, or a whole account code"
    ordering = ("-id",)
    fieldsets = (
        ("Asked", {"fields": ("shown_state", "key", "merchant", "route", "created", "until")}),
        ("Answered", {"fields": ("number_status", "answer", "answer_headers")}),
    )
    readonly_fields = (
        *("shown_state", "key", "merchant", "route", "created", "until"),
        *("number_status", "answer", "answer_headers"),
    )
    says = "What callers asked for once only, and the answer that a repetition gets."
    empty = "No request with an Idempotency-Key has come yet."

    @admin.display(description="State")
    def shown_state(self, row: IdempotencyKey) -> SafeString:
        done = row.state == IdempotencyKey.State.DONE
        return chip(Look("ok", "ok", "Answered") if done else Look("run", "wait", "Under way"))

    @admin.display(description="Merchant")
    def merchant(self, row: IdempotencyKey) -> str:
        return link(address("identity_account_change", row.account_id), row.account_id) if row.account_id else "—"

    @admin.display(description="HTTP status")
    def number_status(self, row: IdempotencyKey) -> str:
        return str(row.status) if row.status is not None else "—"

    @admin.display(description="Asked")
    def created(self, row: IdempotencyKey) -> SafeString:
        return moment(row.created_at)

    @admin.display(description="Others wait until")
    def until(self, row: IdempotencyKey) -> SafeString:
        return moment(row.lease_until)

    @admin.display(description="Answer")
    def answer(self, row: IdempotencyKey) -> SafeString:
        return component("json", value=row.body)

    @admin.display(description="Its headers")
    def answer_headers(self, row: IdempotencyKey) -> SafeString:
        return component("json", value=row.headers)

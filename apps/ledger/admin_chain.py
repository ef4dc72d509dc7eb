"""The chain and the months behind, to look at."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from apps.common.admin import Found, Look, ReadOnlyAdmin, WordsFilter, chip, column, moment
from apps.ledger.chain_models import Block, BlockPart, Month

DIGITS_SHOWN = 16  # of a hash in a list: enough to compare with a noted one
LOOKS = {
    "SEALED": Look("ok", "lock", "Sealed"),
    "EXPORTED": Look("ok", "ok", "Exported"),
    "DETACHED": Look("idle", "clock", "In the archive"),
}


def _digits(value: Any, count: int | None = None) -> str:
    text = bytes(value).hex()
    return f"{text[:count]}…" if count else text or "—"


def _parts(row: Block) -> str:
    parts = BlockPart.objects.filter(number=row.number).order_by("month")
    return ", ".join(f"{part.month:%Y-%m}: {part.lines}" for part in parts) or "—"


@admin.register(Block)
class BlockAdmin(ReadOnlyAdmin):
    says = "Lines in the order in which they were posted, hashed block after block. manage.py verify_chain proves them."
    empty = "Nothing was chained yet."
    list_display = ("number", "made", "lines", "seq_from", "seq_to", "short_hash")
    fields = ("number", "made", "lines", "seq_from", "seq_to", "months", "whole_hash", "whole_previous")
    search_fields = ("number",)  # shows the search box; get_search_results decides
    search_help_text = "A block's number"
    ordering = ("-number",)

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> Found:
        text = search_term.strip()
        if not text:
            return queryset, False
        known = text.isascii() and text.isdigit() and len(text) < 19  # a bigint
        return (queryset.filter(number=int(text)) if known else queryset.none()), False

    made = column("Made", lambda row: moment(row.created_at))
    months = column("Lines by month", _parts)
    short_hash = column("Hash", lambda row: _digits(row.hash, DIGITS_SHOWN))
    whole_hash = column("Hash", lambda row: _digits(row.hash))
    whole_previous = column("Hash of the block before", lambda row: _digits(row.previous))


class MonthStateFilter(WordsFilter):
    title, parameter_name, field = "state", "state__exact", "state"
    words = {state: look.word for state, look in LOOKS.items()}


@admin.register(Month)
class MonthAdmin(ReadOnlyAdmin):
    says = "Months that are over for good. A month that is not here is open."
    empty = "No month is sealed yet: manage.py seal_month does it."
    list_display = ("name", "look", "lines", "sealed", "exported", "detached", "path")
    list_filter = (MonthStateFilter,)
    ordering = ("-month",)
    fields = (
        "name",
        "look",
        "lines",
        "debits",
        "credits",
        "sealed",
        "sealed_by",
        "exported",
        "exported_by",
        "detached",
        "detached_by",
        "path",
        "whole_hash",
        "whole_file_hash",
    )

    name = column("Month", lambda row: f"{row.month:%Y-%m}")
    look = column("State", lambda row: chip(LOOKS[row.state]))
    sealed = column("Sealed", lambda row: moment(row.sealed_at))
    exported = column("Exported", lambda row: moment(row.exported_at))
    detached = column("Detached", lambda row: moment(row.detached_at))
    whole_hash = column("Seal", lambda row: _digits(row.hash))
    whole_file_hash = column("Hash of its file", lambda row: _digits(row.file_hash))

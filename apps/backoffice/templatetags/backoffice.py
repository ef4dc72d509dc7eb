"""The components as template tags and filters: `{% load backoffice %}`."""

import json
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.backoffice.components import formats, masking
from apps.backoffice.components.icons import icon as draw_icon
from apps.backoffice.components.states import Look, look
from apps.common.doors import address
from apps.observability.masking import mask_text

register = template.Library()


@register.filter
def money(value: Decimal | None, currency: str = "BRL") -> str:
    """R$ 1,284.50"""
    return formats.money(value, currency=currency)


@register.filter
def amount(value: Decimal) -> str:
    """1,284.50: in a ledger's column"""
    return formats.amount(value)


@register.filter
def document_key(value: str) -> str:
    """The access key in groups of four"""
    return formats.document_key(value)


@register.filter
def count(value: int) -> str:
    """1,284"""
    return formats.count(value)


@register.filter
def duration(value: timedelta | None) -> str:
    """21 min 40 s"""
    return formats.duration(value)


@register.filter
def brief(value: timedelta | None) -> str:
    """12 min: a duration where there is little room"""
    return formats.brief(value)


@register.filter
def age(value: timedelta) -> str:
    """14 min: how long already"""
    return formats.age(value)


@register.filter
def px(value: float) -> str:
    """A coordinate of a drawing: never with a decimal comma, whatever the language."""
    return f"{value:.1f}"


@register.filter
def add_px(value: float, more: float) -> str:
    """A coordinate, moved by so many pixels"""
    return px(value + float(more))


@register.filter
def tail(value: object) -> str:
    """The end of a long key: what tells it from its neighbours"""
    return str(value)[-6:]


@register.filter
def words(value: str) -> str:
    """authorise_payment: authorise payment"""
    return formats.words(value)


@register.filter
def masked_json(value: Any) -> str:
    """JSON as people read it, with everything hidden that must not be seen."""
    return json.dumps(masking.mask(value), indent=2, ensure_ascii=False, default=str)


@register.filter
def masked(value: str) -> str:
    """A text without card numbers and CPFs."""
    return mask_text(value)


@register.simple_tag
def moment(value: datetime | None, exact: bool = False) -> str | SafeString:
    """<time> in the viewer's zone, with UTC on hover."""
    if value is None:
        return formats.NOTHING
    shown = formats.moment(value, now=timezone.now(), exact=exact)
    return format_html('<time class="bo-nw" datetime="{}" title="{}">{}</time>', shown.utc, shown.utc, shown.text)


@register.simple_tag
def chip(kind: str, state: str) -> SafeString:
    """A state with its icon, its word and its colours."""
    return chip_of(look(kind, state))


@register.simple_tag
def chip_of(seen: Look, word: str = "") -> SafeString:
    """A look as a chip, perhaps with another word."""
    return format_html('<span class="bo-chip bo-{}">{}{}</span>', seen.tone, draw_icon(seen.icon), word or seen.word)


@register.simple_tag
def icon(name: str, css: str = "") -> SafeString:
    """One of our icons."""
    return draw_icon(name, css)


@register.simple_block_tag
def door(content: str, page: str, *args: Any, css: str = "bo-l", query: str = "") -> str:
    """A link to one of the admin's pages around what stands here; without it when it is not for the viewer."""
    href = address(page, *args, query=query)
    return format_html('<a class="{}" href="{}">{}</a>', css, href, content) if href else content


@register.inclusion_tag("components/verdict.html")
def verdict(verdict: Any) -> dict[str, Any]:
    """The sentence on top of a page."""
    return {"verdict": verdict}


@register.inclusion_tag("components/gantt.html")
def gantt(gantt: Any, run: Any) -> dict[str, Any]:
    """The timeline of a run, as a drawing and as a table."""
    return {"gantt": gantt, "run": run}


@register.filter
def deciders(value: Any) -> str:
    """Who may decide, for people."""
    return formats.deciders(value)


@register.filter
def actor(value: str) -> str:
    """Whom people know: chief, of user:chief."""
    return value.partition(":")[2] or value


@register.inclusion_tag("components/trend.html")
def trend(trend: Any) -> dict[str, Any]:
    """Two hours in bars, with the word for them."""
    return {"trend": trend}


@register.inclusion_tag("components/progress.html")
def progress(batch: Any) -> dict[str, Any]:
    """How far an action is, as a bar."""
    return {"batch": batch}


@register.inclusion_tag("components/stepmap.html")
def stepmap(map: Any, name: str) -> dict[str, Any]:
    """The steps of a use case as a drawing; its numbers also stand in the table of the same page."""
    return {"map": map, "name": name}


@register.inclusion_tag("components/heat.html")
def heat(cell: Any) -> dict[str, Any]:
    """A duration on its heat."""
    return {"cell": cell}


@register.inclusion_tag("components/tile.html")
def tile(tile: Any) -> dict[str, Any]:
    """A number with its context, and the door to its rows."""
    return {"tile": tile}


@register.inclusion_tag("components/balance_chart.html")
def balance_chart(chart: Any, number: int) -> dict[str, Any]:
    """The balance of an account from day to day; ``number`` tells the drawings of one page apart."""
    return {"chart": chart, "number": number}

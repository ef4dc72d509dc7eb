"""Numbers and times as people read them: one rule each, in English and Brazilian Portuguese. Nothing else formats them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal

from django.utils import timezone
from django.utils.translation import get_language

NBSP = "\u00a0"  # keeps a number and its unit on one line
MINUS = "\u2212"
NOTHING = "—"
_SWAP = str.maketrans(",.", ".,")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _portuguese(language: str | None) -> bool:
    return (language or get_language() or "en").lower().startswith("pt")


def _localised(text: str, language: str | None) -> str:
    return text.translate(_SWAP) if _portuguese(language) else text


def amount(value: Decimal, *, language: str | None = None) -> str:
    """An amount without its currency, for ledger columns: 1,284.50."""
    cents = value.quantize(Decimal("0.01"), rounding=ROUND_HALF_EVEN)
    text = _localised(f"{abs(cents):,.2f}", language)
    return f"{MINUS}{text}" if cents < 0 else text


def money(value: Decimal | None, *, currency: str = "BRL", language: str | None = None) -> str:
    """An amount with its currency: R$ 1,284.50, negative −R$ 5.00. Never abbreviated: somebody decides on it."""
    if value is None:
        return NOTHING
    symbol = "R$" if currency == "BRL" else currency
    text = amount(value, language=language)
    sign, digits = (MINUS, text[1:]) if text.startswith(MINUS) else ("", text)
    return f"{sign}{symbol}{NBSP}{digits}"


def count(value: int, *, language: str | None = None) -> str:
    """A count: 1,284."""
    return _localised(f"{value:,d}", language)


def plural(value: int, one: str, many: str, *, language: str | None = None) -> str:
    """A count with its noun: 1 run, 2 runs."""
    return f"{count(value, language=language)} {one if value == 1 else many}"


def duration(value: timedelta | None, *, language: str | None = None) -> str:
    """How long: 840 ms · 2.1 s · 48 s · 21 min 40 s · 3 h 05 min · 2 d 4 h. A negative one counts as none."""
    if value is None:
        return NOTHING
    milliseconds = max(value // timedelta(milliseconds=1), 0)
    if milliseconds < 1000:
        return f"{milliseconds}{NBSP}ms"
    if milliseconds < 10_000:
        return _localised(f"{milliseconds / 1000:.1f}", language) + f"{NBSP}s"
    return _long(milliseconds // 1000)


def age(value: timedelta) -> str:
    """How long already, in words that do not change every second once nobody counts seconds: 4 s · 14 min · 3 h 05 min."""
    seconds = max(value // timedelta(seconds=1), 0)
    if 60 <= seconds < 3600:
        return f"{seconds // 60}{NBSP}min"
    return f"{seconds}{NBSP}s" if seconds < 60 else _long(seconds)


def brief(value: timedelta | None) -> str:
    """A duration for a crowded table: exact below a minute, then without what is small beside it."""
    return duration(value) if value is None or value < timedelta(minutes=1) else age(value)


def _long(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds}{NBSP}s"
    if seconds < 3600:
        return f"{seconds // 60}{NBSP}min{NBSP}{seconds % 60:02d}{NBSP}s"
    if seconds < 86_400:
        return f"{seconds // 3600}{NBSP}h{NBSP}{seconds % 3600 // 60:02d}{NBSP}min"
    return f"{seconds // 86_400}{NBSP}d{NBSP}{seconds % 86_400 // 3600}{NBSP}h"


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment to show: ``text`` in the viewer's zone, ``utc`` for the machine and for hovering."""

    text: str
    utc: str


def moment(value: datetime, *, now: datetime, language: str | None = None, exact: bool = False) -> Moment:
    """A moment: 22:14:07 today · 20 Nov 22:14 this year · 20 Nov 2026 before. ``exact``: to the millisecond."""
    local, today = timezone.localtime(value), timezone.localtime(now)
    utc = value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Moment(_moment_text(local, today, portuguese=_portuguese(language), exact=exact), utc)


def _moment_text(local: datetime, today: datetime, *, portuguese: bool, exact: bool) -> str:
    clock = f"{local:%H:%M:%S}"
    if exact:
        clock += ("," if portuguese else ".") + f"{local.microsecond // 1000:03d}"
    if local.date() == today.date():
        return clock
    day = f"{local:%d/%m}" if portuguese else f"{local.day} {_MONTHS[local.month - 1]}"
    if local.year != today.year:
        return f"{day}/{local.year}" if portuguese else f"{day} {local.year}"
    return f"{day} {clock if exact else f'{local:%H:%M}'}"


def clock(value: datetime, *, now: datetime) -> str:
    """When, to the minute: 18:20 today, 20 Nov 18:20 this year. For a sentence that tells until when."""
    local, today = timezone.localtime(value), timezone.localtime(now)
    if local.date() == today.date():
        return f"{local:%H:%M}"
    return _moment_text(local, today, portuguese=_portuguese(None), exact=False)


def document_key(key: str) -> str:
    """The access key of a fiscal document in groups of four."""
    return " ".join(key[start : start + 4] for start in range(0, len(key), 4))


def short_id(value: object) -> str:
    """An id to recognise, not to copy: its beginning tells the time, its end tells it from its neighbours."""
    text = str(value)
    return f"{text[:8]}…{text[-6:]}" if len(text) > 20 else text


def words(name: str) -> str:
    """A step's or a state's name as words: authorise_payment reads "authorise payment"."""
    return name.replace("_", " ").replace("-", " ").lower()


def sentence(name: str) -> str:
    """The same with a capital, to begin a line."""
    text = words(name)
    return text[:1].upper() + text[1:]


def decider(name: str) -> str:
    """Who may decide, as a step names it (permission:orders.approve_return, scope:…, group:…), for people."""
    kind, _, what = name.partition(":")
    if kind == "permission":
        return f"whoever may {words(what.rpartition('.')[2])}"
    return {"group": f"the group {what}", "scope": f"an account with the scope {what}"}.get(kind, name)


def deciders(names: Iterable[str]) -> str:
    """All of them: whoever may approve return or an account with the scope sagas:operate."""
    return " or ".join(decider(name) for name in names)

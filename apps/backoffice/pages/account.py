"""Account: what is the balance, what is held of it, and from which lines did it become so? Nothing here is editable."""

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any, cast
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone

from apps.backoffice.components.balance_chart import NARROW, WIDE, Chart, balance_chart
from apps.backoffice.components.entries import Told, told_of
from apps.backoffice.components.formats import money
from apps.backoffice.components.states import Look, look
from apps.backoffice.live import fragment
from apps.common.clock import business_date
from apps.common.doors import address
from apps.common.downloads import stream
from apps.common.errors import DomainError, InvalidRequest, NotFound
from apps.common.money import CURRENCY
from apps.ledger import public as ledger
from apps.observability.masking import mask_text

VIEW = "ledger.view_account"
LIVE_MS = 2000  # of the head alone: the lines stay as they were asked for
FILES = ("csv", "ofx")
TABS = ("statement", "days", "holds")
SPANS = {"7": "7 days", "31": "31 days", "90": "90 days", "365": "1 year"}  # offered beside the dates
SPAN_DAYS = 31
LINES_SHOWN = 50
DAYS_SHOWN = 60
DAYS_BESIDE = 7
HOLDS_SHOWN = 50
HOLDS_BESIDE = 5
OPEN = "open:"  # how the cursor begins while holds that are open are on the page
DIFFERENCES_SHOWN = 5  # in the banner; the list has all of them
QUERY_CHARACTERS_MAX = 100
FIRST_DAY = date(1970, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the address asks for."""

    tab: str
    date_from: date
    date_to: date
    side: str
    asked: str
    cursor: str

    def query(self, **changes: str) -> str:
        """The same question with something else in it, as the end of an address."""
        values = {
            "tab": self.tab,
            "from": self.date_from.isoformat(),
            "to": self.date_to.isoformat(),
            "side": self.side,
            "q": self.asked,
            **changes,
        }
        return urlencode({name: value for name, value in values.items() if value})

    @property
    def narrowed(self) -> bool:
        """Are lines left out that lie within the period?"""
        return bool(self.side or self.asked)

    @property
    def days(self) -> int:
        """How many days the period has."""
        return (self.date_to - self.date_from).days + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line with its words."""

    line: ledger.LedgerLine
    told: Told


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """The lines of one day on this page, and what stands over them."""

    day: date
    count: ledger.DayCount
    counted_all: bool
    closing: Decimal | None
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldNow:
    """An open hold. ``left``: how much of its time is left, in tenths; None: it has no end."""

    hold: ledger.AccountHold
    told: Told
    until: timedelta | None
    left: int | None


def address_of(account: ledger.AccountRef) -> str:
    """The page of an account."""
    return address("backoffice_account", *account)


def account_view(request: HttpRequest, branch: str, account: str, currency: str = CURRENCY) -> HttpResponse:
    """The whole page."""
    ref, head = _head(request, branch, account, currency)
    now = timezone.now()
    try:
        wanted = wanted_of(request.GET, today=business_date(now))
        context = {**_head_context(head, now=now), **_context(ref, head, wanted, now=now)}
    except InvalidRequest as refusal:
        return _refused(request, ref, refusal)
    context |= {
        **admin.site.each_context(request),
        "title": head.description or f"{ref.branch} · {ref.account}",
        "live_url": reverse("admin:backoffice_account_live", args=list(ref)),
        "live_ms": LIVE_MS,
    }
    return render(request, "backoffice/account.html", context)


def account_live(request: HttpRequest, branch: str, account: str, currency: str = CURRENCY) -> HttpResponse:
    """The head of the page and what is held, alone."""
    ref, head = _head(request, branch, account, currency)
    now = timezone.now()
    context = {**_head_context(head, now=now), "holds": _holds_beside(ref, now=now)}
    return fragment(request, "backoffice/account_live.html", context)


def export_view(request: HttpRequest, branch: str, account: str, currency: str, kind: str) -> HttpResponseBase:
    """The lines of the period as a file. For whoever may see the page: it tells no more, and hides the same."""
    ref, _ = _head(request, branch, account, currency)
    if kind not in FILES:
        raise Http404("There is no such file.")
    now = timezone.now()
    try:
        wanted = wanted_of(request.GET, today=business_date(now))
        period = {"date_from": wanted.date_from, "date_to": wanted.date_to}
        file = ledger.export_statement(ref, **period, format=kind, now=now, describe=mask_text)
    except DomainError as refusal:
        return _refused(request, ref, refusal)
    return stream(name=file.name, media_type=file.media_type, parts=file.parts)


def _head(request: HttpRequest, *key: str) -> tuple[ledger.AccountRef, ledger.AccountHead]:
    if not request.user.has_perm(VIEW):
        raise PermissionDenied
    ref = ledger.AccountRef(*key)
    try:
        return ref, ledger.account_head(ref)
    except NotFound:
        raise Http404("There is no such account.") from None


def _refused(request: HttpRequest, ref: ledger.AccountRef, refusal: DomainError) -> HttpResponse:
    context = {**admin.site.each_context(request), "title": "Account", "refusal": refusal, "href": address_of(ref)}
    return render(request, "backoffice/account_refused.html", context, status=refusal.status)


# --- The question -------------------------------------------------------------------------------------------------------
def wanted_of(given: Any, *, today: date) -> Wanted:
    """What an address asks for; what it does not say is the last 31 days. Raises InvalidRequest."""
    tab = given.get("tab", TABS[0])
    date_to = min(_day(given, "to") or today, today)
    date_from = _day(given, "from") or date_to - timedelta(days=_span(given) - 1)
    side = given.get("side", "")
    asked = given.get("q", "").replace("\x00", "").strip()[:QUERY_CHARACTERS_MAX]
    return Wanted(
        tab=tab if tab in TABS else TABS[0],
        date_from=date_from,
        date_to=date_to,
        side=side if side in ("D", "C") else "",
        asked=asked,
        cursor=given.get("after", ""),
    )


def _span(given: Any) -> int:
    return int(given["days"]) if given.get("days") in SPANS else SPAN_DAYS


def _day(given: Any, name: str) -> date | None:
    text = given.get(name, "")
    if not text:
        return None
    try:
        found = date.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{name} is a day such as 2026-11-21.", field=name) from None
    if found < FIRST_DAY:
        raise InvalidRequest(f"{name} lies before {FIRST_DAY}.", field=name)
    return found


def lines_wanted(wanted: Wanted) -> ledger.LinesWanted:
    """Which lines: a whole trace key, an amount, or how a description begins."""
    side = cast(Any, wanted.side or None)
    more: dict[str, Any] = {}
    if wanted.asked:
        key, much = _as_uuid(wanted.asked), as_amount(wanted.asked)
        more = {"tracekey": key} if key else {"amount": much} if much else {"text": wanted.asked}
    return ledger.LinesWanted(date_from=wanted.date_from, date_to=wanted.date_to, side=side, **more)


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


# Thousands in threes, all with the same mark; a mark before one or two digits at the end is the other one.
_AMOUNT = re.compile(
    r"(?P<whole>[0-9]{1,3}(?P<mark>[.,])[0-9]{3}(?:(?P=mark)[0-9]{3})*|[0-9]+)"
    r"(?:(?!(?P=mark))[.,](?P<cents>[0-9]{1,2}))?"
)


def as_amount(text: str) -> Decimal | None:
    """The amount that somebody typed, in English or in Portuguese: 1284.5, 1,284, 1.284,50. None: it is none."""
    found = _AMOUNT.fullmatch(text.replace("R$", "").replace("\u00a0", "").replace(" ", ""))
    if found is None:
        return None
    much = Decimal(f"{re.sub('[.,]', '', found['whole'])}.{found['cents'] or '0'}")
    return much if 0 < much < Decimal(10) ** 13 else None


# --- The parts ----------------------------------------------------------------------------------------------------------
def _head_context(head: ledger.AccountHead, *, now: datetime) -> dict[str, Any]:
    return {
        "head": head,
        "look": account_look(head),
        "says": says(head),
        "differences": ledger.find_differences(head.account, limit=DIFFERENCES_SHOWN),
        "proved": ledger.proved(head.account),
        "now": now,
    }


def account_look(head: ledger.AccountHead) -> Look:
    """How its status looks."""
    return look("account", head.status)


def says(head: ledger.AccountHead) -> str:
    """What may happen on it, in a sentence."""
    if head.status == "CLOSED":
        return "It is closed for good: nothing is posted to it any more."
    if head.status == "FROZEN":
        return "It is frozen: it takes no posting and no hold; an open hold may still be let go."
    floor = _floor_says(head)
    if head.deferred:
        return "It is deferred: lines are written without waiting for each other, and rolled up a moment later."
    if head.max_balance is not None:
        return f"{floor} Its balance never rises above {money(head.max_balance, currency=head.account.currency)}."
    return floor


def _floor_says(head: ledger.AccountHead) -> str:
    if head.min_balance is None:
        return "It has no floor: what is available may fall below zero."
    if head.min_balance == 0:
        return "What is available never falls below zero."
    return f"What is available never falls below {money(head.min_balance, currency=head.account.currency)}."


def _context(ref: ledger.AccountRef, head: ledger.AccountHead, wanted: Wanted, *, now: datetime) -> dict[str, Any]:
    period = ledger.account_period(ref, date_from=wanted.date_from, date_to=wanted.date_to)
    wide, narrow = (_chart(period, head, frame) for frame in (WIDE, NARROW))
    return {
        "wanted": wanted,
        "period": period,
        "charts": ((wide, "bo-hide-m"), (narrow, "bo-only-m")),
        "beside": tuple(reversed(period.days[-DAYS_BESIDE:])),
        "holds": _holds_beside(ref, now=now),
        "spans": [(f"tab={wanted.tab}&days={days}", word, str(wanted.days) == days) for days, word in SPANS.items()],
        "tabs": [(wanted.query(tab=tab), tab, tab == wanted.tab) for tab in TABS],
        "files": [
            (reverse("admin:backoffice_account_export", args=[*ref, kind]) + f"?{wanted.query(tab='')}", kind.upper())
            for kind in FILES
        ],
        **_PARTS[wanted.tab](ref, wanted),
    }


def _chart(period: ledger.Period, head: ledger.AccountHead, frame: Any) -> Chart:
    return balance_chart(
        period, currency=head.account.currency, floor=head.min_balance, ceiling=head.max_balance, frame=frame
    )


def _statement(ref: ledger.AccountRef, wanted: Wanted) -> dict[str, Any]:
    page = ledger.account_lines(ref, lines_wanted(wanted), cursor=wanted.cursor or None, limit=LINES_SHOWN)
    days = _days(page, first=not wanted.cursor, narrowed=wanted.narrowed)
    older = wanted.query(after=page.older) if page.older else ""
    return {"statement": days, "older": older, "newest": wanted.cursor, "archived": page.archived}


def _days(page: ledger.LinesPage, *, first: bool, narrowed: bool) -> tuple[Day, ...]:
    found: list[Day] = []
    for day, lines in groupby(page.lines, key=lambda line: line.dateref):
        of_day = tuple(Line(line=line, told=told_of(line.description, line.event)) for line in lines)
        count = page.counts.get(day, ledger.DayCount(lines=len(of_day), later=0))
        # The newest line of a day says what it ended with; not on a page that begins within a day, or leaves lines out.
        closing = of_day[0].line.running if (found or first) and not narrowed else None
        counted = count.lines < ledger.DAY_LINES_COUNTED_MAX
        found.append(Day(day=day, count=count, counted_all=counted, closing=closing, lines=of_day))
    return tuple(found)


def _all_days(ref: ledger.AccountRef, wanted: Wanted) -> dict[str, Any]:
    before = _before(wanted)
    rows = ledger.account_days(ref, date_from=wanted.date_from, before=before, limit=DAYS_SHOWN + 1)
    older = wanted.query(after=rows[DAYS_SHOWN - 1].dateref.isoformat()) if len(rows) > DAYS_SHOWN else ""
    return {"days": rows[:DAYS_SHOWN], "older": older, "newest": wanted.cursor}


def _before(wanted: Wanted) -> date:
    if not wanted.cursor:
        return wanted.date_to + timedelta(days=1)
    found = _day({"after": wanted.cursor}, "after")
    return min(found or wanted.date_to, wanted.date_to)


def _all_holds(ref: ledger.AccountRef, wanted: Wanted) -> dict[str, Any]:
    """Those that are open, page after page, and behind the last of them those that ended."""
    cursor, older = wanted.cursor, ""
    holds: tuple[ledger.AccountHold, ...] = ()
    if not cursor or cursor.startswith(OPEN):
        page = ledger.account_holds(ref, ended=False, limit=HOLDS_SHOWN, cursor=cursor.removeprefix(OPEN) or None)
        holds, cursor, older = page.holds, "", f"{OPEN}{page.older}" if page.older else ""
    if not older:
        page = ledger.account_holds(ref, ended=True, limit=HOLDS_SHOWN, cursor=cursor or None)
        holds, older = (*holds, *page.holds), page.older or ""
    rows = [(hold, told_of("", hold.key)) for hold in holds]
    return {"all_holds": rows, "older": wanted.query(after=older) if older else "", "newest": wanted.cursor}


_PARTS = {"statement": _statement, "days": _all_days, "holds": _all_holds}


def _holds_beside(ref: ledger.AccountRef, *, now: datetime) -> tuple[HeldNow, ...]:
    page = ledger.account_holds(ref, ended=False, limit=HOLDS_BESIDE)
    return tuple(_held_now(hold, now=now) for hold in page.holds)


def _held_now(hold: ledger.AccountHold, *, now: datetime) -> HeldNow:
    if hold.expires_at is None:
        return HeldNow(hold=hold, told=told_of("", hold.key), until=None, left=None)
    whole = hold.expires_at - hold.created_at
    until = max(hold.expires_at - now, timedelta(0))
    tenths = min(max(round(until / whole * 10), 0), 10) if whole > timedelta(0) else 0
    return HeldNow(hold=hold, told=told_of("", hold.key), until=until, left=tenths)

"""Home: is everything all right? What needs a person first, the numbers in fixed places below."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

from apps.backoffice.components.formats import clock, plural, words
from apps.backoffice.components.links import list_link as rows
from apps.backoffice.components.needs import Need
from apps.backoffice.components.verdicts import Verdict, home_verdict
from apps.backoffice.components.waiting import UseCaseLine, use_case_lines
from apps.backoffice.live import fragment
from apps.backoffice.pages.approvals import decider
from apps.backoffice.pages.care_needs import chain_need, ledger_needs
from apps.backoffice.pages.contingency import need as contingency_need
from apps.backoffice.pages.entry import ACT as MAY_REVERSE
from apps.backoffice.pages.home_tiles import Tile, message_tile, order_tiles, relay_is_late, run_tiles
from apps.backoffice.pages.triage import ACT as MAY_ACT
from apps.backoffice.shell import contingency_of
from apps.fiscal_docs import public as fiscal
from apps.ledger import public as ledger
from apps.messaging import public as messaging
from apps.orders import public as orders
from apps.payments import public as payments
from apps.saga import public as saga

LIVE_MS = 2000  # the home page of every colleague: half as often as a run that somebody watches
WAITS_MAX = 5  # of use cases, the worst; the list of use cases has them all
NEEDS_MAX = 5  # more than five things are read by nobody; the lists hold the rest
ACTIONS_MAX = 20  # of those that wait; more are told as so many


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """All that the page says."""

    verdict: Verdict
    needs: tuple[Need, ...]
    tiles: tuple[Tile, ...]
    waits: tuple[UseCaseLine, ...]
    sees_runs: bool
    sees_all: bool
    now: datetime


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Unfold's DASHBOARD_CALLBACK: the context of the admin's index."""
    page = _home_of(request)
    return {
        **context,
        "title": "Home",
        "home": page,
        "live_url": reverse("admin:backoffice_home_live"),
        "live_ms": LIVE_MS,
    }


def home_live(request: HttpRequest) -> HttpResponse:
    """The parts of the page that change, alone."""
    page = _home_of(request)
    return fragment(request, "backoffice/home_parts.html", {"home": page})


def _home_of(request: HttpRequest) -> Home:
    user = request.user
    assert isinstance(user, User)  # noqa: S101  # the admin's own door
    contingency = contingency_of(request) if user.has_perm("fiscal_docs.view_document") else None
    return home(may=user.has_perm, decides=lambda: decider(user), contingency=contingency, now=timezone.now())


def home(
    *,
    may: Callable[[str], bool],
    decides: Callable[[], saga.Decider],
    contingency: fiscal.ContingencyPeriod | None = None,
    now: datetime,
) -> Home:
    """The page for somebody who ``may`` see these things: nothing is counted that cannot be opened."""
    needs = _approval_needs(decides)
    if may(MAY_REVERSE):
        needs += _reversal_needs(decides, now=now)
    if may(MAY_ACT):
        needs += _action_needs(decides)
    tiles: list[Tile] = []
    waits: tuple[UseCaseLine, ...] = ()
    in_flight = 0
    if may("orders.view_order"):
        tiles += order_tiles(now=now)
    if may("saga.view_run"):
        runs = saga.runs_now()
        in_flight = runs.in_flight
        found = saga.runs_in_need(now=now)
        needs += [_run_need(each) for each in found]
        waits = use_case_lines(saga.places(now=now), now=now)
        tiles += run_tiles(runs, found, waits)
    if may("messaging.view_message"):
        messages = messaging.messages_now(now=now)
        needs += _message_needs(messages, now=now)
        tiles.insert(4, message_tile(messages, now=now))
    if may("payments.view_payment"):
        needs += [_card_testing_need(each) for each in payments.limited_accounts(now=now)]
    care = ledger.care_now(now=now) if may("ledger.view_difference") else None
    needs += ledger_needs(care) if care is not None else []
    if contingency is not None:
        needs.append(contingency_need(contingency))
    needs.sort(key=lambda need: need.amount or Decimal(0), reverse=True)
    if care is not None and care.damage:
        needs.insert(0, chain_need(care.damage))  # before all money: nobody knows what it is worth
    sees_all = may("saga.view_run") and may("messaging.view_message")
    verdict = home_verdict(things=len(needs), in_flight=in_flight, sees_all=sees_all)
    return Home(
        verdict=verdict,
        needs=tuple(needs[:NEEDS_MAX]),
        tiles=tuple(tiles),
        waits=waits[:WAITS_MAX],
        sees_runs=may("saga.view_run"),
        sees_all=sees_all,
        now=now,
    )


# --- Needs ----------------------------------------------------------------------------------------------------------
_SAYS = {
    "stuck": ("is stuck", "are stuck"),
    "undoing": ("has been undoing for long", "have been undoing for long"),
    "overdue": ("should have gone on long ago", "should have gone on long ago"),
}


def _approval_needs(decides: Callable[[], saga.Decider]) -> list[Need]:
    if not saga.find_approvals(limit=1).rows:  # mostly: then nobody's groups are asked for
        return []
    waiting = saga.find_approvals(limit=1, may=decides())
    if not waiting.rows:
        return []
    title = f"{plural(waiting.total, 'approval waits', 'approvals wait')} for you"
    where, href = words(waiting.rows[0].step), reverse("admin:backoffice_approvals")
    return [
        Need(
            title=title,
            where=where,
            since=None,
            amount=None,
            who="",
            href=href,
            door="Open approvals",
            icon="wait",
            tone="warn",
        )
    ]


def _reversal_needs(decides: Callable[[], saga.Decider], *, now: datetime) -> list[Need]:
    """Reversals that somebody else asked for: nobody is told elsewhere, and after a day they lapse."""
    waiting = ledger.waiting_reversals(now=now)
    mine = [row for row in waiting if row.asked_by != decides().name]
    if not mine:
        return []
    title = f"{plural(len(mine), 'reversal waits', 'reversals wait')} for a second person"
    until = f"Ledger · until {clock(mine[0].until, now=now)}"
    one = mine[0].amount if len(mine) == 1 and mine[0].currency == "BRL" else None
    return [_second_person(title, until, mine[0].asked_at, reverse("admin:backoffice_approvals"), amount=one)]


def _action_needs(decides: Callable[[], saga.Decider]) -> list[Need]:
    """Actions on runs that somebody else asked for."""
    waiting = saga.latest_actions(limit=ACTIONS_MAX, waiting=True)
    mine = [action for action in waiting if action.asked_by != decides().name]
    if not mine:
        return []
    title = f"{plural(len(mine), 'action waits', 'actions wait')} for a second person"
    href = f"{reverse('admin:backoffice_triage')}?tab=approvals"
    return [_second_person(title, mine[-1].told, mine[-1].asked_at, href)]


def _second_person(title: str, where: str, since: datetime, href: str, amount: Decimal | None = None) -> Need:
    return Need(
        title=title,
        where=where,
        since=since,
        amount=amount,
        who="",
        href=href,
        door="Open approvals",
        icon="eye",
        tone="warn",
    )


def _run_need(group: saga.RunsInNeed) -> Need:
    one, many = _SAYS[group.kind]
    stake = orders.at_stake(group.subject_ids)
    where = [words(group.failed_step) if group.failed_step else "no step failed", group.error_code]
    filters = {"needs": group.kind}
    if group.failed_step:
        filters["failed_step__exact"] = group.failed_step
    if group.error_code:
        filters["error_code__exact"] = group.error_code
    return Need(
        title=f"{plural(group.runs, 'run', 'runs')} {one if group.runs == 1 else many}",
        where=" · ".join(filter(None, where)),
        since=group.since,
        amount=stake.amount,
        who=plural(stake.customers, "customer", "customers"),
        href=rows("saga_run", **filters),
        door="Open runs",
        icon="undo" if group.kind == "undoing" else "bad",
        tone="undo" if group.kind == "undoing" else "bad",
    )


def _message_needs(messages: messaging.MessagesNow, *, now: datetime) -> list[Need]:
    found = []
    if messages.parked:
        title = f"{plural(messages.parked, 'message', 'messages')} parked: the broker refuses to take them"
        found.append(_message_need(title, "outbox", rows("messaging_pending", parked="yes"), None))
    if relay_is_late(messages, now=now):
        title = f"{plural(messages.to_relay, 'message waits', 'messages wait')} to be sent"
        where = "outbox · is the relay alive?"
        found.append(_message_need(title, where, rows("messaging_pending"), messages.oldest_to_relay_at))
    if messages.dead:
        title = f"{plural(messages.dead, 'dead letter', 'dead letters')} in 24 hours"
        found.append(_message_need(title, "their handlers gave up", rows("messaging_message", kind="dead"), None))
    return found


def _message_need(title: str, where: str, href: str, since: datetime | None) -> Need:
    return Need(title=title, where=where, since=since, amount=None, who="", href=href, door="Open messages")


def _card_testing_need(account: payments.LimitedAccount) -> Need:
    whose = account.account_id or "nobody"
    return Need(
        title=f"{account.refused} card payments of {whose} were refused",
        where="stolen cards are tried? Only cards that have paid before go on",
        since=account.since,
        amount=None,
        who="",
        href=rows("payments_payment", q=account.account_id, state__exact="REJECTED"),
        door="Open payments",
    )

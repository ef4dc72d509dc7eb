"""Entry: all that one trace key posted, who posted it, and the one thing that can be done about it: take it back.

Above LEDGER_FOUR_EYES one person asks for it and another one agrees: see Note [Four eyes] in apps/ledger/by_hand.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone

from apps.backoffice.components.entries import order_of, run_of_key
from apps.backoffice.components.formats import money, plural, short_id
from apps.backoffice.components.verdicts import Verdict
from apps.backoffice.pages.account import address_of
from apps.backoffice.pages.run_money import outputs_of
from apps.backoffice.pages.triage import actor_of, require
from apps.common.errors import DomainError
from apps.common.reasons import reason_field
from apps.common.transactions import transaction
from apps.ledger import public as ledger
from apps.saga import public as saga

VIEW = "ledger.view_transaction"
# A reversal adds lines to the ledger, so whoever may add some may take an entry back.
ACT = "ledger.add_transaction"
NOTES_MAX = 50
TAKEN_BACK = "Taken back: the lines are posted, dated today."
LEGS_SHOWN = 100  # an entry has no more
# One key a reversal: whoever clicks twice, or whoever of two people comes second, finds what the first click did.
_REVERSALS = UUID("2f1c9a36-9b0e-5c7f-8f0d-5a0f3a1d7c11")


class ReasonForm(forms.Form):
    """Why."""

    reason = reason_field()


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """A line as the page shows it. ``after``: the account's balance right after it; None while it waits to be rolled up."""

    account: ledger.AccountRef
    href: str
    debit: Decimal | None
    credit: Decimal | None
    event: str
    after: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dry:
    """What a reversal would do now: ``legs``, or why it is refused."""

    legs: tuple[Leg, ...] = ()
    code: str = ""
    detail: str = ""
    field: str = ""


def reversal_key(tracekey: UUID) -> UUID:
    """The trace key under which the back office takes an entry back."""
    return uuid5(_REVERSALS, str(tracekey))


def entry_address(tracekey: UUID) -> str:
    """The page of an entry."""
    return reverse("admin:backoffice_entry", args=[tracekey])


def entry_view(request: HttpRequest, tracekey: UUID) -> HttpResponse:
    """The whole page."""
    require(request, VIEW)
    found = _entry(tracekey)
    context = {
        **admin.site.each_context(request),
        "title": f"Entry {short_id(tracekey)}",
        **_context(found),
        "closed": closed(found, may=request.user.has_perm(ACT)),
        **_asked(request, found),
    }
    return render(request, "backoffice/entry.html", context)


def _asked(request: HttpRequest, found: ledger.EntryView) -> dict[str, Any]:
    """The request that waits for a second person, and what the person who looks may do about it."""
    waiting = None if found.reversed_by else ledger.waiting_reversal(found.tracekey, now=timezone.now())
    mine = waiting is not None and waiting.asked_by == actor_of(request.user)
    return {"waiting": waiting, "mine": mine, "may_act": request.user.has_perm(ACT)}


def reverse_view(request: HttpRequest, tracekey: UUID) -> HttpResponse:
    """GET shows what would be posted, POST posts it, once. Never a change on GET."""
    require(request, VIEW)
    user = require(request, ACT)
    found = _entry(tracekey)
    if request.method != "POST":
        return _page(request, found, ReasonForm(), status=200)
    form = ReasonForm(request.POST)
    if not form.is_valid():
        return _page(request, found, form, status=422)
    reason, now = form.cleaned_data["reason"], timezone.now()
    try:
        if ledger.needs_second_person(found):
            ask_to_take_back(tracekey, user=user, reason=reason, now=now)
            messages.success(request, "Asked for: nothing is posted before a second person agrees.")
        elif take_back(tracekey, user=user, reason=reason, now=now):
            messages.success(request, TAKEN_BACK)
        else:
            messages.info(request, "It was taken back already: nothing was posted twice.")
    except DomainError as refusal:
        messages.warning(request, f"Nothing was posted. {refusal.code}: {refusal.detail}")
        return _page(request, found, form, status=refusal.status)
    return redirect("admin:backoffice_entry", tracekey)


def agree_view(request: HttpRequest, tracekey: UUID, request_id: UUID) -> HttpResponse:
    """POST: the second person's yes."""
    user = require(request, ACT)
    if request.method == "POST":
        try:
            _agree(tracekey, request_id, user=user, now=timezone.now())
        except DomainError as refusal:
            messages.warning(request, f"Nothing was posted. {refusal.code}: {refusal.detail}")
        else:
            messages.success(request, TAKEN_BACK)
    return redirect("admin:backoffice_entry", tracekey)


def withdraw_view(request: HttpRequest, tracekey: UUID, request_id: UUID) -> HttpResponse:
    """POST: no, with a reason."""
    user = require(request, ACT)
    form = ReasonForm(request.POST)
    if request.method == "POST" and form.is_valid():
        try:
            _withdraw(tracekey, request_id, user=user, reason=form.cleaned_data["reason"], now=timezone.now())
        except DomainError as refusal:
            messages.warning(request, f"Nothing was changed. {refusal.code}: {refusal.detail}")
        else:
            messages.success(request, "Nothing is taken back: the request is closed.")
    elif request.method == "POST":
        messages.warning(request, "Nothing was changed: say why, the audit keeps it.")
    return redirect("admin:backoffice_entry", tracekey)


@transaction
def take_back(tracekey: UUID, *, user: User, reason: str, now: datetime) -> bool:
    """The reversal and its note in the audit log: one commit. Was it posted now, and not before?

    Raises SecondPersonNeeded and the refusals of a reversal.
    """
    result = ledger.reverse_by_hand(tracekey=tracekey, reversal_tracekey=reversal_key(tracekey), now=now)
    if result.posting is not None and result.posting.replayed:
        return False
    _note(tracekey, reason, user=user, flag=ADDITION, now=now)
    return True


@transaction
def ask_to_take_back(tracekey: UUID, *, user: User, reason: str, now: datetime) -> None:
    """The request to a second person and its note: one commit. Raises ReversalAsked, AlreadyReversed."""
    key = reversal_key(tracekey)
    asked = ledger.ask_reversal(tracekey=tracekey, reversal_tracekey=key, reason=reason, by=actor_of(user), now=now)
    if asked.is_repeat:
        return
    _note(tracekey, f"asked a second person to take it back: {reason}", user=user, flag=CHANGE, now=now)


@transaction
def _agree(tracekey: UUID, request_id: UUID, *, user: User, now: datetime) -> None:
    ledger.agree_to_reversal(request_id, tracekey=tracekey, by=actor_of(user), now=now)
    _note(tracekey, "agreed, and it was taken back", user=user, flag=CHANGE, now=now)


@transaction
def _withdraw(tracekey: UUID, request_id: UUID, *, user: User, reason: str, now: datetime) -> None:
    ledger.withdraw_reversal(request_id, tracekey=tracekey, reason=reason, by=actor_of(user), now=now)
    _note(tracekey, f"did not let it be taken back: {reason}", user=user, flag=CHANGE, now=now)


def _note(tracekey: UUID, text: str, *, user: User, flag: int, now: datetime) -> None:
    LogEntry.objects.create(
        user_id=user.pk,
        content_type=ContentType.objects.get_by_natural_key("ledger", "transaction"),
        object_id=str(tracekey),
        object_repr=f"Reversal of {tracekey}"[:200],
        action_flag=flag,
        change_message=text,
        action_time=now,
    )


def _entry(tracekey: UUID) -> ledger.EntryView:
    try:
        found = ledger.entry(tracekey)
    except ledger.MonthArchived as elsewhere:
        raise Http404(elsewhere.detail) from None
    if found is None:
        raise Http404("Nothing was posted under this trace key.")
    return found


def closed(entry: ledger.EntryView, *, may: bool) -> str:
    """Why it cannot be taken back; empty: it can, as far as the page knows. The ledger has the last word."""
    if entry.reversed_by is not None:
        return "it was taken back already"
    return "" if may else "you lack the permission"


# --- What the pages say -------------------------------------------------------------------------------------------------
def _context(entry: ledger.EntryView) -> dict[str, Any]:
    first = entry.lines[0]
    run = run_of(entry)
    return {
        "entry": entry,
        "first": first,
        "legs": [_leg(line, entry.events.get(line.eventcode, "")) for line in entry.lines],
        "verdict": verdict_of(entry),
        "order": order_of(first.description),
        "run": run,
        "notes": notes_of(entry),
        "details": [line.details for line in entry.lines if line.details],
    }


def verdict_of(entry: ledger.EntryView) -> Verdict:
    """What it is."""
    debit, credit = _sums(entry.lines)
    currency = entry.lines[0].account.currency
    if len(entry.lines) == 1:
        line = entry.lines[0]
        title = f"{'Debit' if line.debitcredit == 'D' else 'Credit'} of {money(line.amount, currency=currency)}."
        text = "A single line: its other side is booked elsewhere."
    else:
        title = f"{money(debit, currency=currency)}, {plural(len(entry.lines), 'line', 'lines')}."
        text = "Debits and credits agree." if debit == credit else "Debits and credits differ."
    if entry.reversed_by is not None:
        return Verdict("undo", "undo", f"{title} It was taken back.", text)
    if entry.reverses is not None:
        return Verdict("undo", "undo", f"{title} It takes another entry back.", text)
    return Verdict("ok", "ok", title, text)


def _sums(lines: Sequence[ledger.TransactionLine]) -> tuple[Decimal, Decimal]:
    debit = sum((line.amount for line in lines if line.debitcredit == "D"), Decimal(0))
    return debit, sum((line.amount for line in lines if line.debitcredit == "C"), Decimal(0))


def run_of(entry: ledger.EntryView) -> saga.RunState | None:
    """The run that posted it, as its hold's key or its order tells, if the run says so too."""
    candidates = (run_of_key(entry.hold_key), order_of(entry.lines[0].description))
    for candidate in candidates:
        run = saga.run_state(candidate) if candidate is not None else None
        if run is not None and str(entry.tracekey) in outputs_of(run, "tracekey"):
            return run
    return None


def notes_of(entry: ledger.EntryView) -> list[LogEntry]:
    """Who did something about it, and why, the newest first; of a reversal made here, who made it."""
    keys = [str(entry.tracekey)]
    if entry.reverses is not None and entry.tracekey == reversal_key(entry.reverses):
        keys.append(str(entry.reverses))
    rows = LogEntry.objects.filter(object_id__in=keys).select_related("user").order_by("-action_time")
    return list(rows[:NOTES_MAX])


def _leg(line: ledger.TransactionLine | ledger.PostedLine, event: str = "") -> Leg:
    debit = line.debitcredit == "D"
    return Leg(
        account=line.account,
        href=address_of(line.account),
        debit=line.amount if debit else None,
        credit=None if debit else line.amount,
        event=event,
        after=line.balances.posted if line.balances is not None else None,
    )


# --- Taking it back -----------------------------------------------------------------------------------------------------
def _page(request: HttpRequest, found: ledger.EntryView, form: ReasonForm, *, status: int) -> HttpResponse:
    now = timezone.now()
    context = {
        **admin.site.each_context(request),
        "title": f"Take back entry {short_id(found.tracekey)}",
        **_context(found),
        "dry": dry_run(found.tracekey, now=now),
        "form": form,
        "second": ledger.needs_second_person(found),
        "waiting": ledger.waiting_reversal(found.tracekey, now=now),
        "back": entry_address(found.tracekey),
        "now": now,
    }
    return render(request, "backoffice/reverse.html", context, status=status)


def dry_run(tracekey: UUID, *, now: datetime) -> Dry:
    """What the reversal would post, asked of the ledger itself; nothing of it stays."""
    try:
        result = ledger.reverse_dry(tracekey=tracekey, reversal_tracekey=reversal_key(tracekey), now=now)
    except DomainError as refusal:
        return Dry(code=refusal.code, detail=refusal.detail, field=refusal.field or "")
    posting = result.posting
    if posting is None or posting.replayed:
        return Dry(code=ledger.AlreadyReversed.code, detail="It was taken back already.")
    return Dry(legs=tuple(_leg(line) for line in posting.lines))

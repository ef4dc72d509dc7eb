"""Run: what happened to this order, and what can I do? Joins the run with its order, money, document and messages."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone

from apps.backoffice.components.formats import short_id, words
from apps.backoffice.components.gantt import LIVE, Gantt, gantt
from apps.backoffice.components.links import change_link, list_link
from apps.backoffice.components.states import Look, look
from apps.backoffice.components.verdicts import Verdict, current_step, run_verdict
from apps.backoffice.live import fragment
from apps.backoffice.pages.approvals import decider
from apps.backoffice.pages.run_actions import actions_of
from apps.backoffice.pages.run_money import Money, as_uuid, money_of, outputs_of
from apps.customers import public as customers
from apps.fiscal_docs import public as fiscal_docs
from apps.messaging import public as messaging
from apps.observability.masking import mask_cpf
from apps.orders import public as orders
from apps.payments import public as payments
from apps.saga import public as saga

LIVE_MS = 1000
TABS = ("steps", "messages", "data", "audit")
FORKS_SHOWN = 10  # the newest
NOTES_MAX = 50  # of each kind: a run that needed more is looked at in the list of interventions
# Messages may still travel after a run is over: late answers, dead letters.
MESSAGES_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A fact in the head of the page. ``href``: where it leads, or empty; ``whole``: the text when it is shortened."""

    name: str
    text: str
    amount: Decimal | None = None
    href: str = ""
    whole: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """A step in the table of steps."""

    step: saga.StepState
    look: Look
    took: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageLine:
    """A message: ``icon`` and ``way`` say whether it was sent to somebody, came from them, or was given up."""

    state: messaging.MessageState
    icon: str
    way: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Somebody intervened in this run."""

    at: datetime
    who: str
    what: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """All that the page says."""

    run: saga.RunState
    now: datetime
    live: bool
    look: Look
    verdict: Verdict
    gantt: Gantt
    facts: tuple[Fact, ...]
    age: timedelta
    at: str
    steps: tuple[StepRow, ...]
    messages: tuple[MessageLine, ...]
    data: dict[str, Any]
    payment: payments.PaymentView | None
    payment_href: str
    money: Money
    notes: tuple[Note, ...]
    document: fiscal_docs.DocumentView | None
    document_href: str
    approvals: tuple[saga.ApprovalState, ...]
    forks: tuple[saga.ForkState, ...]


def run_view(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """The whole page."""
    page = _page(request, run_id)
    tab = _tab(request)
    address = reverse("admin:backoffice_run_live", args=[run_id])
    context = {
        **admin.site.each_context(request),
        "title": f"Run {short_id(page.run.run_id)}",
        "page": page,
        "tab": tab,
        **_actions(request, page),
        "live_url": f"{address}?tab={tab}" if page.live else "",
        "live_ms": LIVE_MS,
    }
    return render(request, "backoffice/run.html", context)


def run_live(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """The parts of the page that change, alone."""
    page = _page(request, run_id)
    context = {"page": page, "tab": _tab(request), **_actions(request, page)}
    return fragment(request, "backoffice/run_parts.html", context)


def _actions(request: HttpRequest, page: RunPage) -> dict[str, Any]:
    """The likeliest one stands in the head of the page, the others beside the run's parts."""
    main, *others = actions_of(page.run, may=request.user.has_perm)
    question = next((each for each in page.approvals if each.status == "OPEN"), None) if page.live else None
    user = request.user
    decides = question is not None and isinstance(user, User) and question.may(decider(user))
    return {"main": main, "others": others, "question": question, "decides": decides}


def _tab(request: HttpRequest) -> str:
    wanted = request.GET.get("tab", TABS[0])
    return wanted if wanted in TABS else TABS[0]


def _page(request: HttpRequest, run_id: UUID) -> RunPage:
    if not request.user.has_perm("saga.view_run"):
        raise PermissionDenied
    run = saga.run_state(run_id)
    if run is None or run.run_id != run_id:
        raise Http404("There is no such run.")
    return page_of(run, now=timezone.now())


def page_of(run: saga.RunState, *, now: datetime) -> RunPage:
    """Ask every neighbour's public door for its part of this run."""
    verdict = run_verdict(run, now=now)
    order = orders.order(run.subject_id)
    payment = _payment(run)
    document = fiscal_docs.document_of_order(run.subject_id)
    end = run.finished_at or now
    messages = messaging.messages_of(run.global_id, since=run.started_at, until=end + MESSAGES_AFTER)
    return RunPage(
        run=run,
        now=now,
        live=run.status in LIVE,
        look=look("run", "HELD" if run.held_by is not None else run.status),
        verdict=verdict,
        gantt=gantt(run, now=now, finding=f"{verdict.title} {verdict.text}"),
        facts=_facts(order, payment),
        age=end - run.started_at,
        at=current_step(run),
        steps=tuple(_step_row(step, now=now) for step in run.steps),
        messages=tuple(_line(message) for message in messages),
        data=saga.run_input(run.run_id),
        payment=payment,
        payment_href=_payment_href(run, order, payment),
        money=money_of(run),
        notes=_notes(run),
        document=document,
        document_href=change_link("fiscal_docs_document", document.id) if document else "",
        approvals=saga.approvals_of(run.run_id),
        forks=saga.forks_of(run.run_id)[:FORKS_SHOWN],
    )


# --- The order and the customer -------------------------------------------------------------------------------------
def _facts(order: orders.OrderView | None, payment: payments.PaymentView | None) -> tuple[Fact, ...]:
    if order is None:
        return ()
    tickets = ", ".join(f"{item.quantity} × {item.name}" for item in order.items)
    facts = [
        Fact(name="Amount", text="", amount=order.amount),
        Fact(name="Tickets", text=tickets or "none"),
        _customer(order),
        Fact(name="Paid by", text=_paid_by(order, payment)),
        Fact(name="Order", text=short_id(order.id), whole=str(order.id), href=change_link("orders_order", order.id)),
    ]
    return tuple(facts)


def _customer(order: orders.OrderView) -> Fact:
    href = change_link("customers_customer", order.customer_id)
    try:
        customer = customers.customer(order.customer_id)
    except customers.UnknownCustomer:
        return Fact(name="Customer", text=str(order.customer_id))
    return Fact(name="Customer", text=f"{customer.name}, CPF {mask_cpf(customer.cpf)}", href=href)


def _paid_by(order: orders.OrderView, payment: payments.PaymentView | None) -> str:
    if order.payment_method != "card":
        return "the ledger balance"
    if payment is not None and payment.card_last4:
        return f"{payment.card_brand.capitalize()} •••• {payment.card_last4}"
    try:
        card = payments.card(order.card_token)
    except payments.UnknownCard:
        return "a card"
    return f"{card.brand.capitalize()} •••• {card.last4}"


# --- The payment ---------------------------------------------------------------------------------------------------
def _payment(run: saga.RunState) -> payments.PaymentView | None:
    for text in outputs_of(run, "payment_id"):
        payment_id = as_uuid(text)
        if payment_id is None:
            continue
        try:
            return payments.payment(payment_id)
        except payments.UnknownPayment:
            continue
    # A payment that was refused or not answered yet left no id in the run; its reference is the order.
    of_order = payments.payments_of(order_ref=str(run.subject_id))
    return of_order[0] if of_order else None


def _payment_href(run: saga.RunState, order: orders.OrderView | None, payment: payments.PaymentView | None) -> str:
    if payment is not None:
        return change_link("payments_payment", payment.id)
    if order is None or order.payment_method != "card":
        return ""
    return list_link("payments_payment", q=str(run.subject_id))


# --- Messages and notes ---------------------------------------------------------------------------------------------
def _line(message: messaging.MessageState) -> MessageLine:
    kind = message.topic.rpartition(".")[2]
    icon, way = {"in": ("out", "asked"), "compensate": ("undo", "asked to undo"), "error": ("bad", "given up")}.get(
        kind, ("in", "told")
    )
    return MessageLine(state=message, icon=icon, way=way)


def _notes(run: saga.RunState) -> tuple[Note, ...]:
    """Who intervened, the newest first: in the state manager's own book, and in the back office's."""
    found = [
        Note(at=each.at, who=each.actor, what=f"{each.action} {words(each.step)}".strip(), why=each.reason)
        for each in saga.interventions(run_id=run.run_id, rows_max=NOTES_MAX)
    ]
    entries = LogEntry.objects.filter(object_id=str(run.run_id)).select_related("user").order_by("-action_time")
    found += [
        Note(at=each.action_time, who=f"user:{each.user.get_username()}", what="", why=each.change_message)
        for each in entries[:NOTES_MAX]
    ]
    return tuple(sorted(found, key=lambda note: note.at, reverse=True))


# --- Steps ----------------------------------------------------------------------------------------------------------
def _step_row(step: saga.StepState, *, now: datetime) -> StepRow:
    refused = step.status == "FAILED" and step.error_code[:1] == "R" and step.error_code[1:].isdigit()
    end = step.finished_at or now
    return StepRow(
        step=step,
        look=look("step", "REFUSED" if refused else step.status),
        took=end - step.started_at if step.started_at else None,
    )

"""Rows for tests that look at pages: runs in every state, written as the engine would have left them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from apps.common.clock import uuid7
from apps.customers.models import Customer
from apps.orders.models import Item, Order, Reservation, Ticket
from apps.saga.models import LIVE, Attempt, Run, Step

CPF = "39053344705"
CARD_STEPS = (
    ("reserve_tickets", "COMPENSABLE", "local"),
    ("authorise_payment", "COMPENSABLE", "ask"),
    ("issue_fiscal_doc", "COMPENSABLE", "call"),
    ("capture_payment", "PIVOT", "ask"),
    ("post_sale", "RETRIABLE", "local"),
    ("confirm_order", "RETRIABLE", "local"),
)


@dataclass(frozen=True)
class Try:
    """One attempt, in seconds after the run's start. ``until`` None: it is not over."""

    at: float
    until: float | None
    outcome: str
    undo: bool = False
    code: str = ""
    detail: str = ""


@dataclass(frozen=True)
class StepStory:
    """Where a step of the story is, and its attempts."""

    status: str = "PENDING"
    tries: tuple[Try, ...] = ()
    output: dict[str, Any] = field(default_factory=dict)
    code: str = ""
    detail: str = ""
    retry_in: float | None = None
    answer_in: float | None = None


def make_order(
    *, now: datetime, status: str = "PENDING", amount: str = "486.00", method: str = "card", card_token: str = ""
) -> Order:
    """An order of two tickets by a customer with a CPF."""
    customer = Customer.objects.create(
        id=uuid4(),
        name="Ana Souza",
        cpf=CPF,
        email="ana@example.com",
        default_method="card",
        created_at=now,
        updated_at=now,
    )
    ticket = Ticket.objects.create(name="Noite do Samba", price=Decimal("243.00"), available=10, created_at=now)
    order = Order.objects.create(
        customer_id=customer.pk,
        amount=Decimal(amount),
        payment_method=method,
        card_token=card_token,
        status=status,
        created_at=now,
    )
    Item.objects.create(order=order, ticket=ticket, name=ticket.name, amount=ticket.price, quantity=2)
    Reservation.objects.create(step_key=f"{order.pk}:0", order_id=order.pk, status="RESERVED", created_at=now)
    return order


def make_run(
    *,
    subject_id: UUID | None = None,
    status: str,
    started_at: datetime,
    now: datetime,
    story: tuple[StepStory, ...],
    finished_at: datetime | None = None,
    failed_step: str = "",
    code: str = "",
    detail: str = "",
    data: dict[str, Any] | None = None,
    run_id: UUID | None = None,
) -> Run:
    """A run of the purchase by card with this story. Steps without one have not begun."""
    has_order, subject_id = subject_id is not None, subject_id or uuid4()
    cursor = next((place for place, step in enumerate(story) if step.status not in {"DONE", "UNDONE"}), len(story))
    run = Run.objects.create(
        id=run_id or uuid7(),
        global_id=uuid4(),
        use_case="orders.purchase.card",
        version=1,
        subject_id=subject_id,
        business_key=str(subject_id),
        status=status,
        cursor=cursor,
        data=data or {},
        failed_step=failed_step,
        error_code=code,
        error_detail=detail,
        started_at=started_at,
        finished_at=finished_at,
        due_at=now + timedelta(seconds=30) if status in LIVE else None,
    )
    whole = [*story, *[StepStory()] * (len(CARD_STEPS) - len(story))]
    Step.objects.bulk_create(_step(run, position, step, now=now) for position, step in enumerate(whole))
    Attempt.objects.bulk_create(each for position, step in enumerate(whole) for each in _attempts(run, position, step))
    if has_order:
        Order.objects.filter(pk=subject_id).update(run_id=run.pk)
    return run


def _after(run: Run, seconds: float | None) -> datetime | None:
    return None if seconds is None else run.started_at + timedelta(seconds=seconds)


def _step(run: Run, position: int, story: StepStory, *, now: datetime) -> Step:
    name, kind, shape = CARD_STEPS[position]
    done = [each for each in story.tries if not each.undo]
    undone = [each for each in story.tries if each.undo]
    return Step(
        run=run,
        position=position,
        name=name,
        kind=kind,
        shape=shape,
        status=story.status,
        attempts=len(done),
        undo_attempts=len(undone),
        output=story.output,
        error_code=story.code,
        error_detail=story.detail,
        retry_at=None if story.retry_in is None else now + timedelta(seconds=story.retry_in),
        waiting_until=None if story.answer_in is None else now + timedelta(seconds=story.answer_in),
        started_at=_after(run, done[0].at) if done else None,
        finished_at=_after(run, done[-1].until) if done else None,
        undo_started_at=_after(run, undone[0].at) if undone else None,
        undone_at=_after(run, undone[-1].until) if undone and story.status == "UNDONE" else None,
    )


def _attempts(run: Run, position: int, story: StepStory) -> Iterator[Attempt]:
    done = [each for each in story.tries if not each.undo]
    undone = [each for each in story.tries if each.undo]
    for each in story.tries:
        yield Attempt(
            run=run,
            position=position,
            undo=each.undo,
            number=(undone if each.undo else done).index(each) + 1,
            outcome=each.outcome,
            error_code=each.code,
            error_detail=each.detail,
            started_at=_after(run, each.at),
            finished_at=_after(run, each.until),
        )


def undoing_run(*, now: datetime, age: timedelta = timedelta(minutes=3, seconds=5)) -> Run:
    """The run of the design: the document was refused, the void of the payment is in its fourth attempt."""
    order = make_order(now=now - age, status="AWAITING_PAYMENT")
    end = age.total_seconds()
    refused = "NCM not in table, CPF 390.533.447-05"
    story = (
        StepStory("DONE", (Try(0, 0.031, "DONE"),), {"card_token": "tok_1234567890abcdef"}),
        StepStory(
            "UNDOING",
            (
                Try(0.6, 24, "NO_ANSWER", code="NoAnswer", detail="no answer in time"),
                Try(32, 36.4, "ANSWERED"),
                Try(42, 66, "NO_ANSWER", undo=True, code="R204", detail="no answer"),
                Try(74, 98, "NO_ANSWER", undo=True, code="R204", detail="no answer"),
                Try(118, 142, "NO_ANSWER", undo=True, code="R204", detail="no answer"),
                Try(end - 7, None, "ASKED", undo=True),
            ),
            {"payment_id": str(uuid4())},
            code="R204",
            detail="no answer",
            answer_in=17,
        ),
        StepStory(
            "UNDONE",
            (
                Try(36.6, 38.2, "REFUSED", code="R412", detail=refused),
                Try(41, 41.004, "DONE", undo=True),
            ),
            code="R412",
            detail=refused,
        ),
    )
    return make_run(
        subject_id=order.pk,
        status="COMPENSATING",
        started_at=now - age,
        now=now,
        story=story,
        failed_step="issue_fiscal_doc",
        code="R412",
        detail=refused,
        data={"customer_id": str(order.customer_id), "card": {"number": "4242424242424242", "cvv": "123"}},
    )


def stuck_run(*, now: datetime, age: timedelta = timedelta(minutes=21, seconds=40)) -> Run:
    """The posting failed until nobody tried any more."""
    order = make_order(now=now - age, status="STUCK", amount="1284.50")
    said = "OperationalError"
    story = (
        StepStory("DONE", (Try(0, 0.02, "DONE"),)),
        StepStory("DONE", (Try(0.1, 1.2, "ANSWERED"),)),
        StepStory("DONE", (Try(1.3, 2.1, "DONE"),)),
        StepStory("DONE", (Try(2.2, 2.9, "ANSWERED"),)),
        StepStory(
            "FAILED",
            tuple(Try(3 * 2**turn, 3 * 2**turn + 0.1, "FAILED", code=said, detail="canceled") for turn in range(8)),
            code=said,
            detail="canceling statement due to lock timeout",
        ),
    )
    return make_run(
        subject_id=order.pk,
        status="STUCK",
        started_at=now - age,
        now=now,
        story=story,
        failed_step="post_sale",
        code=said,
        detail="canceling statement due to lock timeout",
    )


def completed_run(*, now: datetime, age: timedelta = timedelta(minutes=2)) -> Run:
    """Everything at the first attempt, in 1.4 s."""
    order = make_order(now=now - age, status="COMPLETED", amount="10.50")
    story = (
        StepStory("DONE", (Try(0.002, 0.006, "DONE"),)),
        StepStory("DONE", (Try(0.007, 0.412, "ANSWERED"),)),
        StepStory("DONE", (Try(0.42, 0.93, "DONE"),)),
        StepStory("DONE", (Try(0.94, 1.37, "ANSWERED"),)),
        StepStory("DONE", (Try(1.38, 1.39, "DONE"),)),
        StepStory("DONE", (Try(1.391, 1.4, "DONE"),)),
    )
    return make_run(
        subject_id=order.pk,
        status="COMPLETED",
        started_at=now - age,
        now=now,
        story=story,
        finished_at=now - age + timedelta(seconds=1.4),
    )

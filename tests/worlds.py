"""A busy evening, to look at: runs of the purchase by card in every state, written as the engine would have left them."""

from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import uuid4

from django.db import connection

from apps.saga.models import Pause, Run
from tests import factories
from tests.factories import StepStory, Try, make_run
from tests.integration.saga.aged import id_at

WORK = (0.031, 1.9, 0.41, 0.64, 0.009, 0.008)  # of each step, in seconds, on a usual evening


def busy_evening(*, now: datetime, completed: int = 90, waiting: int = 37) -> dict[str, Run]:
    """Card answers are slow, some documents are refused, a posting is stuck, one run has waited for two days."""
    chance = Random(42)
    for _ in range(completed):
        _passed(now, chance, age=chance.uniform(60, 3500))
    for _ in range(waiting):
        _waiting(now, chance, age=chance.uniform(30, 840))
    for _ in range(9):
        _refused(now, chance, age=chance.uniform(100, 3000))
    for _ in range(4):
        _tried_again(now, chance, age=chance.uniform(20, 200))
    _begun(now, age=2)
    return {
        "undoing": _aged(factories.undoing_run(now=now), now),
        "stuck": _aged(factories.stuck_run(now=now), now),
        "completed": _aged(factories.completed_run(now=now), now),
        "waiting": _waiting(now, chance, age=840),
        "held": _held(now),
        "long": two_days(now=now),
    }


def busy_evening_goes_on(*, now: datetime) -> None:
    """Some more of the same."""
    chance = Random(7)
    for _ in range(5):
        _passed(now, chance, age=chance.uniform(60, 900))
        _waiting(now, chance, age=chance.uniform(30, 840))
        _refused(now, chance, age=chance.uniform(100, 900))


def _aged(run: Run, now: datetime) -> Run:
    """The same run, with an id of the time at which it began."""
    fresh = id_at(run.started_at)
    with connection.cursor() as cursor:
        for table, key in (("saga_run", "id"), ("saga_step", "run_id"), ("saga_attempt", "run_id")):
            cursor.execute(f"UPDATE {table} SET {key} = %s WHERE {key} = %s", [fresh, run.pk])
        cursor.execute("UPDATE orders_order SET run_id = %s WHERE id = %s", [fresh, run.subject_id])
    return Run.objects.get(pk=fresh)


def _made(now: datetime, age: float, status: str, story: tuple[StepStory, ...], **more: Any) -> Run:
    started_at = now - timedelta(seconds=age)
    return make_run(status=status, started_at=started_at, now=now, story=story, run_id=id_at(started_at), **more)


def _steps(number: int, chance: Random, *, slow: float = 1.0) -> tuple[tuple[StepStory, ...], float]:
    """So many steps that are done, and when the last one was, in seconds."""
    at, found = 0.002, []
    for position in range(number):
        took = WORK[position] * chance.uniform(0.6, 1.8) * (slow if position == 1 else 1)
        outcome = "ANSWERED" if factories.CARD_STEPS[position][2] == "ask" else "DONE"
        if position == 1 and chance.random() < 0.25:
            tries = (Try(at, at + 20, "NO_ANSWER", code="NoAnswer"), Try(at + 22, at + 22 + took, outcome))
            at += 22
        else:
            tries = (Try(at, at + took, outcome),)
        found.append(StepStory("DONE", tries))
        at += took + 0.004
    return tuple(found), at


def _passed(now: datetime, chance: Random, *, age: float) -> Run:
    story, at = _steps(6, chance, slow=4.0 if age < 1300 else 1.0)
    return _made(now, age, "COMPLETED", story, finished_at=now - timedelta(seconds=age - at))


def _waiting(now: datetime, chance: Random, *, age: float) -> Run:
    story, at = _steps(1, chance)
    asked = StepStory("WAITING", (Try(at, None, "ASKED"),), answer_in=max(25, 900 - age))
    run = _made(now, age, "WAITING", (*story, asked))
    Run.objects.filter(pk=run.pk).update(due_at=now + timedelta(seconds=max(25, 900 - age)))
    return run


def _refused(now: datetime, chance: Random, *, age: float) -> Run:
    story, at = _steps(2, chance)
    code, detail = "R412", "NCM not in table"
    undo = (Try(at + 0.8, at + 0.81, "DONE", undo=True),)
    done = tuple(StepStory("UNDONE", (*each.tries, *undo), each.output) for each in story)
    said = StepStory("FAILED", (Try(at, at + 0.7, "REFUSED", code=code, detail=detail),), code=code, detail=detail)
    ended = now - timedelta(seconds=age - at - 1)
    return _made(now, age, "COMPENSATED", (*done, said), finished_at=ended, failed_step="issue_fiscal_doc", code=code)


def _tried_again(now: datetime, chance: Random, *, age: float) -> Run:
    story, at = _steps(2, chance)
    code = "ConnectError"
    tries = (Try(at, at + 0.4, "UNKNOWN", code=code), Try(at + 2, at + 2.4, "UNKNOWN", code=code))
    again = StepStory("UNKNOWN", tries, code=code, detail="connection refused", retry_in=4)
    return _made(now, age, "RUNNING", (*story, again), failed_step="issue_fiscal_doc", code=code)


def _begun(now: datetime, *, age: float) -> Run:
    return _made(now, age, "RUNNING", (StepStory("RUNNING", (Try(age - 0.01, None, ""),)),))


def _held(now: datetime) -> Run:
    """A pause stands before the capture."""
    pause = Pause.objects.create(
        id=uuid4(),
        use_case="orders.purchase.card",
        step="capture_payment",
        kind="MANUAL",
        reason="The processor changes its certificate",
        paused_by="user:ana",
        paused_at=now - timedelta(minutes=12),
    )
    run = _made(now, 400, "RUNNING", _steps(3, Random(1))[0])
    held_at = now - timedelta(seconds=390)
    Run.objects.filter(pk=run.pk).update(held_by=pause.pk, held_at=held_at, due_at=None)
    return run


def two_days(*, now: datetime) -> Run:
    """The authority was away for two days: the question went out, nobody answered, it went out again."""
    day = 86_400.0
    age = 2 * day + 600
    order = factories.make_order(now=now - timedelta(seconds=age), status="AWAITING_PAYMENT", amount="97.20")
    story = (
        StepStory("DONE", (Try(0, 0.03, "DONE"),)),
        StepStory("DONE", (Try(0.1, 2.1, "ANSWERED"),)),
        StepStory(
            "UNKNOWN",
            (
                Try(2.2, 32.2, "UNKNOWN", code="ReadTimeout", detail="no answer from SEFAZ"),
                Try(40, 70, "UNKNOWN", code="ReadTimeout", detail="no answer from SEFAZ"),
                Try(2 * day, 2 * day + 30, "UNKNOWN", code="ReadTimeout", detail="no answer from SEFAZ"),
            ),
            code="ReadTimeout",
            detail="no answer from SEFAZ",
            retry_in=240,
        ),
    )
    return _made(
        now,
        age,
        "RUNNING",
        story,
        subject_id=order.pk,
        failed_step="issue_fiscal_doc",
        code="ReadTimeout",
        detail="no answer from SEFAZ",
    )

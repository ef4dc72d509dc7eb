"""The timeline and the sentence of a run, from values alone."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.template import Context, Template
from django.utils import translation

from apps.backoffice.components.axis import FOLDS_MAX, TICKS_MAX, Axis, Fold, folds_of
from apps.backoffice.components.gantt import BAR_WIDTH_MIN, LEFT, RIGHT, WIDTH, Gantt, Row, gantt
from apps.backoffice.components.icons import PATHS
from apps.backoffice.components.states import LOOKS, look
from apps.backoffice.components.verdicts import current_step, home_verdict, run_verdict
from apps.saga.models import LIVE, AttemptOutcome, RunStatus, StepStatus
from apps.saga.public import AttemptState, RunState, StepState

START = datetime(2026, 11, 21, 22, 11, 2, tzinfo=UTC)
RUN_ID = UUID(int=7)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def attempt(
    at: float, until: float | None, outcome: str, *, number: int = 1, undo: bool = False, **more: str
) -> AttemptState:
    return AttemptState(
        undo=undo,
        number=number,
        outcome=outcome,
        started_at=after(at),
        finished_at=None if until is None else after(until),
        error_code=more.get("code", ""),
        error_detail=more.get("detail", ""),
    )


def step(name: str, status: str = "PENDING", *tries: AttemptState, shape: str = "local", **more: Any) -> StepState:
    done = [each for each in tries if not each.undo]
    values: dict[str, Any] = {
        "retry_at": None,
        "waiting_until": None,
        "error_code": "",
        "error_detail": "",
        "output": {},
        **more,
    }
    return StepState(
        name=name,
        kind="COMPENSABLE",
        shape=shape,
        status=status,
        attempts=len(done),
        undo_attempts=len(tries) - len(done),
        started_at=done[0].started_at if done else None,
        finished_at=done[-1].finished_at if done else None,
        undo_started_at=None,
        undone_at=None,
        tries=tries,
        **values,
    )


def run(status: str, *steps: StepState, over: float | None = None, **more: str) -> RunState:
    return RunState(
        run_id=RUN_ID,
        global_id=RUN_ID,
        use_case="orders.purchase.card",
        version=1,
        subject_id=RUN_ID,
        business_key="order",
        status=status,
        failed_step=more.get("failed", ""),
        error_code=more.get("code", ""),
        error_detail=more.get("detail", ""),
        late_answers=0,
        started_at=START,
        finished_at=None if over is None else after(over),
        due_at=None,
        steps=steps,
    )


def rows(drawing: Gantt) -> dict[str, Row]:
    return {row.name: row for row in drawing.rows}


RETRIED = step(
    "ask",
    "DONE",
    attempt(0, 10, "NO_ANSWER", code="R204", detail="no answer"),
    attempt(20, 24.4, "ANSWERED", number=2),
    shape="ask",
)


class TestGantt:
    def test_draws_an_attempt_where_it_was_in_time(self) -> None:
        state = run("COMPLETED", step("first", "DONE", attempt(0, 50, "DONE")), over=100)
        bar = rows(gantt(state, now=after(500), finding=""))["first"].bars[0]
        assert bar.x == LEFT
        assert bar.width == pytest.approx((RIGHT - LEFT) / 2)
        assert not bar.hatched

    def test_keeps_a_very_short_attempt_visible(self) -> None:
        state = run("COMPLETED", step("first", "DONE", attempt(0, 0.001, "DONE")), over=200)
        assert rows(gantt(state, now=after(200), finding=""))["first"].bars[0].width == BAR_WIDTH_MIN

    def test_hatches_what_waits_for_an_answer_and_dots_the_time_between(self) -> None:
        row = rows(gantt(run("COMPLETED", RETRIED, over=100), now=after(100), finding=""))["ask"]
        assert [bar.hatched for bar in row.bars] == [True, True]
        assert len(row.dots) == 1
        assert row.bars[0].x + row.bars[0].width < row.dots[0].x1 < row.dots[0].x2 < row.bars[1].x
        assert row.words.replace("\u00a0", " ") == "attempt 2, answered in 4.4 s"

    def test_marks_no_answer_as_unknown_and_never_as_failed(self) -> None:
        row = rows(gantt(run("COMPLETED", RETRIED, over=100), now=after(100), finding=""))["ask"]
        assert [mark.icon for mark in row.marks] == ["unknown"]

    @pytest.mark.parametrize("outcome", ["FAILED", "REFUSED"])
    def test_ends_a_failed_attempt_with_an_octagon(self, outcome: str) -> None:
        failed = step("sale", "FAILED", attempt(0, 1, outcome, code="R412", detail="NCM not in table"))
        row = rows(gantt(run("STUCK", failed), now=after(9), finding=""))["sale"]
        assert [mark.icon for mark in row.marks] == ["bad"]
        assert row.words.endswith("NCM not in table (R412)")

    def test_dots_the_time_until_the_next_attempt_only_where_the_run_goes(self) -> None:
        failed = step("call", "PENDING", attempt(0, 10, "FAILED"), retry_at=after(60))
        assert len(rows(gantt(run("RUNNING", failed), now=after(40), finding=""))["call"].dots) == 1
        assert rows(gantt(run("COMPENSATING", failed), now=after(40), finding=""))["call"].dots == ()
        assert rows(gantt(run("STUCK", failed), now=after(40), finding=""))["call"].dots == ()

    def test_draws_a_running_attempt_until_now(self) -> None:
        drawing = gantt(run("RUNNING", step("call", "RUNNING", attempt(10, None, ""))), now=after(40), finding="")
        bar = rows(drawing)["call"].bars[0]
        assert drawing.now_x is not None
        assert bar.x + bar.width == pytest.approx(drawing.now_x)

    def test_has_no_now_when_the_run_is_over(self) -> None:
        assert gantt(run("COMPLETED", RETRIED, over=100), now=after(100), finding="").now_x is None

    def test_lists_steps_that_never_began(self) -> None:
        state = run("COMPENSATED", step("first", "DONE", attempt(0, 1, "DONE")), step("second"), over=2)
        assert rows(gantt(state, now=after(2), finding=""))["second"].words == "never begun"
        live = run("RUNNING", step("first", "DONE", attempt(0, 1, "DONE")), step("second"))
        assert rows(gantt(live, now=after(2), finding=""))["second"].words == "not begun yet"

    def test_puts_the_undo_into_a_lane_of_its_own_in_the_order_of_the_undo(self) -> None:
        state = run(
            "COMPENSATING",
            step("first", "DONE", attempt(0, 1, "DONE")),
            step("second", "UNDOING", attempt(1, 2, "DONE"), attempt(6, None, "ASKED", undo=True)),
            step("third", "UNDONE", attempt(2, 3, "UNKNOWN"), attempt(4, 5, "DONE", undo=True)),
            step("fourth", "FAILED", attempt(3, 4, "REFUSED")),
        )
        drawing = gantt(state, now=after(9), finding="")
        lane = [row.name for row in drawing.rows if row.undo]
        assert lane == ["undo third", "undo second", "undo first"]
        assert drawing.undo_top is not None
        assert all(row.y > drawing.undo_top for row in drawing.rows if row.undo)
        assert all(row.y < drawing.undo_top for row in drawing.rows if not row.undo)

    def test_has_no_undo_lane_when_nothing_is_undone(self) -> None:
        assert gantt(run("COMPLETED", RETRIED, over=100), now=after(100), finding="").undo_top is None

    @pytest.mark.parametrize("end", [0.0, 0.05, 10, 3600, 86_400 * 40])
    def test_keeps_everything_inside_the_drawing(self, end: float) -> None:
        late = step("late", "FAILED", attempt(end * 0.99, end, "FAILED", detail="x" * 500))
        drawing = gantt(run("STUCK", RETRIED if end > 30 else step("none"), late), now=after(end), finding="")
        for row in drawing.rows:
            assert LEFT <= row.words_x <= WIDTH
            assert all(bar.x >= LEFT and bar.x + bar.width <= WIDTH for bar in row.bars)
        assert len(rows(drawing)["late"].shown) < 500

    def test_becomes_a_drawing_and_a_table(self) -> None:
        state = run("COMPENSATING", RETRIED, step("second"))
        drawing = gantt(state, now=after(40), finding="The finding.")
        with translation.override("pt-br"):
            html = Template("{% load backoffice %}{% gantt drawing run %}").render(
                Context({"drawing": drawing, "run": state})
            )
        assert 'aria-label="Timeline of the run. The finding."' in html
        assert html.count("<caption>") == 1
        assert "url(#bo-hx)" in html
        assert "no answer, R204" in html
        assert 'x="236,0"' not in html, "a coordinate has a decimal point in every language"

    def test_escapes_what_others_wrote(self) -> None:
        evil = step("evil", "FAILED", attempt(0, 1, "FAILED", detail="<script>alert(1)</script>"))
        state = run("STUCK", evil)
        html = Template("{% load backoffice %}{% gantt drawing run %}").render(
            Context({"drawing": gantt(state, now=after(2), finding="<b>"), "run": state})
        )
        assert "<script" not in html
        assert "&lt;b&gt;" in html


class TestAxis:
    @pytest.mark.parametrize("seconds", [0, 0.003, 0.2, 1.4, 9, 61, 1300, 86_400, 86_400 * 400])
    def test_has_few_lines_at_round_distances(self, seconds: float) -> None:
        ticks = Axis(START, after(seconds), 0, 100).ticks()
        assert 1 <= len(ticks) <= TICKS_MAX + 1
        distances = {round(later.x - earlier.x, 6) for earlier, later in itertools.pairwise(ticks)}
        assert len(distances) <= 1

    def test_keeps_what_lies_outside_at_the_edge(self) -> None:
        axis = Axis(START, after(10), 0, 100)
        assert axis.x(after(-5)) == 0
        assert axis.x(after(50)) == 100


class TestVerdict:
    def test_of_a_completed_run_says_how_long_it_took(self) -> None:
        said = run_verdict(run("COMPLETED", RETRIED, over=24.4), now=after(99))
        assert (said.tone, said.title) == ("ok", "Completed in 24\u00a0s.")
        assert said.text == "All 1 steps are done, 1 step needed more than one attempt."

    def test_of_an_undoing_run_names_the_cause_and_the_undo(self) -> None:
        undoing = step("authorise_payment", "UNDOING", attempt(0, 1, "DONE"), retry_at=after(133))
        state = run("COMPENSATING", undoing, failed="issue_document", code="R412", detail="NCM not in table")
        said = run_verdict(state, now=after(100))
        assert said.title == ("Issue document was refused (R412): NCM not in table. Undoing authorise payment, attempt 1.")
        assert "Next attempt in 33\u00a0s" in said.text

    def test_of_a_stuck_run_calls_a_person(self) -> None:
        failed = step("post_sale", "FAILED", *(attempt(n, n + 1, "FAILED", number=n) for n in range(8)))
        said = run_verdict(run("STUCK", failed, failed="post_sale", code="Boom", detail="it broke"), now=after(100))
        assert said.title == "Stuck. Post sale failed (Boom): it broke."
        assert said.text.startswith("8 attempts made.")

    def test_of_a_waiting_run_says_since_when(self) -> None:
        waiting = step("ask", "WAITING", attempt(0, None, "ASKED"), shape="ask", waiting_until=after(60))
        said = run_verdict(run("WAITING", waiting), now=after(15))
        assert said.title == "Waiting for the answer to ask for 15\u00a0s."
        assert "asked again at" in said.text

    @pytest.mark.parametrize(
        ("shape", "title", "text"),
        [
            ("approval", "Waiting for somebody to decide approve return for 15\u00a0s.", "Until "),
            ("timer", "Waiting for a moment at approve return for 15\u00a0s.", "It goes on at"),
            ("parallel", "Waiting for the runs that approve return began for 15\u00a0s.", "It looks again at"),
            ("child", "Waiting for the runs that approve return began for 15\u00a0s.", "It looks again at"),
        ],
    )
    def test_of_a_waiting_run_says_for_whom(self, shape: str, title: str, text: str) -> None:
        waiting = step("approve_return", "WAITING", attempt(0, None, "ASKED"), shape=shape, waiting_until=after(60))
        said = run_verdict(run("WAITING", waiting), now=after(15))
        assert said.title == title
        assert ("asked again" in said.text, text in said.text) == (False, True)

    def test_of_a_run_that_is_tried_again_says_when(self) -> None:
        failing = step("call", "PENDING", attempt(0, 1, "FAILED"), error_code="TimeoutError", retry_at=after(12))
        said = run_verdict(run("RUNNING", failing), now=after(2))
        assert said.title == "The last attempt at call failed (TimeoutError). Trying again."
        assert "Next attempt in 10\u00a0s" in said.text

    def test_of_an_undone_run_without_effects_says_that_nothing_was_undone(self) -> None:
        state = run("COMPENSATED", step("reserve", "FAILED"), over=1, failed="reserve", code="R302", detail="sold out")
        said = run_verdict(state, now=after(5))
        assert said.title == "Reserve was refused (R302): sold out."
        assert said.text.startswith("Nothing had to be undone.")

    @pytest.mark.parametrize("status", [*RunStatus])
    def test_has_words_for_every_state_even_of_an_empty_run(self, status: str) -> None:
        for state in (run(status), run(status, step("only"))):
            said = run_verdict(state, now=after(1))
            assert said.title
            assert said.icon in PATHS

    def test_never_shows_a_whole_cpf(self) -> None:
        said = run_verdict(run("STUCK", failed="x", detail="CPF 390.533.447-05 is blocked"), now=START)
        assert "390.533" not in said.title

    def test_of_home_counts_what_needs_a_person(self) -> None:
        assert home_verdict(things=0, in_flight=1).title == "Nothing needs you."
        assert home_verdict(things=1, in_flight=0).title == "1 thing needs you."
        assert home_verdict(things=2, in_flight=0).title == "2 things need you."

    def test_the_current_step_of_a_finished_run_is_none(self) -> None:
        assert current_step(run("COMPLETED", RETRIED, over=1)) == ""
        assert current_step(run("RUNNING", RETRIED, step("next"))) == "next"


class TestStates:
    @pytest.mark.parametrize(
        ("kind", "state"),
        [
            *(("run", state) for state in RunStatus),
            *(("step", state) for state in StepStatus),
            *(("attempt", state) for state in AttemptOutcome),
        ],
    )
    def test_every_state_of_a_saga_has_a_look(self, kind: str, state: str) -> None:
        assert state in LOOKS[kind]

    def test_every_look_has_an_icon_that_is_drawn(self) -> None:
        assert all(seen.icon in PATHS for kind in LOOKS.values() for seen in kind.values())

    def test_unknown_is_neither_failed_nor_done(self) -> None:
        unknown = look("step", "UNKNOWN")
        assert unknown.tone not in {look("step", "FAILED").tone, look("step", "DONE").tone}

    def test_a_state_that_nobody_knows_is_grey_and_called_by_its_name(self) -> None:
        assert look("order", "BRAND_NEW").tone == "idle"
        assert look("order", "BRAND_NEW").word == "Brand new"

    def test_a_chip_has_an_icon_and_a_word(self) -> None:
        html = Template("{% load backoffice %}{% chip 'run' 'STUCK' %}").render(Context())
        assert "<svg" in html
        assert html.endswith("Stuck</span>")

    def test_the_page_and_the_engine_agree_on_what_is_live(self) -> None:
        from apps.backoffice.components.gantt import LIVE as SHOWN_LIVE

        assert set(LIVE) == SHOWN_LIVE

    def test_a_moment_that_has_not_come_is_a_dash(self) -> None:
        assert Template("{% load backoffice %}{% moment at %}").render(Context({"at": None})) == "—"
        html = Template("{% load backoffice %}{% moment at %}").render(Context({"at": START}))
        assert 'datetime="2026-11-21T22:11:02.000Z"' in html


class TestFolds:
    DAY = 86_400.0

    def waited(self, *, rest: float = 30) -> RunState:
        """It took a while, then nobody answered for two days, then it took a while again."""
        end = 2 * self.DAY
        tries = (attempt(1, rest, "NO_ANSWER"), attempt(end, end + rest, "ANSWERED", number=2))
        return run("COMPLETED", step("first", "DONE", *tries, shape="ask"), over=end + rest + 1)

    def test_a_wait_of_two_days_does_not_squeeze_the_rest(self) -> None:
        drawn = gantt(self.waited(), now=after(3 * self.DAY), finding="")
        first, second = rows(drawn)["first"].bars
        assert first.width > 150
        assert second.width > 150
        assert second.x - (first.x + first.width) < 80
        assert [each.text for each in drawn.breaks] == ["1\u00a0d\u00a023\u00a0h"]

    def test_what_follows_a_fold_stands_where_it_belongs(self) -> None:
        axis = Axis(after(0), after(1060), 0, 156, (Fold(after(30), after(1030)),))
        assert [axis.x(after(at)) for at in (-5, 0, 30, 1030, 1060, 2000)] == [0, 0, 50, 106, 156, 156]
        assert axis.x(after(530)) == 78

    def test_the_axis_never_goes_back(self) -> None:
        axis = Axis(after(0), after(9000), 0, 500, folds_of(after(at) for at in (0, 10, 4000, 4010, 9000)))
        assert len(axis.folds) == 2
        places = [axis.x(after(at)) for at in range(0, 9001, 100)]
        assert places == sorted(places)
        labels = [tick.x for tick in axis.ticks()]
        assert all(later - earlier >= 60 for earlier, later in itertools.pairwise(labels))

    @pytest.mark.parametrize(
        "moments",
        [(0, 4, 8, 90), (0, 0.03, 840), (0, 400, 800, 1200), (0, 40, 440)],
        ids=["short", "nothing beside it", "all are long", "the rest has its tenth"],
    )
    def test_what_squeezes_nothing_is_drawn_as_long_as_it_was(self, moments: tuple[float, ...]) -> None:
        assert folds_of(after(at) for at in moments) == ()

    def test_so_many_folds_that_nothing_else_had_room_are_not_made(self) -> None:
        moments = [after(index * 10_000 + extra) for index in range(9) for extra in (0, 1)]
        assert len(folds_of(moments)) == FOLDS_MAX

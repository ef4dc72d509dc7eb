"""The map of a use case from values alone: the two sentences, the heat, and where everything stands."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from apps.backoffice.components.formats import age, brief, clock
from apps.backoffice.components.offence import longest_wait, offence, offender
from apps.backoffice.components.stepmap import COLUMNS_MAX, StepMap, Tone, step_map
from apps.backoffice.components.usemap import Lane, StepFacts, heat_of, share_heat
from apps.backoffice.components.waiting import use_case_lines
from apps.backoffice.remembered import KEPT_MAX, Remembered
from apps.saga.public import Longest, Place, Spread, StepPace, StepTerms, Trouble, Wait

NOW = datetime(2026, 11, 21, 21, 6, tzinfo=UTC)  # 18:06 in São Paulo
RUN = UUID(int=7)


@pytest.fixture(autouse=True)
def in_sao_paulo(settings: Any) -> None:
    settings.TIME_ZONE = "America/Sao_Paulo"


def longest(
    ago: float, kind: str = "answer", whom: str = "tax authority", until: float | None = None, **more: Any
) -> Longest:
    """Somebody waits since so many seconds, for somebody, until so many seconds from now."""
    end = None if until is None else NOW + timedelta(seconds=until)
    values: dict[str, Any] = {"exact": True, "attempt": 1, **more}
    wait = Wait(kind=kind, whom=whom, since=None, until=end)
    return Longest(run_id=RUN, business_key="order", since=NOW - timedelta(seconds=ago), wait=wait, **values)


def spread(seconds: float) -> Spread:
    """Everybody took as long."""
    took = timedelta(seconds=seconds)
    return Spread(took, took, took)


def facts(
    name: str, *, kind: str = "COMPENSABLE", lane: Lane | None = None, outside: float | None = None, **more: Any
) -> StepFacts:
    """A step."""
    terms = StepTerms(
        name=name, kind=kind, shape="ask", told="", partner="", attempts_max=8, undo_attempts_max=16, breaker=None
    )
    pace = StepPace(
        step=name,
        shape="ask",
        position=0,
        entered=10,
        undone=0,
        whole=None,
        queue=None,
        work=None,
        outside=spread(outside) if outside is not None else None,
        between=None,
    )
    values: dict[str, Any] = {
        "back": Lane(),
        "errors": 0,
        "undo_errors": 0,
        "refusals": 0,
        "turned": 0,
        "worst": None,
        "paused": False,
        **more,
    }
    return StepFacts(name=name, terms=terms, ahead=lane or Lane(), pace=pace, **values)


def plain(text: str) -> str:
    """With ordinary spaces."""
    return text.replace("\u00a0", " ")


class TestLongestWait:
    def test_is_named_with_its_step_its_runs_whom_and_until_when(self) -> None:
        steps = (
            facts("a", lane=Lane(runs=2, longest=longest(5))),
            facts("authorise_fiscal", lane=Lane(runs=37, longest=longest(840, until=840))),
        )
        said = longest_wait(steps, now=NOW)
        assert said.title == "Longest wait: authorise_fiscal"
        assert (
            plain(said.text)
            == "Step authorise_fiscal holds 37 runs; the longest waits 14 min for the tax authority, until 18:20."
        )

    @pytest.mark.parametrize(
        ("found", "says"),
        [
            (longest(840, "pause", "whoever lifts the pause"), "it waits 14 min for whoever lifts the pause."),
            (longest(840, "person", "orders"), "it waits 14 min for somebody of orders to decide."),
            (longest(840, "worker", "a worker"), "it waits 14 min for a worker."),
            (longest(9, "retry", "", 60, attempt=3), "it waits 9 s for attempt 4, until 18:07."),
            (longest(840, "undo", ""), "it waits 14 min to be undone."),
            (longest(840, "answer", "", -60), "it waits 14 min for an answer, and should have gone on at 18:05."),
            (longest(840, "timer", "a moment", 60), "it waits 14 min for its time, until 18:07."),
            (longest(840, exact=False), "it waits at least 14 min for the tax authority."),
        ],
        ids=lambda value: value.wait.kind if isinstance(value, Longest) else "",
    )
    def test_says_for_whom(self, found: Longest, says: str) -> None:
        said = longest_wait((facts("a", lane=Lane(runs=1, longest=found)),), now=NOW)
        assert plain(said.text) == f"Step a holds 1 run; {says}"

    def test_may_be_an_undo(self) -> None:
        step = facts("a", lane=Lane(runs=1, longest=longest(1)), back=Lane(runs=2, longest=longest(99, "undo", "bank")))
        said = longest_wait((step,), now=NOW)
        assert (said.title, said.undo) == ("Longest wait: the undo of a", True)
        assert plain(said.text).startswith("The undo of a holds 2 runs; the longest waits 1 min for the bank")

    def test_tells_what_is_usual_there(self) -> None:
        said = longest_wait((facts("a", lane=Lane(runs=1, longest=longest(99)), outside=2.1),), now=NOW)
        assert "95 of 100 spend at most 2.1 s there (outside)" in plain(said.text)

    @pytest.mark.parametrize(
        ("found", "tone"),
        [(longest(2), "run"), (longest(31), "warn"), (longest(2, "person"), "bad"), (longest(2, "pause"), "idle")],
    )
    def test_alarms_only_when_somebody_should_look(self, found: Longest, tone: str) -> None:
        assert longest_wait((facts("a", lane=Lane(runs=1, longest=found)),), now=NOW).tone == tone

    def test_is_nobodys_when_nobody_is_on_the_way(self) -> None:
        said = longest_wait((facts("a"),), now=NOW)
        assert (said.tone, said.title, said.step) == ("ok", "Nobody waits.", "")


class TestOffence:
    def test_is_of_the_step_with_most_runs_in_trouble_now(self) -> None:
        steps = (facts("a", errors=99), facts("b", lane=Lane(runs=5, stuck=1, in_error=2), errors=1))
        assert offender(steps) is steps[1]
        said = offence(steps, window="1h", now=NOW)
        assert (said.tone, said.title) == ("bad", "Offending step: b")
        assert "Of 5 runs in it now, 1 is stuck and needs a person and 2 failed and are tried again." in plain(said.text)
        assert "1 of 100 failures in the last hour happened here." in said.text

    def test_is_of_the_step_where_most_failed_lately_when_none_is_in_trouble(self) -> None:
        worst = Trouble(step="b", undo=False, outcome="FAILED", code="R204", runs=31, since=NOW - timedelta(minutes=14))
        steps = (facts("a", errors=14), facts("b", errors=37, worst=worst))
        said = offence(steps, window="24h", now=NOW)
        assert said.tone == "warn"
        assert said.text == "37 of 51 failures in the last 24 hours happened here, 31 times: R204, first at 17:52."

    def test_tells_an_answer_that_did_not_come_in_words(self) -> None:
        worst = Trouble(step="a", undo=False, outcome="NO_ANSWER", code="NoAnswer", runs=2, since=NOW)
        said = offence((facts("a", errors=2, worst=worst),), window="15min", now=NOW)
        assert plain(said.text) == "2 failures in the last 15 minutes happened here, all: no answer came, first at 18:06."

    def test_is_of_an_undo_that_is_stuck(self) -> None:
        steps = (facts("a", back=Lane(runs=3, stuck=1)), facts("b"))
        said = offence(steps, window="1h", now=NOW)
        assert (said.step, said.tone) == ("a", "bad")
        assert "Its undo holds 3 runs." in plain(said.text)

    def test_is_nobodys_when_all_is_well(self) -> None:
        said = offence((facts("a", lane=Lane(runs=9)), facts("b")), window="1h", now=NOW)
        assert (said.tone, said.title, said.step) == ("ok", "No step offends.", "")


class TestHeat:
    @pytest.mark.parametrize(
        ("seconds", "heat"), [(0, 0), (0.099, 0), (0.1, 1), (1, 2), (4, 3), (15, 4), (30, 5), (10**6, 5)]
    )
    def test_rises_with_the_wait(self, seconds: float, heat: int) -> None:
        assert heat_of(timedelta(seconds=seconds)) == heat

    @pytest.mark.parametrize(("number", "most", "heat"), [(0, 37, 0), (1, 37, 1), (9, 37, 1), (37, 37, 5), (0, 0, 0)])
    def test_of_a_count_is_its_share_of_the_highest(self, number: int, most: int, heat: int) -> None:
        assert share_heat(number, most) == heat


class TestWords:
    @pytest.mark.parametrize(
        ("seconds", "says"),
        [(-5, "0 s"), (4.9, "4 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (11_100, "3 h 05 min")],
    )
    def test_of_an_age_do_not_change_every_second(self, seconds: float, says: str) -> None:
        assert plain(age(timedelta(seconds=seconds))) == says

    def test_in_a_crowded_table_are_short(self) -> None:
        assert [plain(brief(timedelta(seconds=each))) for each in (0.84, 2.1, 737, 90_000)] == [
            "840 ms",
            "2.1 s",
            "12 min",
            "1 d 1 h",
        ]
        assert brief(None) == "—"

    def test_of_a_moment_tell_the_day_when_it_is_another(self) -> None:
        assert clock(NOW + timedelta(minutes=14), now=NOW) == "18:20"
        assert clock(NOW - timedelta(days=2), now=NOW) == "19 Nov 18:06"


def drawn(*steps: StepFacts, measure: str = "waiting", **more: Any) -> StepMap:
    """The map of these steps."""
    tone = Tone(measure=measure, offender=more.get("offender", ""), waits_longest=more.get("waits", ""), now=NOW)
    hrefs = {key: f"/{key}" for step in steps for key in (step.name, f"undo:{step.name}")}
    return step_map(steps, tone=tone, ends={"started": 9, "completed": 8, "undone": 1}, hrefs=hrefs)


class TestStepMap:
    def test_shows_the_usual_time_of_those_who_passed(self) -> None:
        (box,) = drawn(facts("a", outside=31, lane=Lane(runs=1, longest=longest(2)))).boxes
        assert (plain(box.number), box.caption, box.heat) == ("31 s", "p95, outside", 5)

    def test_shows_who_waits_now_when_that_is_longer(self) -> None:
        (box,) = drawn(facts("a", outside=0.01, lane=Lane(runs=1, longest=longest(840)))).boxes
        assert (plain(box.number), box.caption, box.heat) == ("14 min", "longest, now", 5)

    @pytest.mark.parametrize(
        ("measure", "numbers", "heats"), [("errors", ["0", "37"], [0, 5]), ("volume", ["10", "10"], [5, 5])]
    )
    def test_is_coloured_by_what_is_asked_for(self, measure: str, numbers: list[str], heats: list[int]) -> None:
        boxes = drawn(facts("a"), facts("b", errors=37), measure=measure).boxes
        assert [box.number for box in boxes] == numbers
        assert [box.heat for box in boxes] == heats

    def test_marks_the_offender_the_longest_wait_the_pivot_and_a_pause(self) -> None:
        steps = (facts("a"), facts("b", kind="PIVOT", paused=True), facts("c", kind="RETRIABLE"))
        first, second, third = drawn(*steps, offender="b", waits="c").boxes
        assert [each.offends for each in (first, second, third)] == [False, True, False]
        assert (third.waits_longest, second.pivot, second.paused) == (True, True, True)
        assert second.label.endswith(", paused")
        assert (first.undo is not None, second.undo, third.undo) == (True, None, None)

    def test_leads_back_from_right_to_left(self) -> None:
        steps = (facts("a"), facts("b", turned=88), facts("c", kind="PIVOT"))
        first, second, third = drawn(*steps).boxes
        assert first.undo is not None
        assert second.undo is not None
        assert second.undo.arrow_to == first.right
        assert first.undo.arrow_to is None
        assert first.undo.turns_from is not None
        assert second.x < first.undo.turns_from < second.right
        assert (first.undo.turned, second.undo.turned) == ("88", "")
        assert third.x < (second.undo.turns_from or 0) < third.right

    @pytest.mark.parametrize("number", [1, 3, 6, 7, 8, 15, 30])
    def test_of_any_number_of_steps_overlaps_nowhere_and_stays_inside(self, number: int) -> None:
        found = drawn(*(facts(f"step_{index}") for index in range(number)))
        places = [(box.x, box.y) for box in found.boxes]
        assert len(set(places)) == number
        assert len({x for x, _ in places}) <= COLUMNS_MAX
        for box in found.boxes:
            assert box.right <= found.width
            assert box.undo is not None
            assert box.undo.y + 50 <= found.height
            assert not any(other is not box and other.y == box.y and box.x <= other.x < box.right for other in found.boxes)

    def test_shortens_a_name_that_does_not_fit_and_tells_it_whole(self) -> None:
        (box,) = drawn(facts("a_step_with_a_name_that_nobody_can_read")).boxes
        assert box.name.endswith("…")
        assert "a_step_with_a_name_that_nobody_can_read" in box.label

    def test_leaves_out_what_no_version_has_any_more(self) -> None:
        gone = facts("gone")
        old = StepFacts(**{name: getattr(gone, name) for name in gone.__slots__} | {"terms": None})
        assert [box.full_name for box in drawn(facts("a"), old).boxes] == ["a"]


def place(use_case: str, step: str, *, runs: int = 1, stuck: int = 0, ago: float = 5) -> Place:
    """Runs in a step."""
    return Place(
        use_case=use_case,
        version=1,
        position=0,
        step=step,
        undo=False,
        runs=runs,
        asking=0,
        in_error=0,
        held=0,
        stuck=stuck,
        slow=0,
        late=0,
        longest=longest(ago),
    )


class TestUseCaseLines:
    def test_put_most_trouble_first_and_then_the_longest_wait(self) -> None:
        found = use_case_lines(
            (place("a", "x"), place("b", "x", ago=900), place("c", "x", stuck=1), place("b", "y", runs=3)), now=NOW
        )
        assert [(line.use_case, line.runs, line.trouble) for line in found] == [("c", 1, 1), ("b", 4, 0), ("a", 1, 0)]
        assert found[1].wait.title == "Longest wait: x"


class TestRemembered:
    def test_asks_again_when_the_answer_is_old_or_forgotten(self) -> None:
        kept: Remembered[int] = Remembered(timedelta(seconds=10))
        asked: list[int] = []

        def ask() -> int:
            asked.append(1)
            return len(asked)

        answers = [kept.get("a", ask, now=NOW + timedelta(seconds=at)) for at in (0, 9, 10, 19, 20)]
        assert answers == [1, 1, 2, 2, 3]
        assert kept.get("b", ask, now=NOW) == 4
        kept.forget()
        assert kept.get("a", ask, now=NOW + timedelta(seconds=20)) == 5

    def test_keeps_no_more_than_it_may(self) -> None:
        kept: Remembered[int] = Remembered(timedelta(seconds=10))
        for index in range(KEPT_MAX + 1):
            kept.get(index, lambda: 1, now=NOW)
        assert kept.get(0, lambda: 2, now=NOW) == 2
        assert kept.get(KEPT_MAX, lambda: 2, now=NOW) == 1

    def test_does_not_trust_an_answer_of_the_future(self) -> None:
        kept: Remembered[int] = Remembered(timedelta(seconds=10))
        kept.get("a", lambda: 1, now=NOW + timedelta(hours=1))
        assert kept.get("a", lambda: 2, now=NOW) == 2

"""What manage.py check refuses: use cases that nobody answers for, and steps that changed under their runs."""

import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from apps.saga import checks
from apps.saga import definition as definitions
from apps.saga.attributes import Attribute
from apps.saga.definition import COMPENSABLE, PIVOT, RETRIABLE, AskStep, CallStep, Definition, Kind, LocalStep, Step
from apps.saga.governance import problems_between, problems_of
from apps.saga.snapshots import Snapshots, snapshot_of
from apps.saga.terms import Breaker, Sla
from apps.saga.versions import mapping_problems

SLA = Sla(target=timedelta(seconds=1), deadline=timedelta(minutes=1))


def step(name: str, kind: Kind = COMPENSABLE, shape: type[Step] = LocalStep, **more: Any) -> Step:
    partner = "" if shape is LocalStep else "bank"
    made: Step = type("Made", (shape,), {"name": name, "kind": kind, "partner": partner, **more})()
    return made


def use_case(*steps: Step, version: int = 1, name: str = "orders.toy", **terms: Any) -> Definition:
    given = {"owner": "orders", "description": "A toy.", "sla": SLA, **terms}
    return Definition(name, version, steps or (step("a"),), **given)


class TestTerms:
    def test_of_a_governed_use_case_are_fine(self) -> None:
        assert list(problems_of(use_case(step("a"), step("b", PIVOT, AskStep)))) == []

    @pytest.mark.parametrize(
        ("terms", "problem"),
        [
            ({"owner": ""}, "it has no owner"),
            ({"description": ""}, "it has no description"),
            ({"sla": None}, "it has no SLA"),
            ({"sla": Sla(target=timedelta(2), deadline=timedelta(1))}, "its SLA is not 0 < target <= deadline"),
            ({"sla": Sla(target=timedelta(0), deadline=timedelta(1))}, "its SLA is not 0 < target <= deadline"),
            ({"name": "toy"}, "its name is not words with dots between them, such as orders.purchase.card"),
            ({"name": "Orders.Toy"}, "its name is not words with dots between them, such as orders.purchase.card"),
            ({"attributes": (Attribute("a b", str),)}, "attribute 'a b' is not a name"),
            ({"attributes": (Attribute("a", float),)}, "attribute a is of type float, which cannot be searched"),
            ({"attributes": (Attribute("amount", str),)}, "attribute amount is money, and so a Decimal"),
            ({"attributes": (Attribute("a", str), Attribute("a", str))}, "attribute a appears twice"),
            ({"attributes": (Attribute("a", str, from_step="z"),)}, "attribute a comes from step z, which does not exist"),
            (
                {"attributes": tuple(Attribute(f"a{n}", str) for n in range(21))},
                "it has more than 20 search attributes",
            ),
        ],
    )
    def test_that_are_missing_or_wrong_are_named(self, terms: dict[str, Any], problem: str) -> None:
        (found,) = problems_of(use_case(**terms))
        assert found.startswith(problem)

    @pytest.mark.parametrize(
        ("made", "problem"),
        [
            (step("a", shape=AskStep, partner=""), "step a: it waits for somebody, and does not say for whom (partner)"),
            (step("a", shape=CallStep, partner=""), "step a: it waits for somebody, and does not say for whom (partner)"),
            (
                step("a", breaker=Breaker(failures=3, within=timedelta(1))),
                "step a: a local step has no partner who could be away, and needs no breaker",
            ),
            (
                step("a", shape=CallStep, breaker=Breaker(failures=0, within=timedelta(1))),
                "step a: its breaker does not open after 1 to 200 failures",
            ),
            (
                step("a", shape=CallStep, breaker=Breaker(failures=1, within=timedelta(0))),
                "step a: its breaker has a time that is not positive",
            ),
        ],
    )
    def test_of_a_step_are_looked_at_too(self, made: Step, problem: str) -> None:
        assert list(problems_of(use_case(made))) == [problem]

    def test_an_attribute_has_one_type_everywhere(self) -> None:
        one = use_case(attributes=(Attribute("day", date),))
        other = use_case(name="orders.other", attributes=(Attribute("day", datetime), Attribute("amount", Decimal)))
        assert list(problems_between([one, other])) == [
            "attribute day is a date in orders.toy and a datetime in orders.other v1"
        ]
        assert list(problems_between([other, other])) == []

    def test_the_sla_tells_slow_from_late(self) -> None:
        took = [timedelta(seconds=1), timedelta(seconds=2), timedelta(minutes=1), timedelta(minutes=2)]
        assert [SLA.standing(each) for each in took] == ["within", "slow", "slow", "late"]

    def test_a_breaker_looks_at_the_last_failures_alone(self) -> None:
        breaker, first = Breaker(failures=3, within=timedelta(seconds=10)), datetime(2026, 1, 1, tzinfo=UTC)
        at = [first + timedelta(seconds=seconds) for seconds in (0, 50, 55, 60, 61)]
        assert [breaker.opens(at[:n]) for n in range(6)] == [False, False, False, False, True, True]


class TestSnapshots:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "sagas" / "snapshots"

    def of(self, folder: Path, *definitions: Definition) -> Snapshots:
        return Snapshots(definitions, {"orders": folder})

    def test_are_written_once(self, folder: Path) -> None:
        toy = use_case(step("a"), step("b", PIVOT, AskStep), step("c", RETRIABLE, CallStep))
        assert [path.name for path in self.of(folder, toy).write()] == ["orders.toy.v1.json"]
        assert self.of(folder, toy).write() == []
        assert list(self.of(folder, toy).problems()) == []
        assert json.loads((folder / "orders.toy.v1.json").read_text())["steps"] == [
            {"name": "a", "kind": "COMPENSABLE", "shape": "local"},
            {"name": "b", "kind": "PIVOT", "shape": "ask"},
            {"name": "c", "kind": "RETRIABLE", "shape": "call"},
        ]

    @pytest.mark.parametrize(
        "steps",
        [
            (step("a"),),
            (step("a"), step("b"), step("c")),
            (step("b"), step("a")),
            (step("a"), step("x")),
            (step("a"), step("b", PIVOT)),
            (step("a"), step("b", shape=AskStep)),
        ],
        ids=["fewer", "more", "order", "name", "kind", "shape"],
    )
    def test_refuse_steps_that_changed_without_a_new_version(self, folder: Path, steps: tuple[Step, ...]) -> None:
        self.of(folder, use_case(step("a"), step("b"))).write()
        changed = self.of(folder, use_case(*steps))
        assert changed.write() == [], "a snapshot is never overwritten"
        (problem,) = changed.problems()
        assert problem.startswith("the steps of orders.toy v1 have changed")
        assert "version 2" in problem

    def test_let_a_new_version_have_other_steps(self, folder: Path) -> None:
        old, new = use_case(step("a")), use_case(step("b"), version=2)
        self.of(folder, old, new).write()
        assert list(self.of(folder, old, new).problems()) == []

    def test_let_terms_and_patience_change(self, folder: Path) -> None:
        self.of(folder, use_case(step("a"))).write()
        other = use_case(step("a", attempts_max=99), owner="others", attributes=(Attribute("x", str),))
        assert list(self.of(folder, other).problems()) == []

    def test_miss_a_version_that_nobody_wrote_down(self, folder: Path) -> None:
        (problem,) = self.of(folder, use_case()).problems()
        assert problem == "orders.toy v1 has no snapshot. Write it and commit it: manage.py saga_snapshots --write"

    def test_miss_a_definition_that_is_gone(self, folder: Path) -> None:
        self.of(folder, use_case()).write()
        (problem,) = self.of(folder).problems()
        assert problem.startswith("orders.toy.v1 has a snapshot, and nobody registers it")

    @pytest.mark.parametrize("text", ["", "[]", '{"steps": 5}', "{"])
    def test_take_a_file_that_was_spoilt_for_another(self, folder: Path, text: str) -> None:
        self.of(folder, use_case()).write()
        (folder / "orders.toy.v1.json").write_text(text)
        assert len(list(self.of(folder, use_case()).problems())) == 1

    def test_ask_for_a_name_that_begins_with_its_app(self, folder: Path) -> None:
        (problem,) = self.of(folder, use_case(name="nowhere.toy")).problems()
        assert problem.startswith("nowhere.toy v1 belongs to no app")

    def test_of_this_project_are_committed(self) -> None:
        real = [each for each in definitions.registered() if not each.use_case.startswith("test.")]
        assert len(real) >= 2
        assert list(Snapshots(real).problems()) == []
        assert (
            Snapshots(real).steps("orders.purchase.card", 1)
            == snapshot_of(definitions.lookup("orders.purchase.card", 1))["steps"]
        )


class TestMappings:
    OLD = use_case(step("a"), step("b"), step("c", PIVOT))

    @pytest.fixture(autouse=True)
    def the_old_one_is_known(self) -> Iterator[None]:
        definitions.register(self.OLD)
        yield
        definitions._registry.pop(("orders.toy", 1))

    def problems(self, mapping: dict[str, str], *steps: Step, older: int = 1) -> list[str]:
        return list(mapping_problems(use_case(*steps, version=2, migrates_from={older: mapping})))

    def test_may_rename_add_and_leave_out(self) -> None:
        assert self.problems({"a": "x", "c": "c"}, step("x"), step("new"), step("c", PIVOT), step("d", RETRIABLE)) == []

    @pytest.mark.parametrize(
        ("mapping", "problem"),
        [
            ({"a": "nowhere"}, "it maps a of version 1 to nowhere: no such step"),
            ({"z": "x"}, "it maps z of version 1 to x: no such step"),
            ({"a": "x", "b": "x"}, "it maps steps of version 1 to the same step, or in another order"),
            ({"a": "y", "b": "x"}, "it maps steps of version 1 to the same step, or in another order"),
            ({"c": "x"}, "it maps c of version 1, pivot local, to x, compensable local"),
        ],
    )
    def test_that_could_not_work_are_named(self, mapping: dict[str, str], problem: str) -> None:
        assert self.problems(mapping, step("x"), step("y"), step("p", PIVOT)) == [problem]

    @pytest.mark.parametrize("older", [2, 3, 9])
    def test_come_from_an_older_version_that_is_known(self, older: int) -> None:
        (problem,) = self.problems({}, step("a"), older=older)
        assert "not an older one" in problem

    def test_another_shape_is_another_step(self) -> None:
        assert self.problems({"a": "a"}, step("a", shape=CallStep)) == [
            "it maps a of version 1, compensable local, to a, compensable call"
        ]


class TestCheck:
    def test_this_project_is_governed(self) -> None:
        found = [*checks.check_governance(), *checks.check_snapshots(), *checks.check_mappings()]
        assert [error.msg for error in found] == []

    @pytest.mark.parametrize(
        ("made", "errors"),
        [
            (use_case(owner=""), {"saga.E002", "saga.E003"}),
            (use_case(version=2, migrates_from={1: {"a": "a"}}), {"saga.E003", "saga.E004"}),
        ],
    )
    def test_what_is_not_governed_is_refused(self, made: Definition, errors: set[str]) -> None:
        definitions.register(made)
        try:
            found = [*checks.check_governance(), *checks.check_snapshots(), *checks.check_mappings()]
        finally:
            definitions._registry.pop((made.use_case, made.version))
        assert {error.id for error in found} == errors
        assert all(error.msg.startswith("orders.toy") for error in found)

    def test_a_changed_step_of_a_real_use_case_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = definitions.lookup("orders.purchase.card", 1)
        changed = dataclasses.replace(real, steps=(*real.steps, step("one_more", RETRIABLE)))
        monkeypatch.setitem(definitions._registry, ("orders.purchase.card", 1), changed)
        (error,) = checks.check_snapshots()
        assert "register the change as version 2" in error.msg

"""Choreographed use cases within the rest of the engine: deadlines, keys, branches of orchestrated runs."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import transaction
from django.utils import timezone

from apps.saga import definition as definitions
from apps.saga import engine
from apps.saga.definition import COMPENSABLE, Definition, LocalStep, Run
from apps.saga.models import Run as RunRow
from apps.saga.pipes import PipeStep
from apps.saga.shapes import Child, ParallelStep, SubSagaStep
from apps.saga.terms import Sla
from tests.pipes.world import CARDS, PARCELS, SERVICES, STOCK, World, registered, use_case

pytestmark = pytest.mark.django_db
SLA = Sla(target=timedelta(seconds=5), deadline=timedelta(minutes=10))


def status_of(use_case: str) -> str:
    return str(RunRow.objects.get(use_case=use_case).status)


def begin(definition: Definition, **more: Any) -> UUID:
    with transaction.atomic():
        return engine.start(
            definition, subject_id=uuid4(), business_key="k", data={"amount": "1"}, now=timezone.now(), **more
        )


class Local(LocalStep):
    """A step of ours behind the services'."""

    name, kind = "local", COMPENSABLE

    def __init__(self, *, refuses: bool = False) -> None:
        self.refuses = refuses
        self.told: list[str] = []

    def handle(self, run: Run) -> dict[str, Any] | None:
        if self.refuses:
            from apps.common.errors import InvalidRequest

            raise InvalidRequest("no")
        self.told.append("do")
        return dict(run.outputs)

    def compensate(self, run: Run) -> None:
        self.told.append("undo")


class Elsewhere(SubSagaStep):
    """The whole of the services' saga as one step."""

    name, kind = "elsewhere", COMPENSABLE

    def __init__(self, inner: Definition) -> None:
        self.inner = inner
        self.definitions = (inner,)  # type: ignore[misc]

    def child(self, run: Run) -> Child:
        return Child(self.inner, run.subject_id, run.business_key, run.data)


class Both(ParallelStep):
    """Two services asked side by side."""

    name, kind = "both", COMPENSABLE
    steps = (PipeStep(CARDS), PipeStep(PARCELS))

    def data_of(self, run: Run, step: Any) -> Mapping[str, Any]:
        return run.data


class TestDeadline:
    def test_of_the_whole_run_undoes_it(self) -> None:
        inner = use_case()
        definition = Definition(
            inner.use_case, 1, inner.steps, owner="t", description="t", sla=SLA, deadline=timedelta(hours=2)
        )
        with registered(definition):
            world = World(definition)
            world.cards.is_up = False
            run_id = world.start()
            world.settle()
            RunRow.objects.update(deadline_at=timezone.now(), due_at=timezone.now())
            engine.advance(run_id)
            assert (world.run.status, world.run.error_code) == ("COMPENSATING", "R530")
            world.cards.is_up = True
            world.live_on()
            assert (world.run.status, world.run.error_code) == ("COMPENSATED", "R530")
            assert world.stock.effects == ["do", "undo"]


class TestKeys:
    def test_a_second_run_on_the_same_key_waits_for_the_first(self) -> None:
        inner = use_case()
        definition = Definition(
            inner.use_case, 1, inner.steps, owner="t", description="t", sla=SLA, locks=lambda data: ["the article"]
        )
        with registered(definition):
            world = World(definition)
            first = world.start()
            second = world.start()
            world.relay()
            assert len(world.asked(f"{STOCK}.in")) == 1
            assert RunRow.objects.get(pk=second).awaits_key == "the article"
            world.live_on()
            assert set(RunRow.objects.values_list("status", flat=True)) == {"COMPLETED"}
            assert RunRow.objects.get(pk=first).finished_at < RunRow.objects.get(pk=second).finished_at  # type: ignore[operator]


class TestBranches:
    def parent(self, inner: Definition, *steps: Any) -> Definition:
        return Definition("test.parent", 1, (Elsewhere(inner), *steps), owner="t", description="t", sla=SLA)

    def test_a_choreographed_saga_is_a_step_of_an_orchestrated_one(self) -> None:
        inner, last = use_case(), Local()
        with registered(inner), registered(self.parent(inner, last)) as parent:
            world = World(inner)
            begin(parent)
            world.live_on()
            assert (status_of("test.parent"), status_of(inner.use_case)) == ("COMPLETED", "COMPLETED")
            assert last.told == ["do"]
            assert world.effects == [["do"]] * 3

    def test_its_refusal_undoes_the_whole(self) -> None:
        inner, last = use_case(), Local()
        with registered(inner), registered(self.parent(inner, last)) as parent:
            world = World(inner)
            world.parcels.plan = ["refuse"]
            begin(parent)
            world.live_on()
            assert (status_of("test.parent"), status_of(inner.use_case)) == ("COMPENSATED", "COMPENSATED")
            assert last.told == []

    def test_it_is_called_back_when_the_whole_turns_round(self) -> None:
        inner, last = use_case(), Local(refuses=True)
        with registered(inner), registered(self.parent(inner, last)) as parent:
            world = World(inner)
            begin(parent)
            world.live_on()
            assert (status_of("test.parent"), status_of(inner.use_case)) == ("COMPENSATED", "COMPENSATED")
            assert world.effects == [["do", "undo"]] * 3

    @pytest.mark.parametrize("refuses", [False, True])
    def test_services_side_by_side(self, refuses: bool) -> None:
        whole = Definition("test.whole", 1, (Both(),), owner="t", description="t", sla=SLA)
        with registered(whole):
            world = World(use_case())
            world.parcels.plan = ["refuse"] if refuses else ["do"]
            begin(whole)
            world.live_on()
            assert status_of("test.whole") == ("COMPENSATED" if refuses else "COMPLETED")
            assert world.cards.effects == (["do", "undo"] if refuses else ["do"])
            assert world.parcels.effects == ([] if refuses else ["do"])
            gids = set(RunRow.objects.values_list("global_id", flat=True))
            assert len(gids) == 1, "one saga, told apart by branches"


def test_what_a_definition_may_not_mix() -> None:
    mixed = Definition("test.mixed", 1, (PipeStep(STOCK), Local()))
    assert any("some of its steps are pipes" in problem for problem in mixed.problems())
    optional = Definition("test.optional", 1, (PipeStep(STOCK),), optional_steps=(PipeStep(CARDS),))
    assert any("optional steps" in problem for problem in optional.problems())
    assert not use_case().problems()
    assert definitions.shape_class(PipeStep(STOCK)) is PipeStep
    with pytest.raises(ValueError, match="no service's address"):
        PipeStep("Stock")


def test_a_diagram_names_the_services() -> None:
    from apps.saga.diagram import mermaid, svg

    with registered(use_case()) as definition:
        for service in SERVICES:
            assert service in mermaid(definition)
            assert f"What {service} does." in svg(definition)

"""The shapes that wait, as a definition has them: checked, written down and drawn."""

from datetime import datetime, timedelta
from typing import Any
from xml.etree import ElementTree

from apps.saga.definition import COMPENSABLE, PIVOT, RETRIABLE, Definition, Kind, LocalStep, Run, Step, shape_class
from apps.saga.diagram import mermaid, svg
from apps.saga.governance import problems_of
from apps.saga.shapes import ApprovalStep, Child, ParallelStep, Question, SubSagaStep, TimerStep
from apps.saga.snapshots import snapshot_of

SVG = "{http://www.w3.org/2000/svg}"


class Pack(LocalStep):
    name, kind = "pack", COMPENSABLE

    def handle(self, run: Run) -> None:
        return None

    def compensate(self, run: Run) -> None:
        """Nothing."""


class CoolingOff(TimerStep):
    """The customer may change his mind."""

    name, kind = "cooling_off", COMPENSABLE

    def until(self, run: Run) -> datetime:
        return run.now


class Release(ApprovalStep):
    name, kind = "release", COMPENSABLE
    deciders = ("group:finance", "permission:orders.release")

    def ask(self, run: Run) -> Question:
        return Question("Shall it?")


PACKING = Definition("orders.packing", 1, (Pack(),))


class PackAll(ParallelStep):
    name, kind = "pack_all", COMPENSABLE
    definitions = (PACKING, Definition("orders.labels", 2, (Pack(),)))

    def branches(self, run: Run) -> dict[str, Child]:
        return {}


class Deliver(SubSagaStep):
    name, kind = "deliver", PIVOT
    definitions = (Definition("orders.delivery", 1, (Pack(),)),)

    def child(self, run: Run) -> Child:
        return Child(self.definitions[0], run.subject_id, run.business_key, {})


class Insure(Pack):
    name, kind = "insure", RETRIABLE


WHOLE = Definition("orders.big", 1, (CoolingOff(), Release(), PackAll(), Deliver()), optional_steps=(Insure(),))


def named(shape: type[Step], name: str, kind: Kind, **terms: Any) -> Any:
    return type("Made", (shape,), {"name": name, "kind": kind, **terms})()


class TestShapes:
    def test_are_known_by_the_class_that_names_them(self) -> None:
        found = [shape_class(step) for step in (*WHOLE.steps, *WHOLE.optional_steps)]
        assert found == [TimerStep, ApprovalStep, ParallelStep, SubSagaStep, LocalStep]
        assert WHOLE.problems() == []

    def test_lack_what_their_shape_needs(self) -> None:
        steps = (
            named(TimerStep, "t", COMPENSABLE),
            named(ApprovalStep, "a", COMPENSABLE),
            named(SubSagaStep, "s", COMPENSABLE, definitions=(PACKING,)),
            named(ParallelStep, "p", COMPENSABLE, definitions=(PACKING,)),
        )
        assert Definition("x", 1, steps).problems() == ["step t has no until", "step a has no ask", "step s has no child"]

    def test_need_no_partner(self) -> None:
        told = list(problems_of(WHOLE))
        assert told == ["it has no owner", "it has no description", "it has no SLA"]

    def test_have_a_shape_that_the_column_can_hold(self) -> None:
        assert max(len(step.shape) for step in WHOLE.all_steps) <= 8

    def test_of_a_branch_that_is_a_step_take_their_terms_from_the_whole(self) -> None:
        step = named(ParallelStep, "p", COMPENSABLE, steps=(Pack(),))
        whole = Definition("orders.whole", 4, (step,), owner="orders", keep_days=9)
        (part,) = step.parts(whole)
        assert (part.use_case, part.version, part.owner, part.keep_days) == ("orders.whole.p.pack", 4, "orders", 9)
        assert list(step.parts(whole)) == [part], "however often it is asked"
        later = Definition("orders.whole", 5, (step,))
        assert list(step.parts(later)) == [part], "a version that keeps the step keeps its branches"


class TestSnapshot:
    def test_holds_branches_and_optional_steps(self) -> None:
        assert snapshot_of(WHOLE) == {
            "use_case": "orders.big",
            "version": 1,
            "steps": [
                {"name": "cooling_off", "kind": "COMPENSABLE", "shape": "timer"},
                {"name": "release", "kind": "COMPENSABLE", "shape": "approval"},
                {
                    "name": "pack_all",
                    "kind": "COMPENSABLE",
                    "shape": "parallel",
                    "runs": ["orders.packing.v1", "orders.labels.v2"],
                },
                {"name": "deliver", "kind": "PIVOT", "shape": "child", "runs": ["orders.delivery.v1"]},
            ],
            "optional_steps": [{"name": "insure", "kind": "RETRIABLE", "shape": "local"}],
        }


class TestDrawing:
    def test_as_mermaid(self) -> None:
        lines = mermaid(WHOLE).splitlines()
        assert '    s0["cooling off<br/>compensable · waits for a moment"]' in lines
        assert '    s1["release<br/>compensable · asks finance or orders.release"]' in lines
        assert '    s2["pack all<br/>compensable · runs 2 at once"]' in lines
        assert '    s3{{"deliver<br/>pivot · runs orders.delivery"}}' in lines
        assert '    s2 --o s2b1(["orders.labels"])' in lines
        assert '    o0["insure<br/>retriable · local"]:::optional' in lines
        assert "    begin --> s0 --> s1 --> s2 --> s3 --> done" in lines
        assert "pack all runs orders.packing, orders.labels." in lines[2]
        assert "When a step chooses them: insure." in lines[2]

    def test_as_svg(self) -> None:
        root = ElementTree.fromstring(svg(WHOLE))
        boxes = list(root.iter(f"{SVG}rect"))
        assert len(boxes) == 5
        assert [box.get("stroke-dasharray") for box in boxes].count("5 4") == 1
        bottom = max(int(str(box.get("y"))) + int(str(box.get("height"))) for box in boxes)
        assert bottom < int(str(root.get("height")))
        assert "when a step chooses them" in svg(WHOLE)

    def test_of_a_definition_without_them_is_as_it_was(self) -> None:
        assert "chooses" not in svg(PACKING) + mermaid(PACKING)


class TestDeadline:
    def test_is_part_of_no_snapshot(self) -> None:
        assert snapshot_of(Definition("x", 1, (Pack(),), deadline=timedelta(1))) == snapshot_of(
            Definition("x", 1, (Pack(),))
        )

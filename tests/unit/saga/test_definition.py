"""The order of kinds, whatever the steps."""

from hypothesis import given
from hypothesis import strategies as st

from apps.saga.definition import COMPENSABLE, PIVOT, RETRIABLE, Definition, Kind, LocalStep, Run

LETTERS = {COMPENSABLE: "c", PIVOT: "p", RETRIABLE: "r"}


def step(name: str, kind: Kind) -> LocalStep:
    class Local(LocalStep):
        def handle(self, run: Run) -> None: ...

        def compensate(self, run: Run) -> None: ...

    Local.name, Local.kind = name, kind  # type: ignore[misc]
    return Local()


def follows_the_rule(kinds: list[Kind]) -> bool:
    """Compensable*, then at most one pivot, then retriable*: said in another way than the code says it."""
    rest = "".join(LETTERS[kind] for kind in kinds).lstrip("c").removeprefix("p").lstrip("r")
    return rest == ""


class TestKinds:
    @given(st.lists(st.sampled_from(list(Kind)), min_size=1, max_size=6))
    def test_are_accepted_exactly_in_the_order_of_the_rule(self, kinds: list[Kind]) -> None:
        definition = Definition("x", 1, tuple(step(str(n), kind) for n, kind in enumerate(kinds)))
        assert (definition.problems() == []) == follows_the_rule(kinds)

    def test_are_found_by_the_name_of_their_step(self) -> None:
        definition = Definition("x", 1, (step("a", COMPENSABLE), step("b", PIVOT)))
        assert definition.position_of("b") == 1

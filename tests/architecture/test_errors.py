"""Every refusal has a code of its own, in its app's range, and is documented."""

from collections import Counter
from pathlib import Path

import pytest

from apps.common.errors import DomainError
from tests.architecture import errors_doc

RANGES = {
    "common": "R0",
    "idempotency": "R0",
    "observability": "R0",
    "ledger": "R1",
    "payments": "R2",
    "orders": "R3",
    "fiscal_docs": "R4",
    "saga": "R5",
    "messaging": "R6",
    "identity": "R7",
    "customers": "R8",
    "webhooks": "R9",
}
ERRORS = errors_doc.error_classes()


class TestCodes:
    def test_are_unique(self) -> None:
        assert [code for code, count in Counter(kind.code for kind in ERRORS).items() if count > 1] == []

    @pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
    def test_stand_in_the_range_of_their_app_and_say_what_they_mean(self, kind: type[DomainError]) -> None:
        assert "code" in vars(kind), "a code of its own, not its parent's"
        assert kind.code.startswith(RANGES[kind.__module__.split(".")[1]])
        assert len(kind.code) == 4
        assert kind.code[1:].isdigit()
        assert kind.__doc__, "the docstring is the message"
        assert kind.title().endswith(".")
        assert "|" not in kind.title()

    @pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
    def test_have_a_status_that_fits(self, kind: type[DomainError]) -> None:
        assert kind.status in {400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 429, 500}
        if kind.retryable:
            assert kind.status not in {400, 404, 422}, "the very same request cannot become well formed"


class TestPage:
    @pytest.fixture
    def page(self) -> str:
        return errors_doc.PAGE.read_text()

    def test_is_what_the_classes_say(self, page: str) -> None:
        assert page == errors_doc.render(page), "run: python -m tests.architecture.errors_doc --write"

    def test_tells_the_caller_what_to_do_next(self, page: str) -> None:
        next_steps = errors_doc.written_by_hand(page)
        assert [code for code, text in next_steps.items() if text in ("", errors_doc.TO_DO)] == []
        assert set(next_steps) == {kind.code for kind in ERRORS}

    def test_keeps_what_was_written_by_hand(self, page: str) -> None:
        changed = page.replace("Split a batch.", "Do something else.")
        assert changed != page
        assert "Do something else." in errors_doc.render(changed)

    def test_is_linked_from_where_people_look(self) -> None:
        root = Path(errors_doc.PAGE).parents[1]
        assert "docs/errors.md" in (root / "README.md").read_text() + (root / "ARCHITECTURE.md").read_text()

"""The API is what its document says, and the document is what callers were given."""

from typing import Any

import pytest

from tests.contracts import snapshots

METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return snapshots.document()


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in METHODS
    ]


class TestOpenApi:
    def test_is_the_snapshot(self, document: dict[str, Any]) -> None:
        assert document == snapshots.written(), "look at the difference, then: python -m tests.contracts.snapshots --write"

    def test_is_version_3_1(self, document: dict[str, Any]) -> None:
        assert document["openapi"].startswith("3.1.")

    def test_names_every_operation_once(self, document: dict[str, Any]) -> None:
        names = [operation["operationId"] for _, operation in operations(document)]
        assert len(names) > 5
        assert sorted(names) == sorted(set(names))

    def test_describes_every_operation(self, document: dict[str, Any]) -> None:
        assert [at for at, operation in operations(document) if not operation.get("description")] == []

    def test_names_every_operation_in_the_list_of_the_page(self, document: dict[str, Any]) -> None:
        assert [path for path, operation in operations(document) if not operation.get("summary")] == []

    def test_says_how_every_operation_refuses(self, document: dict[str, Any]) -> None:
        for at, operation in operations(document):
            refusals = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
            assert refusals, f"{at} names no refusal"
            for status, answer in refusals.items():
                shapes = [str(content["schema"]) for content in answer.get("content", {}).values()]
                assert shapes, f"{at} {status} has no shape"
                assert all("Problem" in shape for shape in shapes), f"{at} {status}: {shapes}"

    def test_promises_an_answer_for_every_success(self, document: dict[str, Any]) -> None:
        for at, operation in operations(document):
            assert [status for status in operation["responses"] if status < "400"], at

    def test_resolves_every_reference(self, document: dict[str, Any]) -> None:
        def references(part: Any) -> list[str]:
            if isinstance(part, dict):
                own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
                return own + [one for value in part.values() for one in references(value)]
            return [one for value in part for one in references(value)] if isinstance(part, list) else []

        for reference in references(document):
            found: Any = document
            for name in reference.removeprefix("#/").split("/"):
                found = found[name]
            assert found

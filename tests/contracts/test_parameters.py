"""A query parameter that an operation does not have is refused, whichever operation it is."""

import re
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from tests.contracts import snapshots

DOCUMENT = snapshots.written()
OPERATIONS = [(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods]
pytestmark = pytest.mark.django_db


def address(path: str) -> str:
    return re.sub(r"{\w+}", str(uuid4()), path)


def ask(method: str, path: str, query: str) -> Any:
    return Client().generic(method.upper(), f"{address(path)}?{query}", "{}", content_type="application/json")


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[" ".join(one) for one in OPERATIONS])
class TestEveryOperation:
    def test_refuses_a_parameter_that_it_does_not_know(self, method: str, path: str) -> None:
        answer = ask(method, path, "form=2026-01-01")
        assert (answer.status_code, answer["Content-Type"]) == (422, "application/problem+json")
        assert (answer.json()["code"], answer.json()["field"]) == ("R001", "form")

    def test_knows_the_parameters_of_the_document(self, method: str, path: str) -> None:
        for one in DOCUMENT["paths"][path][method].get("parameters", ()):
            if one["in"] == "query":
                said = ask(method, path, f"{one['name']}=1").content.decode()
                assert "There is no parameter" not in said
                twice = ask(method, path, f"{one['name']}=1&{one['name']}=2").content.decode()
                assert ("is given more than once" in twice) == (one["schema"].get("type") != "array")


class TestWhatIsQuoted:
    def test_is_a_name_and_never_a_card(self) -> None:
        answer = ask("get", "/payments", "4242424242424242=1")
        assert answer.json()["field"] == "(no name)"
        assert "4242" not in answer.content.decode()

    def test_is_nothing_when_there_are_too_many(self) -> None:
        answer = ask("get", "/payments", "&".join(f"limit={number}" for number in range(2000)))
        assert (answer.status_code, answer["Content-Type"]) == (422, "application/problem+json")

    def test_leaves_pages_and_probes_alone(self) -> None:
        assert Client().get("/healthz?x=1").status_code == 200
        assert Client().get("/api/schema?x=1").status_code == 200
        assert Client().put("/payments?x=1").json()["code"] != "R001"

    @pytest.mark.parametrize("method", ["OPTIONS", "DISPATCH", "AS_VIEW", "SCHEMA", "TRACE"])
    def test_leaves_what_is_no_operation_to_its_own_refusal(self, method: str) -> None:
        """A class has more names than operations: whoever asked for one of those was told of a mistake of ours."""
        without = Client().generic(method, "/payments")
        assert without.status_code < 500
        assert Client().generic(method, "/payments?x=1").status_code == without.status_code

"""The OpenAPI document, as callers get it."""

import json
from typing import Any

import pytest
from django.test import Client
from drf_spectacular.generators import SchemaGenerator

from tests.contracts import snapshots

ACCEPTED = {"yaml": "application/vnd.oai.openapi", "json": "application/vnd.oai.openapi+json"}


def get(query: str = "", **headers: str) -> Any:
    answer = Client().get(f"/api/schema{query}", headers=headers)
    assert answer.status_code == 200
    return answer


class TestDocument:
    @pytest.mark.parametrize("kind", ACCEPTED)
    def test_is_served_as_asked_for(self, kind: str) -> None:
        read = snapshots.read if kind == "yaml" else json.loads
        for answer in (get(f"?format={kind}"), get(Accept=ACCEPTED[kind])):
            assert answer["Content-Type"].startswith("application/")
            assert f".{kind}" in answer["Content-Disposition"]
            assert read(answer.content) == snapshots.written()

    def test_is_written_once_whoever_asks_for_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first = get()

        def again(*_arguments: object, **_named: object) -> None:
            raise AssertionError("it is written again")

        monkeypatch.setattr(SchemaGenerator, "get_schema", again)
        assert get("?x=1").content == get("?version=2&lang=pt").content == first.content

    def test_is_what_its_page_shows(self) -> None:
        assert "/api/schema" in Client().get("/api/docs").content.decode()

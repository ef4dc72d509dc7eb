"""Reading documents over HTTP."""

from typing import Any
from uuid import UUID

import pytest
from django.test import Client
from rest_framework.test import APIClient

from apps.common.clock import uuid7
from apps.fiscal_docs import public as fiscal
from apps.fiscal_docs.models import BlobKind
from apps.fiscal_docs.operations import journal
from apps.identity.public import Caller
from tests.integration.fiscal_docs.conftest import Company

pytestmark = pytest.mark.django_db


def client_of(account_id: str = "acc_one", scopes: frozenset[str] = frozenset({"fiscal:read"})) -> APIClient:
    client = APIClient()
    client.force_authenticate(Caller(account_id=account_id, name="One", scopes=scopes))  # type: ignore[arg-type]
    return client


class TestOneDocument:
    def test_shows_state_key_and_links(self, company: Company) -> None:
        made = company.prepare("a")
        body = client_of().get(f"/fiscal-documents/{made['document_id']}").json()
        assert (body["state"], body["access_key"], body["total"]) == ("SIGNED", made["access_key"], "10.50")
        assert set(body["links"]) == {"self", "xml", "danfe"}

    def test_gives_the_exact_bytes(self, company: Company) -> None:
        made = company.prepare("a")
        response = client_of().get(f"/fiscal-documents/{made['document_id']}/xml")
        assert response["Content-Type"] == "application/xml"
        assert response.content == journal.content(journal.read("a"), BlobKind.SIGNED)

    def test_draws_the_pdf(self, company: Company) -> None:
        made = company.prepare("a")
        response = client_of().get(f"/fiscal-documents/{made['document_id']}/danfe")
        assert response["Content-Type"] == "application/pdf"
        assert response.content.startswith(b"%PDF")

    @pytest.mark.parametrize("what", ["", "/xml", "/danfe"])
    def test_of_another_account_is_not_there(self, company: Company, what: str) -> None:
        made = company.prepare("a", account_id="acc_two")
        problem = client_of().get(f"/fiscal-documents/{made['document_id']}{what}")
        assert (problem.status_code, problem.json()["code"]) == (404, "R004")
        assert client_of("acc_two").get(f"/fiscal-documents/{made['document_id']}{what}").status_code == 200

    @pytest.mark.parametrize("what", ["/xml", "/danfe"])
    def test_that_was_never_signed_has_no_files(self, company: Company, what: str) -> None:
        company.commit(fiscal.undo_prepare, step_key="a")
        assert client_of().get(f"/fiscal-documents/{journal.read('a').id}{what}").status_code == 404

    def test_is_closed_without_the_scope_and_without_a_caller(self, company: Company) -> None:
        made = company.prepare("a")
        address = f"/fiscal-documents/{made['document_id']}"
        assert client_of(scopes=frozenset({"orders:read"})).get(address).status_code == 403
        assert Client().get(address).status_code == 401


class TestTheList:
    def ids(self, **asked: Any) -> list[str]:
        return [row["id"] for row in client_of().get("/fiscal-documents", asked).json()["documents"]]

    def test_finds_by_order_by_key_and_by_state(self, company: Company) -> None:
        order_id = uuid7()
        one, two = company.prepare("a", order_id=order_id), company.prepare("b")
        company.prepare("c", account_id="acc_two")
        assert self.ids() == [two["document_id"], one["document_id"]]
        assert self.ids(order_id=str(order_id)) == [one["document_id"]]
        assert self.ids(access_key=two["access_key"]) == [two["document_id"]]
        assert self.ids(state="AUTHORISED") == []

    def test_pages_by_key_without_loss_or_repetition(self, company: Company) -> None:
        made = [company.prepare(f"s{n}")["document_id"] for n in range(5)]
        seen: list[str] = []
        asked: dict[str, Any] = {"limit": 2}
        for _ in range(4):
            page = client_of().get("/fiscal-documents", asked).json()
            seen += [row["id"] for row in page["documents"]]
            asked["cursor"] = page["next_cursor"]
            if page["next_cursor"] is None:
                break
        assert seen == made[::-1]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("order_id", "x"),
            ("access_key", "12\x00"),
            ("state", "LOST"),
            ("cursor", "!"),
            ("cursor", "WyJ4Il0"),
            ("limit", "0"),
        ],
    )
    def test_refuses_what_it_cannot_read(self, company: Company, name: str, value: str) -> None:
        problem = client_of().get("/fiscal-documents", {name: value})
        assert (problem.status_code, problem.json()["code"], problem.json()["field"]) == (422, "R001", name)


class TestForOthersOfOurApps:
    def test_the_latest_document_of_an_order_and_no_tombstones(self, company: Company) -> None:
        order_id = uuid7()
        assert fiscal.document_of_order(order_id) is None
        company.commit(fiscal.undo_prepare, step_key="z", order_id=order_id)
        company.prepare("a", order_id=order_id)
        latest = company.prepare("b", order_id=order_id)
        found = fiscal.document_of_order(order_id)
        assert found
        assert found.id == UUID(latest["document_id"])
        assert len(fiscal.documents_of_order(order_id=order_id)) == 2

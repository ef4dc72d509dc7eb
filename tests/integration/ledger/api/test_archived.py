"""Over HTTP: what is asked of a month that is in the archive gets a code and the file's name, never an empty answer."""

from pathlib import Path

import pytest
from rest_framework.test import APIClient

from apps.identity.public import Caller
from apps.ledger import detaching, seals
from tests.integration.ledger.chained import (
    FEBRUARY,
    FIRST,
    JANUARY,
    TRANSFER,
    chain_all,
    close_until,
    end_of,
    settle_constraints,
    two_months,
)
from tests.integration.ledger.conftest import ANA, ANY, NOW, posted

pytestmark = pytest.mark.usefixtures("bank")


@pytest.fixture
def client(tmp_path: Path) -> APIClient:
    two_months()
    close_until(end_of(FEBRUARY))
    chain_all()
    settle_constraints()
    seals.seal_month(JANUARY, by="ana", now=NOW)
    detaching.export_month(JANUARY, directory=tmp_path, by="ana", now=NOW)
    settle_constraints()
    detaching.detach_month(JANUARY, directory=tmp_path, by="ana", now=NOW)
    client = APIClient()
    caller = Caller(account_id="acc_1", name="Test", scopes=frozenset(["ledger:read", "ledger:post"]))
    client.force_authenticate(user=caller)
    return client


class TestArchived:
    def test_a_statement_says_from_when_on_there_is_one(self, client: APIClient) -> None:
        address = f"/ledger/accounts/0001/{ANA.account}/statement"
        answer = client.get(address, {"from": "2026-01-01", "to": "2026-03-18"})
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (409, "R135", "from")
        assert "month=2026-01/lines.parquet" in answer.json()["detail"]
        assert "Begin at 2026-02-01." in answer.json()["detail"]
        assert client.get(address, {"from": "2026-02-01", "to": "2026-03-18"}).status_code == 200

    def test_the_lines_of_an_entry_are_said_to_be_in_the_archive(self, client: APIClient) -> None:
        answer = client.get(f"/ledger/transactions/{TRANSFER}")
        assert (answer.status_code, answer.json()["code"]) == (409, "R135")
        assert client.get("/ledger/transactions/00000000-0000-4000-8000-000000000000").status_code == 404

    def test_its_outcome_is_posted(self, client: APIClient) -> None:
        (found,) = client.get("/ledger/transactions", {"tracekey": str(FIRST)}).json()["results"]
        assert (found["result"], found["code"], found["lines"]) == ("POSTED", "R135", [])

    def test_a_repeat_is_refused_and_not_posted(self, client: APIClient) -> None:
        before = posted(ANA)
        body = {
            "tracekey": str(FIRST),
            "branch": "0001",
            "account": ANA.account,
            "amount": "100.00",
            "debitcredit": "C",
            "eventcode": ANY,
            "details": {"name": "Zoë \u2028 \t", "rate": "1.10"},
        }
        answer = client.post("/ledger/transactions", body, format="json")
        assert (answer.status_code, answer.json()["code"]) == (409, "R135")
        answer = client.post("/ledger/transactions", {**body, "amount": "1.00"}, format="json")
        assert answer.json()["code"] == "R107"
        assert posted(ANA) == before

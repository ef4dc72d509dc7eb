"""Approvals over HTTP: who sees them, who may decide, and what a refusal of the request looks like."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from apps.saga.definition import Definition
from apps.saga.models import Approval, Audit, Run, RunStatus
from tests.integration.saga.api.test_api import client_with
from tests.integration.saga.test_approvals import question
from tests.integration.saga.test_engine import Story, local
from tests.integration.saga.test_timers import begin
from tests.integration.saga.world import REASON, TOY, registered, toy
from tests.saga_driver import finish

pytestmark = pytest.mark.django_db(transaction=True)
YES = {"approve": True, "reason": REASON}


@pytest.fixture(name="made", autouse=True)
def a_toy() -> Iterator[Definition]:
    story = Story()
    asks = question(story, deciders=("group:bosses", "scope:sagas:operate"))
    with registered(made := toy(local(story, "a"), asks, story=story)):
        yield made


@pytest.fixture
def operator() -> APIClient:
    return client_with("sagas:read", "sagas:operate")


def address() -> str:
    return f"/sagas/approvals/{Approval.objects.get().pk}"


class TestList:
    def test_tells_what_waits(self, operator: APIClient, made: Definition) -> None:
        run_id = begin(made, now=timezone.now())
        page = operator.get("/sagas/approvals").json()
        (row,) = page.pop("approvals")
        assert page == {"next_cursor": None, "total": 1, "total_is_exact": True}
        told = {name: row[name] for name in ("run_id", "step", "question", "facts", "status", "who", "delegated")}
        assert told == {
            "run_id": str(run_id),
            "step": "ok",
            "question": "Shall toy go on?",
            "facts": {"amount": "1.00"},
            "status": "OPEN",
            "who": ["group:bosses", "scope:sagas:operate"],
            "delegated": False,
        }
        assert operator.get(address()).json() == row
        assert operator.get("/sagas/approvals", {"use_case": "test.other"}).json()["total"] == 0
        assert operator.get("/sagas", {"use_case": TOY}).json()["runs"][0]["waits_for"]["kind"] == "approval"

    def test_tells_of_those_that_are_over_when_asked(self, operator: APIClient, made: Definition) -> None:
        begin(made, now=timezone.now())
        operator.post(address(), YES, format="json")
        assert operator.get("/sagas/approvals").json()["total"] == 0
        (row,) = operator.get("/sagas/approvals", {"state": "all"}).json()["approvals"]
        assert (row["status"], row["decided_by"], row["reason"]) == ("APPROVED", "account:acc_ops", REASON)

    @pytest.mark.parametrize("wrong", [{"state": "some"}, {"limit": "0"}, {"cursor": "x"}, {"use_case": "a\x00"}])
    def test_refuses_a_malformed_question(self, operator: APIClient, wrong: dict[str, str]) -> None:
        assert operator.get("/sagas/approvals", wrong).status_code == 422


class TestDecide:
    def test_approves_and_refuses(self, operator: APIClient, made: Definition) -> None:
        run_id = begin(made, now=timezone.now())
        answered = operator.post(address(), {"approve": False, "reason": REASON}, format="json")
        assert (answered.status_code, answered.json()["status"]) == (200, "REFUSED")
        assert finish(run_id).status == RunStatus.COMPENSATED
        assert list(Audit.objects.values_list("actor", "action")) == [("account:acc_ops", "refuse")]
        again = operator.post(address(), YES, format="json")
        assert (again.status_code, again.json()["code"]) == (409, "R531")

    def test_says_when_it_is_not_yours(self, operator: APIClient, made: Definition) -> None:
        begin(made, now=timezone.now())
        Approval.objects.update(deciders=["group:bosses"])
        answered = operator.post(address(), YES, format="json")
        assert (answered.status_code, answered.json()["code"]) == (403, "R533")

    def test_says_when_the_run_waits_no_more(self, operator: APIClient, made: Definition) -> None:
        begin(made, now=timezone.now())
        Approval.objects.update(status="CLOSED")
        answered = operator.post(address(), YES, format="json")
        assert (answered.status_code, answered.json()["code"]) == (409, "R532")

    @pytest.mark.parametrize(
        "body", [[], {}, {"approve": True}, {"reason": REASON}, {"approve": "maybe", "reason": REASON}]
    )
    def test_refuses_a_malformed_one(self, operator: APIClient, made: Definition, body: object) -> None:
        begin(made, now=timezone.now())
        assert operator.post(address(), body, format="json").status_code == 422
        assert Run.objects.get().status == RunStatus.WAITING

    def test_wants_the_scopes(self, made: Definition) -> None:
        begin(made, now=timezone.now())
        assert client_with("sagas:read").post(address(), YES, format="json").status_code == 403
        assert client_with("orders:read").get("/sagas/approvals").status_code == 403
        assert APIClient().get(address()).status_code == 401

    def test_does_not_know_foreign_ids(self, operator: APIClient) -> None:
        unknown = f"/sagas/approvals/{uuid4()}"
        assert operator.get(unknown).status_code == 404
        assert operator.post(unknown, YES, format="json").status_code == 404

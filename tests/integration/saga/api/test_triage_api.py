"""Triage over HTTP: incidents as they are now, actions that are shown before they are done, and whom it lets in."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from apps.common.pagination import encode_cursor
from apps.identity.public import Caller
from apps.saga import bulk
from apps.saga.definition import PIVOT, RETRIABLE, Definition
from apps.saga.incidents import incident_id
from apps.saga.models import Audit, BulkAction, Run, RunStatus
from tests.integration.saga.api.test_api import client_with
from tests.integration.saga.test_engine import Refusal, Story, local
from tests.integration.saga.world import TOY, begin, registered, toy
from tests.saga_driver import finish

pytestmark = pytest.mark.django_db(transaction=True)
WHY = "route B is open since 22:12"
STUCK = incident_id(TOY, "e", "R999")
ACTIONS = "/sagas/actions"


@pytest.fixture
def reader() -> APIClient:
    return client_with("sagas:read")


@pytest.fixture
def operator() -> APIClient:
    return client_with("sagas:read", "sagas:operate")


@pytest.fixture
def colleague() -> APIClient:
    client = APIClient()
    scopes = frozenset({"sagas:read", "sagas:operate"})
    client.force_authenticate(user=Caller(account_id="acc_finance", name="Finance", scopes=scopes))
    return client


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


@pytest.fixture(name="made", autouse=True)
def a_journey(story: Story) -> Iterator[Definition]:
    made = toy(local(story, "a"), local(story, "d", PIVOT), local(story, "e", RETRIABLE), story=story)
    with registered(made):
        yield made


def stuck(story: Story, made: Definition, runs: int = 1) -> list[UUID]:
    found = []
    for number in range(runs):
        story.plan["do e"] = [Refusal("no such account")]
        found.append(finish(begin(made, key=f"toy {number}", data={"amount": "10.00"})).pk)
    return found


def act(client: APIClient, **body: Any) -> Any:
    return client.post(ACTIONS, {"action": "retry", "reason": WHY, **body}, format="json")


class TestIncidents:
    def test_tell_what_they_affect_now(self, reader: APIClient, story: Story, made: Definition) -> None:
        stuck(story, made, 2)
        page = reader.get("/sagas/incidents").json()
        (found,) = page["incidents"]
        assert (page["total"], page["next_cursor"], found["id"]) == (1, None, str(STUCK))
        assert (found["use_case"], found["step"], found["error_code"], found["status"]) == (TOY, "e", "R999", "OPEN")
        assert (found["runs"], found["stuck"], found["amount"], found["count"]) == (2, 2, "20.00", 2)
        one = reader.get(f"/sagas/incidents/{STUCK}").json()
        assert {name: one[name] for name in found} == found
        assert (sum(one["trend"]), len(one["trend"]), one["actions"]) == (2, 24, [])

    def test_are_found_and_paged(self, reader: APIClient, story: Story, made: Definition) -> None:
        stuck(story, made)
        story.plan["do a"] = [RuntimeError("x")]
        begin(made, inline_ms=10_000)
        assert reader.get("/sagas/incidents", {"step": "a"}).json()["incidents"][0]["error_code"] == "RuntimeError"
        assert reader.get("/sagas/incidents", {"status": "handled"}).json()["incidents"] == []
        first = reader.get("/sagas/incidents", {"limit": 1}).json()
        second = reader.get("/sagas/incidents", {"limit": 1, "cursor": first["next_cursor"]}).json()
        assert [page["incidents"][0]["step"] for page in (first, second)] == ["a", "e"]
        third = reader.get("/sagas/incidents", {"limit": 1, "cursor": second["next_cursor"]}).json()
        assert (third["incidents"], third["next_cursor"]) == ([], None)

    @pytest.mark.parametrize(
        "parameters",
        [
            {"status": "odd"},
            {"limit": 0},
            {"cursor": "x"},
            {"cursor": "WzEsMl0"},
            {"cursor": encode_cursor("0001-01-01T00:00:00+23:59", str(UUID(int=7)))},  # a moment that no column holds
            {"step": "\x00"},
            {"owner": "\x00"},
            {"silenced": "odd"},
        ],
    )
    def test_refuse_what_they_do_not_understand(self, reader: APIClient, parameters: Any) -> None:
        assert reader.get("/sagas/incidents", parameters).json()["code"] == "R001"

    def test_that_are_unknown_have_a_code(self, reader: APIClient) -> None:
        refused = reader.get(f"/sagas/incidents/{uuid4()}")
        assert (refused.status_code, refused.json()["code"]) == (404, "R549")


class TestAKey:
    """Idempotency-Key: one key, one action, one answer."""

    def test_gives_the_first_answer_again(self, operator: APIClient, story: Story, made: Definition) -> None:
        one, other = stuck(story, made, 2)
        body = {"action": "retry", "reason": WHY, "run_ids": [str(one)]}
        first, again = (operator.post(ACTIONS, body, format="json", headers={"Idempotency-Key": "k"}) for _ in range(2))
        assert (first.status_code, first.json()["status"], first.json()["done"]) == (200, "DONE", 1)
        assert (again.status_code, again.json(), again["Idempotent-Replayed"]) == (200, first.json(), "true")
        assert BulkAction.objects.count() == 1
        changed = {**body, "run_ids": [str(other)]}
        refused = operator.post(ACTIONS, changed, format="json", headers={"Idempotency-Key": "k"})
        assert (refused.status_code, refused.json()["code"]) == (422, "R013")

    def test_is_free_again_when_the_action_was_refused(self, operator: APIClient, story: Story, made: Definition) -> None:
        body = {"action": "retry", "reason": WHY, "run_ids": [str(uuid4())]}
        refused = operator.post(ACTIONS, body, format="json", headers={"Idempotency-Key": "k"})
        assert (refused.status_code, BulkAction.objects.count()) == (422, 0)
        (body["run_ids"],) = ([str(each)] for each in stuck(story, made))
        assert operator.post(ACTIONS, body, format="json", headers={"Idempotency-Key": "k"}).json()["done"] == 1

    def test_is_not_used_up_by_a_dry_run(self, operator: APIClient, story: Story, made: Definition) -> None:
        (one,) = stuck(story, made)
        body = {"action": "retry", "reason": WHY, "run_ids": [str(one)]}
        for dry in (True, False):
            answer = operator.post(ACTIONS, {**body, "dry_run": dry}, format="json", headers={"Idempotency-Key": "k"})
            assert answer.status_code == 200
        assert Run.objects.get(pk=one).status == RunStatus.RUNNING


class TestCare:
    def care(self, client: APIClient, incident: UUID = STUCK, **body: Any) -> Any:
        return client.post(f"/sagas/incidents/{incident}/care", body, format="json")

    def test_has_an_owner_and_is_found_by_it(
        self, operator: APIClient, colleague: APIClient, story: Story, made: Definition
    ) -> None:
        stuck(story, made)
        taken = self.care(operator, do="take", note="asks route B")
        assert (taken.status_code, taken.json()["owner_note"]) == (200, "asks route B")
        owner = taken.json()["owner"]
        refused = self.care(colleague, do="take")
        assert (refused.status_code, refused.json()["code"]) == (409, "R576")
        assert self.care(colleague, do="release").json()["code"] == "R577"
        for owned, count in ((owner, 1), ("", 0)):
            assert len(operator.get("/sagas/incidents", {"owner": owned}).json()["incidents"]) == count
        assert self.care(operator, do="release").json()["owner"] == ""

    def test_is_silenced_until_a_moment(self, operator: APIClient, story: Story, made: Definition) -> None:
        stuck(story, made)
        until = (timezone.now() + timedelta(hours=1)).isoformat()
        assert self.care(operator, do="silence", until=until, reason=WHY).json()["silenced_reason"] == WHY
        for silenced, count in (("true", 1), ("false", 0)):
            assert len(operator.get("/sagas/incidents", {"silenced": silenced}).json()["incidents"]) == count
        assert self.care(operator, do="unsilence").json()["silenced_until"] is None

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({"do": "odd"}, 422),
            ({"do": "silence", "reason": WHY}, 422),
            ({"do": "silence", "until": "2020-01-01T00:00:00Z", "reason": WHY}, 422),
            ({"do": "silence", "until": "2020-01-01T00:00:00Z"}, 422),
            ({"do": "take", "note": "x" * 201}, 422),
        ],
    )
    def test_of_a_mistake_changes_nothing(
        self, operator: APIClient, reader: APIClient, story: Story, made: Definition, body: Any, status: int
    ) -> None:
        stuck(story, made)
        assert self.care(operator, **body).status_code == status
        assert self.care(reader, **body).status_code == 403
        assert self.care(operator, uuid4(), do="take").json()["code"] == "R549"
        assert not Audit.objects.exists()


class TestActions:
    def test_are_shown_before_they_are_done(self, operator: APIClient, story: Story, made: Definition) -> None:
        (one,) = stuck(story, made)
        answer = act(operator, incident_id=str(STUCK), dry_run=True, reason="")
        assert answer.status_code == 200
        assert answer.json() == {
            "action": "retry",
            "told": f"R999 at e of {TOY}",
            "runs": 1,
            "amount": "10.00",
            "needs_approval": False,
            "sums": [{"code": "", "detail": "tries e again", "runs": 1, "amount": "10.00"}],
            "outcomes": [
                {
                    "run_id": str(one),
                    "business_key": "toy 0",
                    "amount": "10.00",
                    "code": "",
                    "detail": "tries e again",
                    "left": [],
                }
            ],
        }
        assert not BulkAction.objects.exists()
        assert Run.objects.get().status == RunStatus.STUCK

    def test_on_few_runs_are_done_with_the_answer(self, operator: APIClient, story: Story, made: Definition) -> None:
        (one,) = stuck(story, made)
        answer = act(operator, run_ids=[str(one)])
        assert (answer.status_code, answer.json()["status"], answer.json()["done"]) == (200, "DONE", 1)
        row = Audit.objects.get()
        assert (row.actor, row.action, row.reason, row.run_id) == ("account:acc_ops", "retry", WHY, one)
        page = operator.get(f"{ACTIONS}/{answer.json()['id']}").json()
        assert [(item["run_id"], item["status"], item["detail"]) for item in page["items"]] == [
            (str(one), "DONE", "tries e again")
        ]

    def test_on_many_runs_go_on_in_the_background(
        self, operator: APIClient, story: Story, made: Definition, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = stuck(story, made, 3)
        monkeypatch.setattr(bulk, "INLINE_RUNS", 2)
        answer = act(operator, filter={"use_case": TOY, "state": "stuck", "attributes": ["amount>=5"]})
        assert (answer.status_code, answer.json()["status"], answer.json()["pending"]) == (202, "RUNNING", 3)
        address = f"{ACTIONS}/{answer.json()['id']}"
        from django.utils import timezone

        bulk.work(UUID(answer.json()["id"]), now=timezone.now(), items_max=2)
        page = operator.get(address, {"limit": 2}).json()
        rest = operator.get(address, {"cursor": page["next_cursor"]}).json()
        assert (page["done"], page["pending"]) == (2, 1)
        assert [item["run_id"] for item in page["items"] + rest["items"]] == [str(each) for each in ids]
        assert [item["status"] for item in operator.get(address, {"status": "PENDING"}).json()["items"]] == ["PENDING"]
        cancelled = operator.post(f"{address}/cancel", {"reason": "the cause persists"}, format="json")
        assert (cancelled.status_code, cancelled.json()["status"], cancelled.json()["cancelled"]) == (200, "CANCELLED", 1)
        again = operator.post(f"{address}/cancel", {"reason": "the cause persists"}, format="json")
        assert (again.status_code, again.json()["code"]) == (409, "R551")

    def test_take_an_edited_input_or_an_output(self, operator: APIClient, story: Story, made: Definition) -> None:
        one, two = stuck(story, made, 2)
        assert act(operator, run_ids=[str(one)], input={"amount": "12.00"}).json()["done"] == 1
        assert Run.objects.get(pk=one).data == {"amount": "12.00"}
        assert act(operator, run_ids=[str(two)], action="skip", output={"ok": True}).json()["done"] == 1
        assert Run.objects.get(pk=two).status == RunStatus.COMPLETED

    def test_demand_the_state_that_was_seen(self, operator: APIClient, story: Story, made: Definition) -> None:
        (one,) = stuck(story, made)
        token = operator.get(f"/sagas/{one}").json()["token"]
        assert act(operator, run_ids=[str(one)], expected=token).json()["done"] == 1
        story.plan["do e"] = [Refusal("still none")]
        finish(one)
        refused = act(operator, run_ids=[str(one)], expected=token)
        assert (refused.status_code, refused.json()["code"]) == (409, "R542")
        assert Run.objects.get().status == RunStatus.STUCK

    def test_tell_each_runs_refusal(self, operator: APIClient, story: Story, made: Definition) -> None:
        over = finish(begin(made)).pk
        answer = act(operator, run_ids=[str(over)], action="compensate").json()
        assert (answer["status"], answer["done"], answer["refused"]) == ("DONE", 0, 1)
        (item,) = operator.get(f"{ACTIONS}/{answer['id']}").json()["items"]
        assert (item["status"], item["code"]) == ("REFUSED", "R541")

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            ({}, 422, "R001"),
            ({"run_ids": ["x"]}, 422, "R001"),
            ({"run_ids": [str(uuid4())]}, 422, "R001"),
            ({"run_ids": [str(uuid4())], "incident_id": str(STUCK)}, 422, "R001"),
            ({"incident_id": str(uuid4())}, 404, "R549"),
            ({"incident_id": str(STUCK), "action": "explode"}, 422, "R001"),
            ({"incident_id": str(STUCK), "reason": "ok"}, 422, "R001"),
            ({"incident_id": str(STUCK), "input": []}, 422, "R544"),
            ({"incident_id": str(STUCK), "output": {}}, 422, "R544"),
            ({"incident_id": str(STUCK), "runs_max": 0}, 422, "R001"),
            ({"filter": {"use_case": "test.typo"}}, 404, "R511"),
            ({"filter": {"state": "odd"}}, 422, "R001"),
            ({"filter": {"attributes": ["amount~5"]}}, 422, "R519"),
            ({"filter": {"use_case": TOY, "state": "waiting"}}, 409, "R547"),
        ],
    )
    def test_refuse_what_makes_no_sense(
        self, operator: APIClient, story: Story, made: Definition, body: Any, status: int, code: str
    ) -> None:
        stuck(story, made)
        refused = act(operator, **body)
        assert (refused.status_code, refused.json()["code"]) == (status, code)
        assert Run.objects.get().status == RunStatus.STUCK
        assert not BulkAction.objects.exists()

    def test_that_are_unknown_have_a_code(self, operator: APIClient) -> None:
        address = f"{ACTIONS}/{uuid4()}"
        for refused in (operator.get(address), operator.post(f"{address}/approve")):
            assert (refused.status_code, refused.json()["code"]) == (404, "R550")


class TestFourEyes:
    def test_a_colleague_approves(
        self, operator: APIClient, colleague: APIClient, story: Story, made: Definition, settings: Any
    ) -> None:
        settings.SAGA_FOUR_EYES = ["retry"]
        stuck(story, made)
        asked = act(operator, incident_id=str(STUCK))
        assert (asked.status_code, asked.json()["status"]) == (202, "ASKED")
        address = f"{ACTIONS}/{asked.json()['id']}/approve"
        refused = operator.post(address)
        assert (refused.status_code, refused.json()["code"]) == (409, "R552")
        assert Run.objects.get().status == RunStatus.STUCK
        approved = colleague.post(address)
        assert (approved.status_code, approved.json()["status"], approved.json()["done"]) == (200, "DONE", 1)
        assert approved.json()["approved_by"] == "account:acc_finance"


class TestScopes:
    def test_a_reader_changes_nothing(self, reader: APIClient, story: Story, made: Definition) -> None:
        stuck(story, made)
        address = f"{ACTIONS}/{uuid4()}"
        for answer in (
            act(reader, incident_id=str(STUCK)),
            act(reader, incident_id=str(STUCK), dry_run=True),
            reader.post(f"{address}/approve"),
            reader.post(f"{address}/cancel", {"reason": WHY}, format="json"),
        ):
            assert answer.status_code == 403
        assert not BulkAction.objects.exists()

    def test_who_may_not_read_sees_nothing(self) -> None:
        stranger = client_with("orders:read")
        for path in ("/sagas/incidents", f"/sagas/incidents/{STUCK}", f"{ACTIONS}/{uuid4()}"):
            assert stranger.get(path).status_code == 403
            assert APIClient().get(path).status_code == 401

"""Fork, reset and adopt over HTTP."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from apps.saga.definition import PIVOT, RETRIABLE
from apps.saga.models import Run
from tests.integration.saga.api.test_api import client_with
from tests.integration.saga.test_engine import Refusal, Story, local
from tests.integration.saga.world import REASON, TOY, begin, registered, toy
from tests.saga_driver import finish

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


@pytest.fixture(name="operator")
def an_operator() -> Any:
    return client_with("sagas:read", "sagas:operate")


NOBODY = UUID(int=7)  # an id that no run has


class TestFork:
    def test_tries_a_run_and_tells_of_it(self, story: Story, operator: Any) -> None:
        with registered(made := toy(local(story, "a", PIVOT), local(story, "b", RETRIABLE), story=story)):
            run_id = begin(made, inline_ms=10_000)
            finish(run_id)
            body = {"reason": REASON, "from_step": "b", "input": {"amount": 10}}
            made_ = operator.post(f"/sagas/{run_id}/fork", body, format="json")
            assert made_.status_code == 201, made_.content
            fork = made_.json()
            assert (fork["status"], fork["from_step"], fork["edited"], fork["made_by"]) == (
                "COMPLETED",
                "b",
                True,
                "account:acc_ops",
            )
            assert [(step["name"], step["how"]) for step in fork["steps"]] == [("a", "kept"), ("b", "run")]
            assert "output" not in fork["steps"][0], "it may be personal"
            assert operator.get(made_["Location"]).json() == fork
            assert operator.get(f"/sagas/{run_id}/forks").json() == {"forks": [fork]}
            assert operator.get("/sagas", {"use_case": TOY}).json()["total"] == 1

    def test_refuses_with_a_code(self, story: Story, operator: Any) -> None:
        with registered(made := toy(local(story, "a", PIVOT), story=story)):
            run_id = begin(made)
            answered = operator.post(f"/sagas/{run_id}/fork", {"reason": REASON}, format="json")
        assert (answered.status_code, answered.json()["code"]) == (409, "R556")
        assert operator.get(f"/sagas/forks/{uuid4()}").status_code == 404


class TestReset:
    def test_lets_a_stuck_run_go_on(self, story: Story, operator: Any) -> None:
        story.plan["do b"] = [Refusal("no")]
        with registered(made := toy(local(story, "a", PIVOT), local(story, "b", RETRIABLE), story=story)):
            run_id = begin(made, inline_ms=10_000)
            assert finish(run_id).status == "STUCK"
            body = {"reason": REASON, "to_step": "a"}
            unsafe = operator.post(f"/sagas/{run_id}/reset", body, format="json")
            assert (unsafe.status_code, unsafe.json()["code"]) == (409, "R561")
            told = operator.post(f"/sagas/{run_id}/reset", {**body, "to_step": "b"}, format="json")
            assert (told.status_code, told.json()["status"], told.json()["step"]) == (200, "RUNNING", "b")
            assert finish(run_id).status == "COMPLETED"


class TestAdopt:
    def test_tells_what_became_of_each(self, story: Story, operator: Any) -> None:
        legacy = {"use_case": TOY, "at_step": "b", "subject_id": str(uuid4()), "business_key": "legacy 1"}
        body = {"reason": REASON, "runs": [legacy, {**legacy, "input": {"amount": 10.5}}, legacy, "nonsense"]}
        with registered(toy(local(story, "a", PIVOT), local(story, "b", RETRIABLE), story=story)):
            dry = operator.post("/sagas/adopt", {**body, "dry_run": True}, format="json").json()
            assert (dry["dry_run"], dry["adopted"], dry["known"], dry["refused"]) == (True, 3, 0, 1)
            assert not Run.objects.exists()
            answered = operator.post("/sagas/adopt", body, format="json")
        told = answered.json()
        run = Run.objects.get()
        assert answered.status_code == 200
        assert [(each["number"], each["outcome"], each["run_id"], each["code"]) for each in told["outcomes"]] == [
            (1, "adopted", str(run.pk), ""),
            (2, "refused", None, "R563"),
            (3, "known", str(run.pk), ""),
            (4, "refused", None, "R559"),
        ]
        assert (told["adopted"], told["known"], told["refused"]) == (1, 1, 2)

    @pytest.mark.parametrize("runs", [[], [{}] * 1001, "all", None])
    def test_takes_one_to_a_thousand(self, operator: Any, runs: Any) -> None:
        answered = operator.post("/sagas/adopt", {"reason": REASON, "runs": runs}, format="json")
        assert answered.status_code == 422


class TestScopes:
    @pytest.mark.parametrize("address", ["/sagas/adopt", f"/sagas/{NOBODY}/fork", f"/sagas/{NOBODY}/reset"])
    def test_acting_needs_sagas_operate(self, address: str) -> None:
        assert client_with("sagas:read").post(address, {"reason": REASON}, format="json").status_code == 403

    @pytest.mark.parametrize("address", [f"/sagas/{NOBODY}/forks", f"/sagas/forks/{NOBODY}"])
    def test_looking_needs_sagas_read(self, address: str) -> None:
        assert client_with("orders:read").get(address).status_code == 403

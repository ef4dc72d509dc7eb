"""The state manager over HTTP: what it tells, whom it lets in, and that a pause by HTTP is one."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from apps.identity.public import Caller
from apps.saga import engine, pauses
from apps.saga.definition import PIVOT, Definition
from apps.saga.models import Audit, Pause, Run, RunStatus
from tests.integration.saga.test_engine import Refusal, Story, answer, ask, call, local
from tests.integration.saga.world import REASON, TOY, begin, registered, toy, with_breaker
from tests.saga_driver import finish, let_time_pass, work

pytestmark = pytest.mark.django_db(transaction=True)
USE_CASE = f"/sagas/use-cases/{TOY}"


def client_with(*scopes: str) -> APIClient:
    client = APIClient()
    client.force_authenticate(user=Caller(account_id="acc_ops", name="Operations", scopes=frozenset(scopes)))
    return client


@pytest.fixture
def reader() -> APIClient:
    return client_with("sagas:read")


@pytest.fixture
def operator() -> APIClient:
    return client_with("sagas:read", "sagas:operate")


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


@pytest.fixture(name="made", autouse=True)
def a_toy(story: Story) -> Iterator[Definition]:
    made = toy(local(story, "a"), with_breaker(ask(story, "b")), call(story, "c"), local(story, "d", PIVOT), story=story)
    with registered(made):
        yield made


def told(reader: APIClient, **parameters: Any) -> list[str]:
    answered = reader.get("/sagas", parameters)
    assert answered.status_code == 200, answered.content
    assert answered.json()["total"] == len(answered.json()["runs"])
    return [run["id"] for run in answered.json()["runs"]]


class TestRuns:
    def test_tells_where_a_run_is_and_whom_it_waits_for(self, reader: APIClient, made: Definition) -> None:
        run_id = begin(made, inline_ms=10_000, key="order 7", data={"customer": "ana", "amount": "10.5"})
        page = reader.get("/sagas", {"use_case": TOY}).json()
        (run,) = page.pop("runs")
        row = Run.objects.get(pk=run_id)
        assert row.due_at is not None
        assert page == {
            "next_cursor": None,
            "total": 1,
            "total_is_exact": True,
            "total_text": "1",
            "amount": "10.50",
        }
        assert run.pop("waits_for") == {
            "kind": "answer",
            "whom": "partner",
            "since": None,
            "until": row.due_at.isoformat().replace("+00:00", "Z"),
        }
        assert run.pop("sla")["standing"] == "within"
        assert (run.pop("started_at"), run.pop("global_id"), run.pop("subject_id")) != (None, None, None)
        assert run == {
            "id": str(run_id),
            "use_case": TOY,
            "version": 1,
            "business_key": "order 7",
            "idempotency_key": "",
            "status": "WAITING",
            "step": "b",
            "failed_step": "",
            "error_code": "",
            "error_detail": "",
            "attributes": {"customer": "ana", "amount": "10.50"},
            "amount": "10.50",
            "finished_at": None,
            "held_by": None,
            "deadline_at": None,
            "parent_id": None,
            "branch": "",
        }

    def test_finds_runs_by_every_parameter(self, reader: APIClient, made: Definition, story: Story) -> None:
        story.plan["do a"] = [RuntimeError("broken")]
        failing = str(begin(made, inline_ms=10_000, key="one", data={"customer": "ana", "amount": "5"}))
        waiting = str(begin(made, inline_ms=10_000, key="two", data={"customer": "bia", "amount": "50"}))
        Run.objects.filter(pk=failing).update(started_at=timezone.now() - timedelta(hours=2))
        row = Run.objects.get(pk=waiting)
        hour_ago = (timezone.now() - timedelta(hours=1)).isoformat()
        asked: list[tuple[dict[str, Any], str]] = [
            ({"state": "in_error"}, failing),
            ({"step": "a"}, failing),
            ({"error_code": "RuntimeError"}, failing),
            ({"attribute": "customer=ana"}, failing),
            ({"attribute": ["customer=ana", "amount>=5"]}, failing),
            ({"amount_max": "5.00"}, failing),
            ({"older_than_s": "3600"}, failing),
            ({"started_before": hour_ago}, failing),
            ({"started_before": timezone.now().isoformat(), "older_than_s": "3600"}, failing),
            ({"state": "late"}, failing),
            ({"state": "waiting"}, waiting),
            ({"waiting_for": "partner"}, waiting),
            ({"status": "WAITING"}, waiting),
            ({"amount_min": "5.01"}, waiting),
            ({"started_from": hour_ago}, waiting),
            ({"business_key": "two"}, waiting),
            ({"global_id": str(row.global_id)}, waiting),
            ({"subject_id": str(row.subject_id)}, waiting),
        ]
        for parameters, run_id in asked:
            assert told(reader, **parameters) == [run_id], parameters
        assert told(reader, status=["WAITING", "RUNNING"], use_case=TOY, version="1") == [waiting, failing]
        assert told(reader, version="2") == []
        assert told(reader, idempotency_key="none") == []

    def test_is_paged(self, reader: APIClient, made: Definition) -> None:
        runs = [str(begin(made)) for _ in range(3)]
        first = reader.get("/sagas", {"limit": 2}).json()
        second = reader.get("/sagas", {"limit": 2, "cursor": first["next_cursor"]}).json()
        assert [run["id"] for page in (first, second) for run in page["runs"]] == runs[::-1]
        assert (first["total"], second["total"], second["next_cursor"]) == (3, 3, None)

    @pytest.mark.parametrize(
        ("parameters", "status", "code", "field"),
        [
            ({"use_case": "test.nowhere"}, 404, "R511", None),
            ({"attribute": "customer"}, 422, "R519", "attribute"),
            ({"attribute": "nothing=5"}, 422, "R518", "attribute"),
            ({"attribute": ["customer=a"] * 11}, 422, "R001", "attribute"),
            ({"amount_min": "ten"}, 422, "R001", "amount_min"),
            ({"amount_max": "NaN"}, 422, "R001", "amount_max"),
            ({"state": "asleep"}, 422, "R520", "state"),
            ({"status": "ASLEEP"}, 422, "R520", "status"),
            ({"version": "one"}, 422, "R001", "version"),
            ({"version": "٣"}, 422, "R001", "version"),
            ({"older_than_s": "-5"}, 422, "R001", "older_than_s"),
            ({"older_than_s": "9" * 30}, 422, "R001", "older_than_s"),
            ({"started_from": "yesterday"}, 422, "R001", "started_from"),
            ({"started_from": "2026-02-30T00:00:00Z"}, 422, "R001", "started_from"),
            ({"started_before": "2026-02-03T00:00:00"}, 422, "R001", "started_before"),
            ({"global_id": "7"}, 422, "R001", "global_id"),
            ({"business_key": "a\x00"}, 422, "R001", "business_key"),
            ({"cursor": "mine"}, 422, "R001", "cursor"),
            ({"limit": "0"}, 422, "R001", "limit"),
        ],
    )
    def test_refuses_what_makes_no_sense(
        self, reader: APIClient, parameters: dict[str, Any], status: int, code: str, field: str | None
    ) -> None:
        answered = reader.get("/sagas", parameters)
        assert (answered.status_code, answered.json()["code"], answered.json().get("field")) == (status, code, field)
        assert answered["Content-Type"] == "application/problem+json"

    @pytest.mark.parametrize("value", ["999999999", "0"])
    def test_bears_any_age(self, reader: APIClient, value: str) -> None:
        assert reader.get("/sagas", {"older_than_s": value}).status_code == 200


class TestRun:
    def test_tells_its_steps_attempts_and_interventions(self, reader: APIClient, made: Definition, story: Story) -> None:
        story.plan["call c"] = [Refusal("no money")]
        run_id = begin(made, inline_ms=10_000, key="order 7")
        let_time_pass(run_id)
        engine.advance(run_id)
        answer(run_id, 1)
        run = finish(run_id)
        body = reader.get(f"/sagas/{run_id}").json()
        assert (body["status"], body["failed_step"], body["error_code"]) == ("COMPENSATED", "c", "R999")
        assert (body["waits_for"], body["step"], body["late_answers"]) == (None, "", 0)
        assert [(step["name"], step["status"]) for step in body["steps"]] == [
            ("a", "UNDONE"),
            ("b", "UNDONE"),
            ("c", "UNDONE"),
            ("d", "PENDING"),
        ]
        asked = [(each["undo"], each["number"], each["outcome"]) for each in body["steps"][1]["attempts"]]
        assert asked == [(False, 1, "ANSWERED"), (True, 1, "DONE")]
        assert body["messages"] == body["interventions"] == []
        assert run.finished_at is not None
        assert "output" not in body["steps"][0]
        assert "data" not in body

    def test_is_found_by_every_key(self, reader: APIClient, made: Definition) -> None:
        run = Run.objects.get(pk=begin(made, key="order 7"))
        Run.objects.filter(pk=run.pk).update(idempotency_key="req 8")
        for key in (run.pk, run.global_id, run.subject_id, "order 7", "req 8"):
            assert reader.get(f"/sagas/{key}").json()["id"] == str(run.pk), key
        unknown = reader.get(f"/sagas/{uuid4()}")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "R004")

    def test_says_that_a_pause_holds_it(self, reader: APIClient, operator: APIClient, made: Definition) -> None:
        operator.post(f"{USE_CASE}/pause", {"reason": REASON}, format="json")
        run_id = begin(made)
        body = reader.get(f"/sagas/{run_id}").json()
        assert body["held_by"] == str(Pause.objects.get().pk)
        assert body["waits_for"]["kind"] == "pause"
        assert body["waits_for"]["since"] is not None


class TestUseCases:
    def test_lists_them_with_owner_terms_and_runs(self, reader: APIClient, made: Definition, story: Story) -> None:
        newer = toy(local(story, "a"), story=story, version=2, migrates_from={1: {"a": "a"}}, owner="others")
        with registered(newer):
            begin(made), begin(made), begin(newer)
            page = reader.get("/sagas/use-cases").json()
            (mine,) = [each for each in page["use_cases"] if each["name"] == TOY]
            assert page["total"] == len(page["use_cases"]) >= 3
        assert mine == {
            "name": TOY,
            "owner": "others",
            "description": "A toy.",
            "version": 2,
            "paused": False,
            "sla": {"target_s": 10.0, "deadline_s": 60.0},
            "versions": [
                {"version": 1, "registered": True, "live": 2, "held": 0, "stuck": 0, "migrates_from": []},
                {"version": 2, "registered": True, "live": 1, "held": 0, "stuck": 0, "migrates_from": [1]},
            ],
            "pauses": [],
            "links": {
                "self": USE_CASE,
                "runs": f"/sagas?use_case={TOY}",
                "svg": f"{USE_CASE}/diagram.svg",
                "mermaid": f"{USE_CASE}/diagram.mmd",
            },
        }

    def test_tells_of_one_its_steps_and_attributes(self, reader: APIClient) -> None:
        body = reader.get(USE_CASE).json()
        assert [(step["name"], step["kind"], step["shape"], step["partner"]) for step in body["steps"]] == [
            ("a", "COMPENSABLE", "local", ""),
            ("b", "COMPENSABLE", "ask", "partner"),
            ("c", "COMPENSABLE", "call", ""),
            ("d", "PIVOT", "local", ""),
        ]
        assert body["steps"][1]["breaker"] == {"failures": 3, "within_s": 60.0, "probe_after_s": 30.0}
        assert body["attributes"] == [
            {"name": "customer", "type": "str", "description": "", "from_step": ""},
            {"name": "amount", "type": "Decimal", "description": "", "from_step": ""},
        ]

    def test_shows_runs_of_a_version_that_nobody_registers(self, reader: APIClient, made: Definition) -> None:
        Run.objects.filter(pk=begin(made)).update(version=7)
        assert reader.get(USE_CASE).json()["versions"][-1] == {
            "version": 7,
            "registered": False,
            "live": 1,
            "held": 0,
            "stuck": 0,
            "migrates_from": [],
        }

    def test_draws_it(self, reader: APIClient) -> None:
        drawn = reader.get(f"{USE_CASE}/diagram.svg")
        assert drawn["Content-Type"] == "image/svg+xml; charset=utf-8"
        assert ElementTree.fromstring(drawn.content).attrib["role"] == "img"
        assert "script" not in drawn["Content-Security-Policy"]
        written = reader.get(f"{USE_CASE}/diagram.mmd")
        assert written["Content-Type"] == "text/vnd.mermaid; charset=utf-8"
        assert written.content.decode().startswith("flowchart LR\n")

    @pytest.mark.parametrize("accept", ["image/svg+xml", "application/json", "*/*", "text/html, image/*;q=0.5"])
    def test_draws_it_for_whoever_asks(self, reader: APIClient, accept: str) -> None:
        assert reader.get(f"{USE_CASE}/diagram.svg", headers={"accept": accept}).status_code == 200

    def test_draws_an_older_version(self, reader: APIClient, story: Story) -> None:
        with registered(toy(local(story, "other"), story=story, version=2)):
            assert "other" in reader.get(f"{USE_CASE}/diagram.mmd").content.decode()
            assert "other" not in reader.get(f"{USE_CASE}/diagram.mmd", {"version": 1}).content.decode()
            refused = reader.get(f"{USE_CASE}/diagram.svg", {"version": 3}, headers={"accept": "image/svg+xml"})
        assert (refused.status_code, refused.json()["code"]) == (404, "R516")
        assert refused["Content-Type"] == "application/problem+json"

    @pytest.mark.parametrize("path", ["", "/diagram.svg", "/diagram.mmd"])
    def test_an_unknown_one_is_refused(self, reader: APIClient, path: str) -> None:
        refused = reader.get(f"/sagas/use-cases/test.nowhere{path}")
        assert (refused.status_code, refused.json()["code"]) == (404, "R511")


class TestPauses:
    def test_a_use_case_waits_and_goes_on(self, operator: APIClient, made: Definition) -> None:
        body = operator.post(f"{USE_CASE}/pause", {"reason": REASON}, format="json").json()
        run_id = begin(made, inline_ms=10_000)
        assert body["paused"]
        (pause,) = body["pauses"]
        assert (pause["mode"], pause["step"], pause["reason"], pause["by_breaker"]) == ("wait", "", REASON, False)
        assert pause["paused_by"] == "account:acc_ops"
        shown = operator.get(USE_CASE).json()
        assert (shown["pauses"][0]["held"], shown["versions"][0]["held"]) == (1, 1)
        body = operator.post(f"{USE_CASE}/resume", {"reason": "it is over", "pause_id": pause["id"]}, format="json").json()
        assert (body["paused"], body["pauses"]) == (False, [])
        assert [each["action"] for each in body["interventions"]] == ["resume", "pause"]
        assert work(run_id).status == RunStatus.WAITING

    def test_new_runs_are_refused_when_it_says_so(self, operator: APIClient, made: Definition) -> None:
        operator.post(f"{USE_CASE}/pause", {"reason": REASON, "mode": "refuse"}, format="json")
        with pytest.raises(pauses.UseCasePaused):
            begin(made)

    def test_a_step_waits_and_goes_on(self, operator: APIClient, made: Definition) -> None:
        body = operator.post(f"{USE_CASE}/steps/b/pause", {"reason": REASON, "holds_undo": False}, format="json").json()
        assert (body["pauses"][0]["step"], body["pauses"][0]["holds_undo"], body["paused"]) == ("b", False, False)
        run_id = begin(made)
        assert work(run_id).held_by is not None
        assert operator.post(f"{USE_CASE}/steps/b/resume", {"reason": "it is over"}, format="json").status_code == 200
        assert work(run_id).status == RunStatus.WAITING

    @pytest.mark.parametrize(
        ("path", "body", "status", "code"),
        [
            (f"{USE_CASE}/resume", {"reason": REASON}, 409, "R515"),
            (f"{USE_CASE}/steps/b/resume", {"reason": REASON}, 409, "R515"),
            (f"{USE_CASE}/steps/z/pause", {"reason": REASON}, 404, "R512"),
            ("/sagas/use-cases/test.nowhere/pause", {"reason": REASON}, 404, "R511"),
            (f"{USE_CASE}/pause", {"reason": "   x   "}, 422, "R001"),
            (f"{USE_CASE}/pause", {}, 422, "R001"),
            (f"{USE_CASE}/pause", [], 422, "R001"),
            (f"{USE_CASE}/pause", {"reason": REASON, "mode": "sleep"}, 422, "R001"),
            (f"{USE_CASE}/resume", {"reason": REASON, "pause_id": "7"}, 422, "R001"),
        ],
    )
    def test_a_refusal_changes_nothing(self, operator: APIClient, path: str, body: Any, status: int, code: str) -> None:
        answered = operator.post(path, body, format="json")
        assert (answered.status_code, answered.json()["code"]) == (status, code)
        assert not Pause.objects.exists()
        assert not Audit.objects.exists()

    def test_a_second_pause_and_a_page_out_of_date_are_refused(self, operator: APIClient) -> None:
        assert operator.post(f"{USE_CASE}/pause", {"reason": REASON}, format="json").status_code == 200
        assert operator.post(f"{USE_CASE}/pause", {"reason": REASON}, format="json").json()["code"] == "R514"
        stale = operator.post(f"{USE_CASE}/resume", {"reason": REASON, "pause_id": str(uuid4())}, format="json")
        assert stale.json()["code"] == "R515"
        assert Pause.objects.filter(lifted_at__isnull=True).count() == 1


class TestScopes:
    PATHS = [
        "/sagas",
        "/sagas/any",
        "/sagas/use-cases",
        USE_CASE,
        f"{USE_CASE}/diagram.svg",
        f"{USE_CASE}/diagram.mmd",
    ]
    DEEDS = [f"{USE_CASE}/pause", f"{USE_CASE}/resume", f"{USE_CASE}/steps/b/pause", f"{USE_CASE}/steps/b/resume"]

    @pytest.mark.parametrize("path", PATHS)
    def test_nobody_reads_without_the_scope(self, path: str) -> None:
        assert APIClient().get(path).status_code == 401
        refused = client_with("orders:read", "sagas:operate").get(path)
        assert (refused.status_code, refused.json()["code"]) == (403, "R702")

    @pytest.mark.parametrize("path", DEEDS)
    def test_nobody_intervenes_without_the_scope(self, path: str, reader: APIClient) -> None:
        assert APIClient().post(path, {"reason": REASON}, format="json").status_code == 401
        assert reader.post(path, {"reason": REASON}, format="json").status_code == 403
        assert not Pause.objects.exists()
        assert reader.get(path).status_code == 405

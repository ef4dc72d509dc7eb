"""`make run` as a newcomer has it: one process, the seed's own curl, Ctrl-C, and a second start."""

import base64
import json
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config import demo
from config.scenes import plan
from tests.process import Lastro, stop_postgres
from tests.shop import SEED_BODY

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("process")]

# Copied from the seed, byte for byte but for the port.
SEED_CURL = r'''curl -X POST --header "Content-Type: application/json" http://localhost:8080/orders -d "{\
    \"customerId\": \"e081ad0f-f83e-4f81-b2d7-23655ac04b8a\", \
    \"amount\": 10.5, \
    \"items\": [ \
        { \
            \"id\": \"3852cb18-9c19-4326-ac77-a1a0264bd98c\",
            \"name\": \"day-one\",
            \"amount\" : 200.00,
            \"quantity\" : 1
        } \
    ] \
}"'''


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("run")
    yield folder
    stop_postgres(folder)


@pytest.fixture(scope="module")
def running(data_dir: Path) -> Iterator[Lastro]:
    lastro = Lastro(data_dir).wait_ready()
    yield lastro
    lastro.stop()


class TestRun:
    def test_serves_the_seeds_curl_and_keeps_its_data(self, data_dir: Path) -> None:
        first = Lastro(data_dir).wait_ready()
        try:
            curl = SEED_CURL.replace("localhost:8080", f"localhost:{first.port}")
            placed: dict[str, Any] = json.loads(
                subprocess.run(["bash", "-c", curl], capture_output=True, check=True, timeout=90).stdout
            )
            first.until(lambda: first.status_of(placed["id"]) == "COMPLETED")
            state = json.loads(first.manage("saga_state", placed["id"], "--json"))
            assert {"run_id", "use_case", "version", "status", "steps", "business_key"} <= state.keys()
            assert (state["use_case"], state["status"], state["business_key"]) == (
                "orders.purchase.card",
                "COMPLETED",
                placed["id"],
            )
            wanted = {"name", "kind", "status", "attempts", "started_at", "finished_at"}
            assert all(wanted <= step.keys() for step in state["steps"])
            assert json.loads(first.manage("saga_state", state["run_id"], "--json")) == state
            scenario = json.loads(first.manage("ledger_scenario", "--transactions", "100", "--json"))
            assert (scenario["transactions"], scenario["unanswered"], scenario["differences"]) == (100, 0, [])
        finally:
            assert first.stop() == 0
        assert "Traceback" not in first.text, first.text
        assert not _postgres_runs(data_dir), "Ctrl-C stops the embedded server too"

        second = Lastro(data_dir).wait_ready()
        try:
            assert second.status_of(placed["id"]) == "COMPLETED"
            secret = re.compile(r"Its secret\s+(\S+)")
            assert _found(secret, first.text) == _found(secret, second.text), "the demo's data is loaded once"
            status, paid = second.request(
                "POST", "/orders", {**SEED_BODY, "payment": {"method": "balance"}}, Prefer="wait=10"
            )
            assert (status, paid["status"]) in {(201, "PAID"), (201, "COMPLETED")}
            second.until(lambda: second.status_of(paid["id"]) == "COMPLETED")
        finally:
            assert second.stop(signal.SIGTERM) == 0

    def test_says_so_when_its_port_is_taken(self, running: Lastro) -> None:
        second = Lastro(running.data_dir, port=running.port)
        assert second.wait() == 1
        assert f"Port {running.port} is in use" in second.text

    def test_prints_what_works_when_copied(self, running: Lastro) -> None:
        curls = [line.strip() for line in running.text.splitlines() if line.strip().startswith("curl ")]
        assert len(curls) == 4
        ends = {}
        for curl in curls:
            done = subprocess.run([*shlex.split(curl), "-s"], capture_output=True, check=True, timeout=90)
            order_id = json.loads(done.stdout)["id"]
            ends[curl] = running.until(
                lambda order_id=order_id: (s := running.status_of(order_id)) in {"COMPLETED", "PAYMENT_NOT_COMPLETED"} and s
            )
        assert list(ends.values()) == ["COMPLETED", "COMPLETED", "PAYMENT_NOT_COMPLETED", "PAYMENT_NOT_COMPLETED"]


class TestDemo:
    def test_makes_a_living_system_once(self, running: Lastro) -> None:
        told = running.manage("demo", "--orders", str(plan.ORDERS_MIN))
        login = f"{demo.ACCOUNT_ID}:{_found(re.compile(r'Its secret +(.+)'), running.text)}"
        headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}

        def ask(path: str) -> dict[str, Any]:
            status, body = running.request("GET", path, **headers)
            assert status == 200, body
            return body

        statuses = set(re.findall(r"\d+ ([A-Z_]+)", told))
        wanted = {"COMPLETED", "STUCK", "PAYMENT_NOT_COMPLETED", "REJECTED", "RETURNED", "HANDLED", "PAID"}
        assert wanted <= statuses, told
        assert f"http://localhost:{running.port}/admin/triage/" in told
        assert ask("/sagas/approvals")["approvals"], "a return waits for a person"
        incidents = {row["error_code"] for row in ask("/sagas/incidents")["incidents"]}
        assert incidents >= {"R407", "R215", "AuthorityUnavailable"}
        assert {row["state"] for row in ask("/payments")["payments"]} >= {"CAPTURED", "REJECTED", "VOIDED"}
        endpoints = ask("/webhooks/endpoints")["endpoints"]
        assert {row["enabled"] for row in endpoints} == {False, True}
        assert "0 differences in the ledger" in told

        before = [row["id"] for row in ask("/orders?limit=500")["orders"]]
        assert "nothing was added" in running.manage("demo")
        assert [row["id"] for row in ask("/orders?limit=500")["orders"]] == before


def _found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    assert match, text
    return match.group(1)


def _postgres_runs(data_dir: Path) -> bool:
    pid_file = data_dir / "postgres" / "postmaster.pid"
    return pid_file.exists()

"""Questions to a replica: a real one that streams, stops, is behind, and cancels; and none at all."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import OperationalError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from apps.common.clock import uuid7
from apps.common.errors import InvalidRequest, NotFound
from apps.ledger import metrics_replica, reading, replica
from apps.ledger import public as ledger
from apps.ledger.api import views
from apps.ledger.system_checks import check_replica_is_another, check_replica_is_ours
from tests.integration.ledger.api.test_views import body, client_with, send
from tests.integration.ledger.conftest import ANA, NOW, TODAY, fund, open_bank
from tests.standby import Standby, as_replica, following

BALANCE = f"/ledger/accounts/0001/{ANA.account}/balance"


@pytest.fixture(autouse=True)
def rested(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test before knew of its replica is forgotten."""
    monkeypatch.setattr(replica, "link", replica._Link())


def source(min_lsn: str | None) -> str:
    return replica.ask(lambda: ledger.balance(ANA).posted, min_lsn=min_lsn).source


def until(question: Callable[[], Any]) -> Any:
    """Ask until the answer is true; the limit is for a broken build."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if found := question():
            return found
        threading.Event().wait(0.01)
    raise AssertionError("it never came true")


@pytest.mark.usefixtures("bank")
class TestWithoutReplica:
    def test_the_primary_answers_and_writes_cost_nothing_more(self) -> None:
        assert source("0/0") == source(None) == "primary"
        with CaptureQueriesContext(connection) as captured:
            assert ledger.written_lsn() is None
        assert len(captured) == 0

    def test_a_position_that_is_none_is_malformed(self) -> None:
        for text in ("", "0", "x/y", "0/0 ", "1/2/3", "0/123456789", "'"):
            with pytest.raises(InvalidRequest):
                ledger.check_lsn(text)
        assert ledger.check_lsn("16/b374D848") == "16/b374D848"

    def test_over_http_it_is_told_who_answered(self) -> None:
        client = client_with("ledger:read", "ledger:post")
        answer = client.get(BALANCE, {"min_lsn": "0/0"})
        assert (answer.status_code, answer["Ledger-Source"], answer.has_header("Ledger-Lsn")) == (200, "primary", False)
        assert client.get(BALANCE, {"min_lsn": "x"}).json()["field"] == "min_lsn"
        open_bank(timezone.now())
        assert not send(client, body()).has_header("Ledger-Lsn")


@pytest.mark.usefixtures("bank")
class TestReplicaThatIsNone:
    def test_that_is_down_is_told_once_and_left_alone_for_a_while(self, caplog: pytest.LogCaptureFixture) -> None:
        with as_replica({**connections["default"].settings_dict, "HOST": "/nonexistent"}):
            assert [source("0/0") for _ in range(3)] == ["primary"] * 3
            assert len(caplog.records) == 1
            replica.link.resting_until = 0.0
            assert source("0/0") == "primary"
            assert len(caplog.records) == 1  # it was down before
            assert [reading.value for reading in metrics_replica.readings()] == [0]
            (found,) = check_replica_is_ours(databases=["replica"])
            assert found.id == "ledger.E002"

    def test_that_was_promoted_is_none_any_more(self, caplog: pytest.LogCaptureFixture) -> None:
        with as_replica({**connections["default"].settings_dict}):  # a server that replays nothing
            assert source("0/0") == "primary"
            assert "no replica" in caplog.text
            assert [found.id for found in check_replica_is_another()] == ["ledger.E001"]
            assert [found.id for found in check_replica_is_ours(databases=["replica"])] == ["ledger.E003"]

    def test_that_cancels_a_query_is_asked_again_next_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import psycopg

        tried = []

        def question() -> str:
            tried.append(reading.alias())
            if len(tried) == 1:
                cause = psycopg.errors.SerializationFailure("canceling statement due to conflict with recovery")
                raise OperationalError("conflict") from cause
            return "found"

        with as_replica({**connections["default"].settings_dict}):
            monkeypatch.setattr(replica, "_reached", lambda _lsn: "0/1")
            found = replica.ask(question, min_lsn="0/0")
            assert (found.value, found.source, ledger.check_lsn(found.lsn)) == ("found", "primary", found.lsn)
            assert tried == ["replica", "default"]
            assert replica.ask(question, min_lsn="0/0").source == "replica"

    def test_refusals_are_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse() -> None:
            raise NotFound

        with as_replica({**connections["default"].settings_dict}):
            monkeypatch.setattr(replica, "_reached", lambda _lsn: "0/1")
            with pytest.raises(NotFound):
                replica.ask(refuse, min_lsn="0/0")
        assert not replica.link.is_down


@pytest.mark.usefixtures("committed_bank")
class TestQuestions:
    """A replica that is behind does not have a month that came back, and may have one that went: it says so itself."""

    def ask_nobody_else(self, question: Callable[[], object]) -> None:
        with CaptureQueriesContext(connections["default"]) as captured, suppress(NotFound):
            replica.ask(question, min_lsn="0/0")
        assert [query["sql"] for query in captured] == []

    def test_are_put_to_one_server_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        posting = fund(ANA, 1)
        period = {"date_from": TODAY - timedelta(days=30), "date_to": TODAY}
        with as_replica({**connections["default"].settings_dict}):
            monkeypatch.setattr(replica, "_reached", lambda _lsn: "0/1")
            self.ask_nobody_else(lambda: ledger.statement(ANA, **period))
            self.ask_nobody_else(lambda: ledger.export_statement(ANA, format="csv", now=NOW, **period))
            self.ask_nobody_else(lambda: ledger.totals_by_event(branch="0001", **period))
            self.ask_nobody_else(lambda: ledger.balance_as_of(ANA, NOW, now=NOW))
            self.ask_nobody_else(lambda: ledger.transactions_by_tracekey(posting.tracekey))
            self.ask_nobody_else(lambda: ledger.transactions_by_tracekey(uuid7()))
            self.ask_nobody_else(lambda: views._lines(uuid7()))


@pytest.fixture
def standby(transactional_db: None) -> Iterator[Standby]:
    if not settings.EMBEDDED:
        pytest.skip("needs the tools of the embedded server")
    open_bank()
    with following() as running, as_replica(running.database()):
        until(lambda: source("0/0") == "replica")
        yield running


def pause(standby: Standby) -> None:
    standby.ask("SELECT pg_wal_replay_pause()")
    # It takes effect with the next record, so there has to be one.
    until(lambda: fund(ANA, 1) and standby.ask("SELECT pg_get_wal_replay_pause_state()") == "paused")


@pytest.mark.process
class TestRealReplica:
    def test_is_read_as_fresh_as_the_caller_needs_it(self, standby: Standby, caplog: pytest.LogCaptureFixture) -> None:
        api = client_with("ledger:read", "ledger:post")
        self.reads_its_own_writes(api, standby)
        assert not caplog.records
        self.exports_go_on_at_the_primary(standby)
        caplog.clear()  # it was away for a moment
        self.old_data_is_left_alone_unless_nothing_is_newer(standby)
        self.is_checked_and_measured()
        self.cancelled_questions_are_answered_all_the_same(standby)
        assert not caplog.records
        until(lambda: source("0/0") == "replica")
        standby.stop()
        assert source("0/0") == "primary"
        assert ["replica does not answer" in record.getMessage() for record in caplog.records] == [True]

    def reads_its_own_writes(self, api: APIClient, standby: Standby) -> None:
        written = send(api, body(amount=10))
        token = written["Ledger-Lsn"]
        until(lambda: api.get(BALANCE, {"min_lsn": token})["Ledger-Source"] == "replica")
        answer = api.get(BALANCE, {"min_lsn": token})
        assert (answer.json()["posted"], answer["Ledger-Source"]) == ("10.00", "replica")
        assert ledger.check_lsn(answer["Ledger-Lsn"])
        assert api.get(BALANCE)["Ledger-Source"] == "primary"
        pause(standby)
        known = ledger.balance(ANA).posted
        token = send(api, body(amount=100))["Ledger-Lsn"]
        fresh = api.get(BALANCE, {"min_lsn": token})
        stale = api.get(BALANCE, {"min_lsn": "0/0"})
        assert (fresh["Ledger-Source"], fresh.json()["posted"]) == ("primary", str(known + 100))
        assert stale["Ledger-Source"] == "replica"
        # What the primary answered is not followed by something older.
        assert api.get(BALANCE, {"min_lsn": fresh["Ledger-Lsn"]})["Ledger-Source"] == "primary"
        assert Decimal(stale.json()["posted"]) < Decimal(fresh.json()["posted"])
        standby.ask("SELECT pg_wal_replay_resume()")
        until(lambda: source(token) == "replica")
        statement = api.get(BALANCE.replace("balance", "statement"), {"min_lsn": token})
        assert (statement["Ledger-Source"], statement.json()["closing"]) == ("replica", str(known + 100))

    def cancelled_questions_are_answered_all_the_same(self, standby: Standby) -> None:
        """What the primary drops is dropped on the replica, whoever reads it there."""
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE scratch AS SELECT 1 AS n")
        token = ledger.written_lsn()
        until(lambda: source(token) == "replica")

        def question() -> str:
            if reading.alias() == replica.REPLICA:
                reading.fetch("SELECT pg_sleep(60) FROM scratch", [])
            return "found"

        def drop() -> None:
            asleep = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60)%'"
            until(lambda: standby.ask(asleep))
            standby.lose_patience()
            with connections["default"].cursor() as cursor:
                cursor.execute("DROP TABLE scratch")
            connections["default"].close()

        with ThreadPoolExecutor(1) as pool:
            dropped = pool.submit(drop)
            found = replica.ask(question, min_lsn=token)
            assert (found.value, found.source) == ("found", "primary")
            dropped.result()
        assert not replica.link.is_down

    def exports_go_on_at_the_primary(self, standby: Standby) -> None:
        def export() -> ledger.Export:
            first = TODAY - timedelta(days=30)
            return ledger.export_statement(ANA, date_from=first, date_to=TODAY, format="csv", now=NOW)

        token = ledger.written_lsn()
        found = until(lambda: (answer := replica.ask(export, min_lsn=token)).source == "replica" and answer)
        connections["replica"].settings_dict["HOST"] = "/nonexistent"
        connections["replica"].close()
        at_primary = list(export().parts)
        assert list(found.value.parts) == at_primary
        connections["replica"].settings_dict["HOST"] = str(standby.folder)
        replica.link = replica._Link()

    def old_data_is_left_alone_unless_nothing_is_newer(self, standby: Standby) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(settings, "DATABASE_REPLICA_LAG_MAX_S", 0)
            with pytest.MonkeyPatch.context() as idle:  # others may be writing to this server: nothing is newer than 0/1
                idle.setattr(replica, "written_lsn", lambda: "0/1")
                assert source("0/0") == "replica"
            pause(standby)
            fund(ANA, 1)
            assert source("0/0") == "primary"
            standby.ask("SELECT pg_wal_replay_resume()")

    def is_checked_and_measured(self) -> None:
        assert check_replica_is_another() == check_replica_is_ours(databases=["replica"]) == []
        up, behind = metrics_replica.readings()
        assert (up.value, behind.value >= 0) == (1, True)
        with transaction.atomic():
            call_command("check", "--database", "replica", verbosity=0)

"""What the README shows works as it stands there."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lastro_pipes import control
from lastro_pipes.desk import Desk
from lastro_pipes.step import prepare
from lastro_pipes.stores.base import Store
from lastro_pipes.stores.postgres import PostgresStore
from lastro_pipes.stores.sqlite import SqliteStore
from lastro_pipes.transports.base import Outgoing
from tests.memory import incoming
from tests.test_package import readme_example
from tests.world import settings

STEPS = ["shop.stock.reserve", "shop.cards.charge"]


def step_of(number: int) -> Any:
    names: dict[str, Any] = {}
    exec(compile(readme_example(number), "README.md", "exec"), names)
    return names["Reserve"]


def desk_of(number: int, store: Store) -> Desk:
    return Desk(prepare(step_of(number)), settings(STEPS[0]), store, clock=lambda: datetime.now(UTC))


def take(desk: Desk, record: Outgoing) -> tuple[str, dict[str, list[Any]]]:
    """What came of it, and the bodies of what it sent, by topic."""
    taken = desk.take(incoming(record, record.topic))
    sent: dict[str, list[Any]] = {}
    for one in taken.outgoing:
        sent.setdefault(one.topic, []).append(json.loads(one.value)["body"])
    return taken.outcome, sent


class TestTenLines:
    def test_are_ten(self) -> None:
        lines = [line for line in readme_example(0).splitlines() if line.strip() and not line.startswith("#")]
        assert len(lines) <= 10

    def test_do_refuse_and_undo(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        desk = desk_of(0, SqliteStore(str(tmp_path / "store.sqlite3")))
        outcome, sent = take(desk, control.start(STEPS, {"sku": "lamp"}, global_id="g1"))
        assert (outcome, sent[f"{STEPS[1]}.in"]) == ("DONE", [{"sku": "lamp", "reserved": "g1:0"}])
        assert take(desk, control.start(STEPS, {"sku": "sold-out"}, global_id="g2"))[0] == "REFUSED"
        undo = control.compensate(STEPS, global_id="g1", position=0, code="C", reason="r", seek_end=False)
        assert take(desk, undo)[0] == "UNDONE"
        assert capsys.readouterr().out == "back in stock: g1:0\n"


class TestOnce:
    def test_an_article_is_taken_once_and_put_back_once(self, postgres: str) -> None:
        import psycopg

        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS stock (sku text PRIMARY KEY, free integer)")
            connection.execute("DELETE FROM stock")
            connection.execute("INSERT INTO stock VALUES ('lamp', 1)")
            store = PostgresStore(postgres)
            desk = desk_of(1, store)
            first = control.start(STEPS, {"sku": "lamp"}, global_id="readme-1")
            assert [take(desk, first)[0], take(desk, first)[0]] == ["DONE", "DONE"], "a copy says the same again"
            assert take(desk, control.start(STEPS, {"sku": "lamp"}, global_id="readme-2"))[0] == "REFUSED"
            undo = control.compensate(STEPS, global_id="readme-1", position=0, code="C", reason="r", seek_end=False)
            assert take(desk, undo)[0] == "UNDONE"
            store.close()
            assert connection.execute("SELECT free FROM stock").fetchone() == (1,)

"""Both stores keep the same promises."""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from lastro_pipes.errors import Misconfigured, StoreDown
from lastro_pipes.stores.base import DEAD, DONE, NEW, REFUSED, UNDONE, Key, Row, Store
from lastro_pipes.stores.postgres import PostgresStore
from lastro_pipes.stores.sqlite import SqliteStore
from lastro_pipes.transports.base import Outgoing

SAID = (Outgoing("a.b.in", "k", '{"meta":{},"body":"é"}', (("id", "1"), ("schema", "s"))),)
Maker = Callable[[], Store]


@pytest.fixture(params=["sqlite", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Maker]:
    """Stores of one service, as its processes have them."""
    made: list[Store] = []
    if request.param == "sqlite":
        kind, where = SqliteStore, str(tmp_path / "deep" / "store.sqlite3")
    else:
        kind, where = PostgresStore, request.getfixturevalue("postgres")  # type: ignore[assignment]

    def one() -> Store:
        made.append(kind(where))
        return made[-1]

    yield one
    for store in made:
        store.close()


@pytest.fixture
def key(request: pytest.FixtureRequest) -> Key:
    return Key("shop.test.first", f"{request.node.name}-{os.getpid()}", "", 0, "do")


def finish(store: Store, key: Key, state: str = DONE, **more: Any) -> None:
    with store.transaction(key) as work:
        work.finish(state, outgoing=SAID, **more)


class TestAttempt:
    def test_counts_also_when_nothing_comes_of_it(self, make: Maker, key: Key) -> None:
        assert [make().attempt(key, "m1").attempts for _ in range(3)] == [1, 2, 3]

    def test_begins_anew_with_a_new_message(self, make: Maker, key: Key) -> None:
        store = make()
        store.attempt(key, "m1")
        store.attempt(key, "m1")
        assert store.attempt(key, "m2").attempts == 1

    @pytest.mark.parametrize("state", [DONE, REFUSED, UNDONE, DEAD])
    def test_tells_how_it_ended_and_counts_no_more(self, make: Maker, key: Key, state: str) -> None:
        store = make()
        store.attempt(key, "m1")
        finish(store, key, state, input={"a": 1}, output=[2])
        row = make().attempt(key, "m1")
        assert row == Row(state, "m1", 1, SAID, False, {"a": 1}, [2])

    def test_opens_a_dead_way_again_for_a_new_message_only(self, make: Maker, key: Key) -> None:
        store = make()
        store.attempt(key, "m1")
        finish(store, key, DEAD)
        assert store.attempt(key, "m1").state == DEAD
        assert store.attempt(key, "m2") == Row(NEW, "m2", 1, (), False, None, None)

    @pytest.mark.parametrize("state", [DONE, REFUSED, UNDONE])
    def test_opens_nothing_else(self, make: Maker, key: Key, state: str) -> None:
        store = make()
        store.attempt(key, "m1")
        finish(store, key, state)
        row = store.attempt(key, "m2")
        assert (row.state, row.message_id, row.outgoing) == (state, "m1", SAID)

    def test_keeps_sagas_steps_services_and_ways_apart(self, make: Maker, key: Key) -> None:
        store = make()
        finish(store, key)
        others = [
            key._replace(service="x.y"),
            key._replace(global_id=key.global_id + "x"),
            key._replace(position=1),
            key._replace(branch="b"),
            key._replace(way="undo"),
        ]
        assert [store.attempt(other, "m").state for other in others] == [NEW] * 5


class TestTransaction:
    def test_is_rolled_back_by_an_exception_with_what_the_step_wrote(self, make: Maker, key: Key) -> None:
        store = make()
        store.attempt(key, "m1")
        with pytest.raises(ValueError, match="no"), store.transaction(key) as work:
            work.finish(DONE, outgoing=SAID)
            work.connection.execute("CREATE TABLE gone_again (a text)")
            raise ValueError("no")
        assert store.attempt(key, "m1").state == NEW
        with store.transaction(key) as work:
            work.connection.execute("CREATE TABLE gone_again (a text)")
            work.connection.execute("DROP TABLE gone_again")

    def test_of_an_undo_marks_the_do_also_when_it_never_came(self, make: Maker, key: Key) -> None:
        store = make()
        undo = key._replace(way="undo")
        store.attempt(undo, "u1")
        with store.transaction(undo) as work:
            assert (work.do.state, work.do.attempts) == (NEW, 0)
            work.finish(UNDONE, outgoing=())
        assert store.attempt(key, "m1").state == UNDONE

    def test_of_an_undo_sees_what_was_done(self, make: Maker, key: Key) -> None:
        store = make()
        finish(store, key, input="in", output="out")
        with store.transaction(key._replace(way="undo")) as work:
            assert (work.do.state, work.do.input, work.do.output) == (DONE, "in", "out")

    @pytest.mark.parametrize("was_begun", [True, False])
    def test_a_do_and_its_undo_come_one_after_the_other(self, make: Maker, key: Key, was_begun: bool) -> None:
        if was_begun:
            make().attempt(key, "m1")
        order: list[str] = []
        inside, may_end = threading.Event(), threading.Event()

        def undo() -> None:
            inside.wait(60)
            store = make()
            with store.transaction(key._replace(way="undo")) as work:
                order.append(work.do.state)
            store.close()

        thread = threading.Thread(target=undo)
        thread.start()
        with make().transaction(key) as work:
            inside.set()
            may_end.wait(0.3)  # Time to overtake, for one that could.
            order.append("end of do")
            work.finish(DONE, outgoing=())
        thread.join(60)
        assert order == ["end of do", DONE]

    def test_finds_what_another_member_did_meanwhile(self, make: Maker, key: Key) -> None:
        one, other = make(), make()
        one.attempt(key, "m1")
        other.attempt(key, "m1")
        finish(one, key)
        with other.transaction(key) as work:
            assert work.mine.state == DONE

    def test_published_is_remembered(self, make: Maker, key: Key) -> None:
        store = make()
        store.attempt(key, "m1")
        finish(store, key)
        assert not store.attempt(key, "m1").published
        store.published([key])
        assert store.attempt(key, "m1").published


class TestPurge:
    def test_forgets_what_is_old_and_finished_in_batches(self, make: Maker, key: Key) -> None:
        store = make()
        for position in range(5):
            finish(store, key._replace(position=position))
        store.attempt(key._replace(position=9), "m")
        assert store.purge(older_than_s=3600, rows_max=100) == 0
        forgotten = [store.purge(older_than_s=-1, rows_max=3) for _ in range(100)]
        assert max(forgotten) == 3
        assert store.attempt(key, "m1").state == NEW
        assert store.attempt(key._replace(position=9), "m").attempts == 2, "what is not finished stays"


class TestSqlite:
    def test_a_step_that_commits_by_itself_is_an_error(self, tmp_path: Path, key: Key) -> None:
        store = SqliteStore(str(tmp_path / "s.sqlite3"))
        with pytest.raises(RuntimeError, match="transaction"), store.transaction(key) as work:
            work.connection.execute("COMMIT")
        store.close()

    def test_a_place_where_nothing_can_be_written_says_so(self, tmp_path: Path, key: Key) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(Misconfigured, match="PIPES_STORE"):
            SqliteStore(str(tmp_path / "file" / "s.sqlite3")).attempt(key, "m")

    def test_a_lock_that_does_not_end_is_nobody_s_fault(
        self, tmp_path: Path, key: Key, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lastro_pipes.stores.sqlite.BUSY_S", 0.05)
        store = SqliteStore(str(tmp_path / "s.sqlite3"))
        store.attempt(key, "m")
        other = sqlite3.connect(tmp_path / "s.sqlite3", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreDown):
            store.attempt(key, "m")
        other.close()
        store.close()


class TestPostgres:
    def test_shares_the_transaction_of_a_connection_that_it_is_given(self, postgres: str, key: Key) -> None:
        mine = psycopg.connect(postgres)
        store = PostgresStore(connect=lambda: mine)
        mine.autocommit = True
        mine.execute("CREATE TABLE IF NOT EXISTS booking (what text)")
        with pytest.raises(ValueError, match="no"), store.transaction(key) as work:
            assert work.connection is mine
            mine.execute("INSERT INTO booking VALUES ('lost')")
            raise ValueError("no")
        with store.transaction(key) as work:
            mine.execute("INSERT INTO booking VALUES ('kept')")
            work.finish(DONE, outgoing=())
        assert mine.execute("SELECT what FROM booking").fetchall() == [("kept",)]
        mine.execute("DROP TABLE booking")
        store.close()

    def test_a_step_may_not_commit_by_itself(self, postgres: str, key: Key) -> None:
        store = PostgresStore(postgres)
        with pytest.raises(psycopg.ProgrammingError), store.transaction(key) as work:
            work.connection.commit()
        store.close()

    def test_connects_again_after_its_connection_was_cut(self, postgres: str, key: Key) -> None:
        store = PostgresStore(postgres)
        store.attempt(key, "m")
        pid = store._connection().info.backend_pid
        with psycopg.connect(postgres, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [pid])
        with pytest.raises(StoreDown):
            store.attempt(key, "m")
        assert store.attempt(key, "m").attempts == 2
        store.close()

    def test_a_process_that_starts_waits_for_no_handle(self, postgres: str, key: Key) -> None:
        slow, starting = PostgresStore(postgres), PostgresStore(f"{postgres}&options=-c%20lock_timeout%3D2s")
        slow.attempt(key, "m")
        with slow.transaction(key):
            starting.attempt(key._replace(position=1), "m")
        slow.close()
        starting.close()

    def test_nobody_answers(self, key: Key) -> None:
        store = PostgresStore("postgresql://user:secret@127.0.0.1:1/none")
        with pytest.raises(StoreDown) as failure:
            store.attempt(key, "m")
        assert "secret" not in str(failure.value)
        assert not store.is_usable()
        assert "secret" not in store.describe()

    def test_many_processes_may_make_the_table_at_once(self, postgres: str) -> None:
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute("DROP TABLE IF EXISTS pipes_step")
        failures: list[BaseException] = []

        def begin() -> None:
            store = PostgresStore(postgres)
            try:
                store.attempt(Key("a.b", "g", "", 0, "do"), "m")
            except BaseException as error:
                failures.append(error)
            store.close()

        threads = [threading.Thread(target=begin) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []

"""Everything that orders do, over a pooler that gives each transaction another connection."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from uuid import UUID

import pytest
from django.db import connection, connections, transaction
from django.test import Client
from django.utils import timezone

from apps.messaging.retention import forget
from apps.saga import public as saga
from apps.saga import sweeper, triage
from apps.saga.incidents import fold
from config import connect, demo
from tests import shop
from tests.flows.test_by_hand import WHY, broken, do
from tests.pooler import Pooler, pooled
from tests.saga_driver import finish, pump_messages

BACKENDS, BUYERS, EACH = 3, 4, 2


@contextmanager
def over_a_pooler() -> Iterator[Pooler]:
    """This process's connections go over it, with the settings that docs/pooling.md asks for."""
    values = connections["default"].settings_dict
    before = dict(values)
    connections.close_all()
    with pooled(before, backends=BACKENDS) as pooler:
        options = connect.how(pool_max=0, pool_timeout_s=1, prepare=False)["OPTIONS"]
        values.update(HOST="127.0.0.1", PORT=pooler.port, OPTIONS=options, CONN_MAX_AGE=None)
        try:
            yield pooler
        finally:
            connections.close_all()
            values.clear()
            values.update(before)


class TestTransactionMode:
    def test_orders_and_returns_of_many_at_once_end_and_the_books_agree(self, opened: demo.Demo) -> None:
        placed: list[str] = []

        def buy(number: int) -> None:
            try:
                for turn in range(EACH):
                    body = shop.body() if (number + turn) % 2 else shop.by_balance()
                    placed.append(shop.post_order(Client(), body).json()["id"])
            finally:
                connections.close_all()

        with over_a_pooler() as pooler:
            threads = [Thread(target=buy, args=(number,)) for number in range(BUYERS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(150)
            assert len(placed) == BUYERS * EACH
            for order_id in placed:
                assert finish(shop.run_of(order_id).pk).status == "COMPLETED"
            shop.assert_books_agree()
            returned = UUID(shop.post_return(Client(), placed[0]).json()["runId"])
            assert finish(returned).status == "COMPLETED"
        assert pooler.said == []
        assert pooler.switches > len(placed) * BACKENDS

    def test_people_and_the_care_of_tables_need_no_session(self, opened: demo.Demo) -> None:
        now = timezone.now()
        with over_a_pooler() as pooler:
            with broken("orders.purchase.card", "post_sale"):
                run = finish(shop.run_of(shop.post_order(Client(), shop.body()).json()["id"]).pk)
            assert run.status == "STUCK"
            do(run.pk, triage.Action.RETRY)
            saga.pause("orders.purchase.card", reason=WHY, by="user:chief", now=now)
            saga.lift_pause("orders.purchase.card", reason=WHY, by="user:chief", now=now)
            fold()
            assert finish(run.pk).status == "COMPLETED"
            saga.fork(run.pk, from_step="post_sale", reason=WHY, by="user:chief", now=now)
            sweeper.sweep(now=now)
            forget(now=now)
            Client().get("/metrics")
            pump_messages()
        assert pooler.said == []


class TestThePooler:
    """It would prove nothing if it could not find what is wrong."""

    @pytest.mark.django_db(transaction=True)
    def test_hears_what_belongs_to_a_session(self) -> None:
        with over_a_pooler() as pooler, connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = 1000")
            cursor.execute("SELECT pg_advisory_lock(1)")
            with transaction.atomic():
                cursor.execute("SET LOCAL statement_timeout = 1000")
                cursor.execute("SELECT pg_advisory_xact_lock(2)")
        assert pooler.said == ["SET statement_timeout = 1000\0", "SELECT pg_advisory_lock(1)\0"]

    @pytest.mark.django_db(transaction=True)
    def test_gives_each_transaction_another_connection(self) -> None:
        pids = set()
        with over_a_pooler(), connection.cursor() as cursor:
            for _ in range(40):
                cursor.execute("SELECT pg_backend_pid()")
                pids.add(cursor.fetchone()[0])
            with transaction.atomic():
                mine = set()
                for _ in range(10):
                    cursor.execute("SELECT pg_backend_pid()")
                    mine.add(cursor.fetchone()[0])
        assert (len(pids), len(mine)) == (BACKENDS, 1)

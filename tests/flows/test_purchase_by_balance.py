"""An order paid from the customer's ledger account: the head is one commit and answers at once."""

from threading import Barrier, Thread

from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from apps.fiscal_docs.models import Document
from apps.orders.models import Order, Ticket
from apps.saga import engine
from apps.saga.models import Step
from config import demo
from tests import shop
from tests.saga_driver import finish

# As Django counts them: without credentials, and those of the ledger that are sent together as none.
HEAD_STATEMENTS, TAIL_STATEMENTS = 18, 37


def own(queries: CaptureQueriesContext) -> int:
    """How many statements there were; pauses are asked for every quarter second, whatever is done meanwhile."""
    return sum('FROM "saga_pause"' not in query["sql"] for query in queries.captured_queries)


class TestPaid:
    def test_is_paid_in_the_answer_and_completes_behind_it(self, opened: demo.Demo, client: Client) -> None:
        answer = shop.post_order(client, shop.by_balance(), Prefer="wait=5")
        assert (answer.status_code, answer.json()["status"]) == (201, "PAID")
        assert answer["Preference-Applied"] == "wait=5"
        shop.assert_money(customer="989.50", sales="10.50", clearing="0.00")
        order_id = answer.json()["id"]
        assert finish(shop.run_of(order_id).pk).status == "COMPLETED"
        assert shop.order(order_id).status == "COMPLETED"
        assert Document.objects.get().state == "AUTHORISED"
        assert shop.stock() == demo.STOCK - 1
        shop.assert_nothing_left_over()

    def test_commits_its_head_once(self, opened: demo.Demo, client: Client) -> None:
        with CaptureQueriesContext(connection) as queries:
            shop.post_order(client, shop.by_balance(), Prefer="wait=5")
        statements = [query["sql"] for query in queries.captured_queries]
        writes = [
            at for at, sql in enumerate(statements) if any(verb in sql for verb in ("INSERT INTO", "UPDATE ", "DELETE "))
        ]
        assert statements.count("COMMIT") == 1
        assert writes[-1] < statements.index("COMMIT")

    def test_costs_few_statements(self, opened: demo.Demo, client: Client) -> None:
        """As many as there are today: a look-up that comes back is seen here."""
        first = shop.post_order(client, shop.by_balance(), Prefer="wait=5").json()["id"]  # what a process asks once
        finish(shop.run_of(first).pk)
        with CaptureQueriesContext(connection) as head:
            order_id = shop.post_order(client, shop.by_balance(), Prefer="wait=5").json()["id"]
        run_id = shop.run_of(order_id).pk
        with CaptureQueriesContext(connection) as tail:
            while engine.advance(run_id, on=True) is engine.Progress.MOVED:
                pass
        assert shop.run_of(order_id).status == "COMPLETED"
        assert own(head) <= HEAD_STATEMENTS
        assert own(tail) <= TAIL_STATEMENTS


class TestRefused:
    def test_leaves_nothing_when_the_balance_is_too_small(self, opened: demo.Demo, client: Client) -> None:
        answer = shop.post_order(client, shop.by_balance(amount=1000.01), Prefer="wait=5")
        assert (answer.status_code, answer.json()["status"]) == (201, "PAYMENT_NOT_COMPLETED")
        assert answer.json()["error"]["code"] == "R103"
        statuses = list(Step.objects.order_by("position").values_list("status", flat=True))
        assert statuses[:2] == ["ROLLED_BACK", "FAILED"]
        shop.assert_clean_slate()


class TestConcurrency:
    def test_never_oversells(self, opened: demo.Demo) -> None:
        buyers, tickets = 8, 3
        Ticket.objects.filter(pk=demo.TICKET_ID).update(available=tickets)
        ready, answers = Barrier(buyers), []

        def buy() -> None:
            try:
                ready.wait(90)
                answers.append(shop.post_order(Client(), shop.by_balance(), Prefer="wait=5").json()["status"])
            finally:
                connections.close_all()

        threads = [Thread(target=buy) for _ in range(buyers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == ["PAID"] * tickets + ["REJECTED"] * (buyers - tickets)
        assert shop.stock() == 0
        shop.assert_money(customer="968.50", sales="31.50", clearing="0.00")

    def test_never_spends_a_balance_twice(self, opened: demo.Demo) -> None:
        buyers = 6
        ready, answers = Barrier(buyers), []

        def buy() -> None:
            try:
                ready.wait(90)
                answers.append(shop.post_order(Client(), shop.by_balance(amount=400), Prefer="wait=5").json()["status"])
            finally:
                connections.close_all()

        threads = [Thread(target=buy) for _ in range(buyers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == ["PAID"] * 2 + ["PAYMENT_NOT_COMPLETED"] * 4
        assert shop.stock() == demo.STOCK - 2
        assert Order.objects.count() == buyers
        shop.assert_money(customer="200.00", sales="800.00", clearing="0.00")

"""Orders in a deployment whose parts are killed: every run ends as its order must, and the books agree."""

import random

import pytest

from tests import shop
from tests.deployment import Deployment
from tests.failures.conftest import Tell
from tests.failures.orders import Orders

pytestmark = [
    pytest.mark.process,
    pytest.mark.distributed,
    pytest.mark.xdist_group("distributed"),
    pytest.mark.timeout(1200),
]

ALL = {"sandbox": 1, "web": 1, "worker": 2, "beat": 1, "relay": 2, "consume": 2}
CARD, BALANCE = "orders.purchase.card", "orders.purchase.balance"
# Every method that the engine calls; each process that comes to one dies when it has done its work and said nothing yet.
STEPS = [
    f"step:{CARD}:{point}"
    for point in (
        "reserve_tickets:handle",
        "authorise_payment:ask",
        "authorise_payment:on_answer",
        "issue_fiscal_doc:prepare",
        "issue_fiscal_doc:call",
        "issue_fiscal_doc:record",
        "capture_payment:ask",
        "capture_payment:on_answer",
        "post_sale:handle",
        "confirm_order:handle",
        "issue_fiscal_doc:undo_prepare",
        "issue_fiscal_doc:undo_call",
        "issue_fiscal_doc:undo_record",
        "authorise_payment:ask_undo",
        "authorise_payment:on_undo_answer",
        "reserve_tickets:compensate",
    )
] + [
    f"step:{BALANCE}:{point}"
    for point in (
        "reserve_tickets:handle",
        "hold_amount:handle",
        "check_fiscal_doc:handle",
        "post_hold:handle",
        "sign_fiscal_doc:handle",
        "transmit_fiscal_doc:call",
        "transmit_fiscal_doc:record",
        "confirm_order:handle",
    )
]


class TestKilled:
    def test_inside_every_step_and_undo(self, deployed: Deployment, tell: Tell) -> None:
        deployed.scale(sandbox=1, web=1, beat=1, relay=2)
        points = [*STEPS, "worker.advanced"]
        for kind in ("worker", "worker", "consume", "consume"):
            deployed.start(kind, BREAK_AT=",".join(points))
        orders = Orders(deployed)
        orders.post(["card", "balance", "capture refused"] * 8)
        orders.all_end(revive=True)
        assert deployed.marks() >= set(points)
        tell("deaths", len(deployed.deaths))
        tell("runs that the sweeper rescued", orders.rescues())
        shop.assert_books_agree()

    def test_beat(self, deployed: Deployment) -> None:
        deployed.scale(**{**ALL, "beat": 0})
        orders = Orders(deployed)
        orders.place_unheard(5)
        beat = deployed.start("beat", BREAK_AT="beat.sent")
        assert beat.wait() == -9, beat.text
        deployed.scale(**ALL)
        orders.all_end()
        assert orders.rescues() == 5
        shop.assert_books_agree()


class TestWakeUpsLost:
    def test_all_of_them_in_the_middle_of_200_orders(self, deployed: Deployment, tell: Tell) -> None:
        deployed.scale(**ALL)
        orders = Orders(deployed)
        orders.post((["card"] * 6 + ["balance"] * 2 + ["card refused", "capture refused"]) * 20)
        deployed.until(lambda: orders.over() >= 30, what="some are over")
        deployed.lose_wake_ups()
        orders.all_end()
        tell("runs that the sweeper rescued", orders.rescues())
        assert orders.rescues() > 0
        shop.assert_books_agree()


class TestMany:
    def test_1000_orders_of_which_one_in_ten_fails(self, deployed: Deployment, tell: Tell) -> None:
        deployed.scale(**ALL)
        orders = Orders(deployed)
        kinds = ["card"] * 600 + ["balance"] * 270 + ["answered twice"] * 20 + ["answer lost"] * 10
        kinds += ["card refused"] * 35 + ["capture refused"] * 35 + ["no money"] * 20 + ["sold out"] * 10
        random.Random(1000).shuffle(kinds)
        orders.post(kinds)
        orders.all_end(timeout_s=400)
        tell("runs that the sweeper rescued", orders.rescues())
        shop.assert_books_agree()

"""The plan of `manage.py demo`: the same seed makes the same, more orders begin with the same, and every fate is there."""

from collections import Counter

import pytest
from stdnum.br import cpf

from config.scenes import plan
from config.scenes.people import FAILING
from config.scenes.plan import Fate
from config.scenes.trade import order_body, payment_body


def drawn(seed: int, count: int) -> list[plan.Order]:
    return plan.orders(seed, count, plan.customers(seed, failing=FAILING))


class TestPlan:
    def test_has_every_fate_in_the_smallest_demo(self) -> None:
        assert {order.fate for order in drawn(1, plan.ORDERS_MIN)} == set(Fate)

    def test_is_the_same_for_the_same_seed_and_begins_with_the_same(self) -> None:
        assert drawn(7, 300)[:100] == drawn(7, 100)
        assert drawn(7, 300) != drawn(8, 300)
        assert not {order.key for order in drawn(7, 100)} & {order.key for order in drawn(8, 100)}

    def test_gives_a_new_stream_of_customers_to_each_seed(self) -> None:
        ids = [{one.id for one in plan.customers(seed, failing=FAILING).all} for seed in (1, 2)]
        assert not ids[0] & ids[1]
        accounts = Counter(one.account for seed in (1, 11) for one in plan.customers(seed, failing=FAILING).all)
        assert set(accounts.values()) == {1}

    @pytest.mark.parametrize("seed", [0, 1, plan.SEED_MAX])
    def test_has_people_with_valid_numbers_and_orders_that_the_sandbox_decides_as_planned(self, seed: int) -> None:
        people = plan.customers(seed, failing=FAILING)
        assert all(cpf.is_valid(one.cpf) for one in people.all)
        for order in drawn(seed, 200):
            assert 1 <= order.amount <= 1000 or order.fate is Fate.BALANCE_LOW
            assert order.customer.card in plan.CARDS.get(order.fate, plan.GOOD)
            assert (order.amount > 200) == (order.fate in plan.LARGE) or order.fate not in plan.GIVEN_BACK
            assert order.fate not in FAILING or order.customer.cpf == FAILING[order.fate]

    def test_asks_for_the_same_again_when_it_was_cut_off(self) -> None:
        """Its Idempotency-Keys demand it: whatever is drawn or made anew would be refused (R013)."""
        assert [order_body(order) for order in drawn(3, 200)] == [order_body(order) for order in drawn(3, 200)]
        assert payment_body(3, 5) == payment_body(3, 5)
        assert "token" not in str([order_body(drawn(3, 1)[0]), payment_body(3, 5)])

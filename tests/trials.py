"""How each use case is tried: how a run of it begins on the demo's data, and what is left when it is over.

Tests are generated for every registered definition (tests/flows/test_every_step.py). Whoever adds a use case adds its trial
here; until then those tests fail, and say so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from django.test import Client

from config import demo
from tests import shop


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """``begin``: start a run, nothing done yet, and tell its id. The others assert that nothing, or everything, is left."""

    begin: Callable[[], UUID]
    assert_undone: Callable[[], None]
    assert_done: Callable[[], None]


def _buy(body: dict[str, object]) -> UUID:
    """By default nothing is done in the request."""
    return shop.run_of(shop.post_order(Client(), body).json()["id"]).pk


def _assert_sold_by_card() -> None:
    _assert_sold()
    shop.assert_money(customer="1000.00", sales="10.50", clearing="-10.50")


def _assert_sold_by_balance() -> None:
    _assert_sold()
    shop.assert_money(customer="989.50", sales="10.50", clearing="0.00")


def _assert_sold() -> None:
    shop.assert_books_agree()
    assert shop.stock() == demo.STOCK - 1
    assert shop.SandboxDocument.objects.count() == 1


TRIALS = {
    "orders.purchase.card": Trial(
        begin=lambda: _buy(shop.body()), assert_undone=shop.assert_clean_slate, assert_done=_assert_sold_by_card
    ),
    "orders.purchase.balance": Trial(
        begin=lambda: _buy(shop.by_balance()), assert_undone=shop.assert_clean_slate, assert_done=_assert_sold_by_balance
    ),
}


def trial_of(use_case: str) -> Trial:
    """The trial of a use case. Fails with a sentence for one that has none."""
    found = TRIALS.get(use_case)
    assert found is not None, (
        f"{use_case} is registered and nobody tries it: add its Trial to tests/trials.py (how a run begins on the demo's "
        "data, what is left when all is undone, what when it is complete)."
    )
    return found

"""Whose customers they are: said by an operator, or known from the orders of before."""

import io
from importlib import import_module
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone

from apps.customers.models import Customer
from apps.identity import public as identity
from tests.factories import make_order

pytestmark = pytest.mark.django_db
backfill = import_module("apps.orders.migrations.0003_whose_customers")


def customer_with_orders(*accounts: str) -> UUID:
    """A customer of nobody, with an order of each of these accounts."""
    orders = [make_order(now=timezone.now()) for _ in accounts or ("",)]
    for order, account_id in zip(orders, accounts or ("",), strict=True):
        order.customer_id, order.account_id = orders[0].customer_id, account_id
        order.save()
    return orders[0].customer_id


def owner(customer_id: UUID) -> str:
    return Customer.objects.get(pk=customer_id).account_id


@pytest.fixture
def shop_account() -> str:
    with transaction.atomic():
        return identity.create_account(name="A shop", scopes=[], code="acc_shop", now=timezone.now()).account_id


class TestCustomersOfBefore:
    @pytest.mark.parametrize(
        ("accounts", "expected"),
        [
            (("acc_a",), "acc_a"),
            (("acc_a", "acc_a"), "acc_a"),
            (("", "acc_a"), "acc_a"),
            (("acc_a", "acc_b"), ""),
            (("",), ""),
        ],
    )
    def test_belong_to_the_only_merchant_who_sold_to_them(self, accounts: tuple[str, ...], expected: str) -> None:
        customer_id = customer_with_orders(*accounts)
        with connection.schema_editor() as editor:
            backfill.give(None, editor)
        assert owner(customer_id) == expected

    def test_are_all_looked_at_in_small_commits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backfill, "BATCH", 2)
        customers = [customer_with_orders("acc_a") for _ in range(5)]
        with connection.schema_editor() as editor:
            backfill.give(None, editor)
        assert {owner(customer_id) for customer_id in customers} == {"acc_a"}

    def test_stay_with_whom_they_were_given_to_meanwhile(self) -> None:
        customer_id = customer_with_orders("acc_a")
        Customer.objects.filter(pk=customer_id).update(account_id="acc_b")
        with connection.schema_editor() as editor:
            backfill.give(None, editor)
        assert owner(customer_id) == "acc_b"


class TestGiveCustomers:
    def give(self, *arguments: Any, **options: Any) -> str:
        said = io.StringIO()
        call_command("give_customers", *arguments, stdout=said, stderr=said, **options)
        return said.getvalue()

    def test_gives_nobodys_customers_and_may_be_repeated(self, shop_account: str) -> None:
        customer_id = customer_with_orders()
        for _ in range(2):
            assert self.give(shop_account, str(customer_id)) == "1 given to acc_shop, 0 refused\n"
        assert owner(customer_id) == shop_account

    def test_reads_ids_from_the_standard_input(self, shop_account: str, monkeypatch: pytest.MonkeyPatch) -> None:
        ids = [customer_with_orders(), customer_with_orders()]
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{one}\n" for one in ids)))
        assert self.give(shop_account).startswith("2 given")

    def test_takes_another_ones_only_when_that_one_is_named(self, shop_account: str) -> None:
        customer_id = customer_with_orders()
        Customer.objects.filter(pk=customer_id).update(account_id="acc_b")
        with pytest.raises(CommandError, match="refused"):
            self.give(shop_account, str(customer_id))
        assert owner(customer_id) == "acc_b"
        self.give(shop_account, str(customer_id), taken_from="acc_b")
        assert owner(customer_id) == shop_account

    def test_refuses_an_account_or_a_customer_that_there_is_not(self, shop_account: str) -> None:
        with pytest.raises(CommandError, match="R704"):
            self.give("acc_nobody", str(uuid4()))
        with pytest.raises(CommandError, match="refused"):
            self.give(shop_account, str(uuid4()))

"""Customers and how they usually pay."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, transaction

from apps.customers import public as customers
from apps.customers.models import Customer

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ID = UUID("e081ad0f-f83e-4f81-b2d7-23655ac04b8a")


def create(**changes: Any) -> customers.CustomerView:
    values = {
        "account_id": "acc_shop",
        "name": "Ana",
        "cpf": "529.982.247-25",
        "email": "ana@example.com",
        "default_method": "card",
        "card_token": "tok_1",
        "now": NOW,
        "customer_id": ID,
        **changes,
    }
    with transaction.atomic():
        return customers.create_customer(**values)


def choose(method: str, **changes: Any) -> customers.CustomerView:
    with transaction.atomic():
        return customers.set_default_method(customer_id=ID, method=method, now=NOW, **changes)


class TestCustomer:
    def test_is_found_by_id(self) -> None:
        created = create()
        assert customers.customer(ID) == created
        assert created.cpf == "52998224725"

    def test_shows_no_personal_data_in_a_repr(self) -> None:
        text = repr(create())
        assert not any(secret in text for secret in ("52998224725", "ana@example.com", "tok_1"))

    def test_that_nobody_knows_names_the_field(self) -> None:
        with pytest.raises(customers.UnknownCustomer) as refusal:
            customers.customer(uuid4())
        assert (refusal.value.code, refusal.value.status, refusal.value.field) == ("R801", 422, "customerId")


class TestCreate:
    @pytest.mark.parametrize("cpf", ["529.982.247-26", "", "111.111.111-11", "٥٢٩٩٨٢٢٤٧٢٥"])
    def test_refuses_a_wrong_cpf(self, cpf: str) -> None:
        with pytest.raises(customers.InvalidCpf):
            create(cpf=cpf)

    @pytest.mark.parametrize("changes", [{"card_token": None}, {"default_method": "balance"}, {"default_method": "pix"}])
    def test_refuses_a_method_that_cannot_work(self, changes: dict[str, Any]) -> None:
        with pytest.raises(customers.MethodUnavailable):
            create(**changes)

    def test_refuses_an_id_that_is_taken(self) -> None:
        create()
        with pytest.raises(customers.CustomerExists):
            create()

    def test_the_database_refuses_half_a_ledger_account(self) -> None:
        create()
        with pytest.raises(IntegrityError), transaction.atomic():
            Customer.objects.update(ledger_branch="1")


class TestSetDefaultMethod:
    def test_changes_to_what_is_there_and_back(self) -> None:
        create(ledger_branch="1", ledger_account="7")
        assert choose("balance").default_method == "balance"
        assert choose("card", card_token="tok_2").card_token == "tok_2"
        assert choose("card").card_token == "tok_2"

    def test_refuses_what_is_not_there(self) -> None:
        create()
        with pytest.raises(customers.MethodUnavailable):
            choose("balance")
        assert customers.customer(ID).default_method == "card"

    def test_of_nobody_is_refused(self) -> None:
        with pytest.raises(customers.UnknownCustomer):
            choose("card")

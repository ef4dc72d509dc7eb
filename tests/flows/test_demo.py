"""`manage.py demo` where it may not work. Where it may is in test_one_process.py, on a running `make run`."""

from typing import Any

import pytest
from django.core.management import CommandError, call_command

from apps.orders.models import Order
from config.scenes import plan
from tests.process import free_port

pytestmark = pytest.mark.django_db(transaction=True)


def refused(*words: str) -> str:
    with pytest.raises(CommandError) as caught:
        call_command("demo", *words)
    assert not Order.objects.exists()
    return str(caught.value)


class TestRefuses:
    def test_a_deployment(self, settings: Any) -> None:
        settings.EMBEDDED = False
        assert refused().startswith("R015 DATABASE_URL makes this a deployment.")

    def test_to_send_made_up_documents_to_a_real_authority(self, settings: Any) -> None:
        settings.FISCAL_AUTHORITY_URL = "https://authority.example.com"
        assert refused().startswith("R015 FISCAL_AUTHORITY_URL names an authority")

    @pytest.mark.parametrize("orders", [0, plan.ORDERS_MIN - 1, plan.ORDERS_MAX + 1])
    def test_a_number_of_orders_out_of_bounds(self, orders: int) -> None:
        assert refused("--orders", str(orders)) == f"--orders is {plan.ORDERS_MIN} to {plan.ORDERS_MAX}."

    def test_a_seed_out_of_bounds(self) -> None:
        assert refused("--seed", str(plan.SEED_MAX + 1)) == f"--seed is 0 to {plan.SEED_MAX}."

    def test_when_nobody_works(self, settings: Any) -> None:
        settings.PORT = free_port()
        assert "Start `make run` with the same PORT and DATA_DIR." in refused()

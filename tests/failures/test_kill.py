"""kill -9 in the middle of runs, then start again: every run finishes, and nothing happens twice."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process import Lastro, stop_postgres
from tests.shop import SEED_BODY

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("process")]

ORDERS = 12
FINAL = {"COMPLETED", "PAYMENT_NOT_COMPLETED", "REJECTED", "CANCELLED"}


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    stop_postgres(tmp_path)


class TestKill:
    def test_finishes_every_run_after_kills_in_the_middle(self, data_dir: Path) -> None:
        lastro = Lastro(data_dir).wait_ready()
        order_ids: list[str] = []
        for at in range(ORDERS):
            body = {**SEED_BODY, "payment": {"method": "balance"}} if at % 3 == 0 else SEED_BODY
            order_ids.append(lastro.request("POST", "/orders", body, Prefer="respond-async")[1]["id"])
            if at % 4 == 3:  # three times, always with work under way
                lastro.kill()
                lastro = Lastro(data_dir).wait_ready()
        try:
            for order_id in order_ids:
                lastro.until(lambda order_id=order_id: lastro.status_of(order_id) in FINAL, timeout_s=200)
            statuses = [lastro.status_of(order_id) for order_id in order_ids]
            assert statuses == ["COMPLETED"] * ORDERS

            def at_rest() -> Any:
                """The orders are over; what they had to say may still be on its way."""
                told = json.loads(lastro.manage("shell", "-v0", "-c", _TELL))
                return told if told["messages_left"] == 0 else None

            told = lastro.until(at_rest)
        finally:
            assert lastro.stop() == 0
        assert told == {
            "sold": ORDERS,
            "captured": 8,
            "documents": ORDERS,
            "valid_at_the_authority": ORDERS,
            "sales": f"{ORDERS * 10.5:.2f}",
            "differences": 0,
            "messages_left": 0,
        }


_TELL = """
import json
from apps.fiscal_docs.models import Document
from apps.fiscal_docs.sandbox.models import SandboxDocument, SandboxEvent
from apps.ledger import public as ledger
from apps.ledger.reconciliation import check_balances
from apps.messaging.models import Pending, Redelivery
from apps.orders.models import Ticket
from apps.orders.sagas import money
from apps.payments.models import Payment
from config import demo
cancelled = SandboxEvent.objects.values("access_key")
print(json.dumps({
    "sold": demo.STOCK - Ticket.objects.get(pk=demo.TICKET_ID).available,
    "captured": Payment.objects.filter(state="CAPTURED").count(),
    "documents": Document.objects.filter(state="AUTHORISED").count(),
    "valid_at_the_authority": SandboxDocument.objects.exclude(access_key__in=cancelled).count(),
    "sales": str(ledger.balance(money.sales_account()).posted),
    "differences": len(check_balances()),
    "messages_left": Pending.objects.count() + Redelivery.objects.count(),
}))
"""

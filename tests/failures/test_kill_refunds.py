"""kill -9 in the middle of refunds, and a merchant who repeats what he is not sure of: each is given back once."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process import Lastro, stop_postgres

pytestmark = [
    pytest.mark.process,
    pytest.mark.distributed,
    pytest.mark.on_servers("local"),  # nothing here is about the broker
    pytest.mark.xdist_group("process"),
]

PAYMENTS = 6
PARTS: tuple[dict[str, Any], ...] = ({"amount": 4}, {})  # of each payment in this order: together all of it
CARDS = ("4000000000008054", "4242424242424242")  # answers a refund twice; once


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    stop_postgres(tmp_path)


class Merchant:
    """Sends each request under a key of its own, and knows only what he was answered."""

    def __init__(self, data_dir: Path) -> None:
        demo = json.loads((data_dir / "demo.json").read_text())
        secret = base64.b64encode(f"{demo['account']}:{demo['secret']}".encode()).decode()
        self.headers = {"Authorization": f"Basic {secret}"}
        self.refunds: dict[str, str] = {}

    def get(self, lastro: Lastro, path: str) -> dict[str, Any]:
        return lastro.request("GET", path, **self.headers)[1]

    def pay(self, lastro: Lastro, number: int) -> str:
        card = {"number": CARDS[number % len(CARDS)], "exp_month": 12, "exp_year": 2035, "cvv": "123"}
        body = {"amount": "10.50", "card": card}
        found: str = lastro.request("POST", "/payments", body, **self.headers)[1]["id"]
        return found

    def refund(self, lastro: Lastro, payment_id: str, part: int) -> None:
        key = f"{payment_id}:{part}"
        path, headers = f"/payments/{payment_id}/refunds", {**self.headers, "Idempotency-Key": key}
        status, answer = lastro.request("POST", path, PARTS[part], **headers)
        assert (status, self.refunds.setdefault(key, answer["id"])) == (202, answer["id"])


class TestKill:
    def test_gives_back_once_what_was_asked_for_once(self, data_dir: Path) -> None:
        lastro = Lastro(data_dir).wait_ready()
        merchant = Merchant(data_dir)
        payments = [merchant.pay(lastro, number) for number in range(PAYMENTS)]
        for payment_id in payments:
            lastro.until(
                lambda payment_id=payment_id: merchant.get(lastro, f"/payments/{payment_id}")["state"] == "CAPTURED"
            )
        try:
            for part in range(len(PARTS)):
                for payment_id in payments:
                    merchant.refund(lastro, payment_id, part)
                lastro.kill()  # with requests, answers and postings under way
                lastro = Lastro(data_dir).wait_ready()
                for payment_id in payments:
                    merchant.refund(lastro, payment_id, part)
            for payment_id in payments:
                lastro.until(
                    lambda payment_id=payment_id: merchant.get(lastro, f"/payments/{payment_id}")["state"] == "REFUNDED",
                    timeout_s=200,
                )
            books = "/ledger/accounts/0001/merchants/balance"
            lastro.until(lambda: merchant.get(lastro, books)["posted"] == "0.00")
            said = lastro.manage("merchants_money")
            told = json.loads(lastro.manage("shell", "-v0", "-c", _TELL))
        finally:
            assert lastro.stop() == 0
        total = f"{PAYMENTS * 10.5:.2f}"
        assert f"captured {total}, refunded {total}\n0 entries were missing" in said
        assert told == {
            "refunds": sorted(merchant.refunds.values()),
            "given_back_by_the_processor": total,
            "entries": PAYMENTS * (1 + len(PARTS)),
            "differences": 0,
        }


_TELL = """
import json
from django.db.models import Sum
from apps.ledger.models import Transaction
from apps.ledger.reconciliation import check_balances
from apps.orders.sagas import money
from apps.payments.models import PaymentOperation, ProcessorTransaction
given = ProcessorTransaction.objects.aggregate(total=Sum("refunded_amount"))["total"]
print(json.dumps({
    "refunds": sorted(str(pk) for pk in PaymentOperation.objects.filter(kind="refund").values_list("pk", flat=True)),
    "given_back_by_the_processor": str(given),
    "entries": Transaction.objects.filter(event_code__in=money.MERCHANT_EVENTS, account="merchants").count(),
    "differences": len(check_balances()),
}))
"""

"""The lists of the chain and of the months behind."""

from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from apps.ledger import chain, detaching, metrics_chain, seals
from apps.ledger.chain_models import Block, Month
from apps.observability.metrics import LEDGER_UNCHAINED, LEDGER_UNCHAINED_OLDEST
from tests.integration.ledger.chained import (
    FEBRUARY,
    JANUARY,
    chain_all,
    close_until,
    end_of,
    settle_constraints,
    two_months,
)
from tests.integration.ledger.conftest import ANA, NOW, fund

pytestmark = pytest.mark.usefixtures("bank")


@pytest.fixture
def admin(tmp_path: Path) -> Client:
    two_months()
    close_until(end_of(FEBRUARY))
    chain_all()
    settle_constraints()
    for month in (JANUARY, FEBRUARY):
        seals.seal_month(month, by="ana", now=NOW)
    detaching.export_month(JANUARY, directory=tmp_path, by="bob", now=NOW)
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def text_of(client: Client, name: str, *keys: object, **query: str) -> str:
    answer = client.get(reverse(f"admin:ledger_{name}", args=keys), query, secure=True)
    assert answer.status_code == 200
    return answer.content.decode()


class TestBlocks:
    def test_show_the_hash_to_compare_and_their_months(self, admin: Client) -> None:
        block = Block.objects.get()
        digits = bytes(block.hash).hex()
        assert digits[:16] in text_of(admin, "block_changelist")
        text = text_of(admin, "block_change", block.pk)
        assert digits in text
        assert "2026-01: 6, 2026-02: 2, 2026-03: 1" in text

    @pytest.mark.parametrize(("text", "found"), [("1", 1), ("2", 0), ("x", 0), ("9" * 30, 0), ("", 1)])
    def test_are_found_by_their_number(self, admin: Client, text: str, found: int) -> None:
        answer = admin.get(reverse("admin:ledger_block_changelist"), {"q": text}, secure=True)
        assert len(answer.context["cl"].result_list) == found


class TestMonths:
    def test_show_their_state_and_who_did_it(self, admin: Client) -> None:
        text = text_of(admin, "month_changelist")
        assert "2026-01" in text
        assert "month=2026-01/lines.parquet" in text
        text = text_of(admin, "month_change", JANUARY)
        assert "ana" in text
        assert bytes(Month.objects.get(month=JANUARY).hash).hex() in text
        answer = admin.get(reverse("admin:ledger_month_changelist"), {"state__exact": "SEALED"}, secure=True)
        assert [row.month for row in answer.context["cl"].result_list] == [FEBRUARY]


class TestMetrics:
    def test_tell_what_waits_for_the_chain_and_for_how_long(self) -> None:
        def read() -> list[float]:
            found = {reading.gauge: reading.value for reading in metrics_chain._chain()}
            return [found[LEDGER_UNCHAINED], found[LEDGER_UNCHAINED_OLDEST]]

        two_months()
        unchained, age = read()
        assert unchained == 9
        assert age > 0
        chain_all()
        assert read() == [0, 0]
        fund(ANA, 1)
        unchained, age = read()
        assert unchained == 1
        assert age > 0
        assert chain.waiting()[0] == 1

"""docs/use-cases.md shows a use case: its code is run here as it stands there."""

import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from uuid import UUID

import pytest
from django.conf import settings
from django.utils import timezone

from apps.ledger import public as ledger
from apps.saga import definition as definitions
from apps.saga import public as saga
from apps.saga.governance import problems_of
from apps.saga.models import Approval
from config import demo
from tests.saga_driver import finish

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "use-cases.md"
CUSTOMER, CASH = (ledger.AccountRef(settings.LEDGER_BRANCH, name) for name in ("000000001", "cash"))


@pytest.fixture
def goodwill() -> Iterator[ModuleType]:
    """The module that the document shows first."""
    before = set(definitions._registry)
    module = ModuleType("goodwill")
    shown = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[0]
    exec(compile(shown, str(DOCUMENT), "exec"), vars(module))  # our own document
    yield module
    for key in set(definitions._registry) - before:
        definitions._registry.pop(key)


def given(goodwill: ModuleType) -> UUID:
    run_id: UUID = goodwill.give(
        key="1",
        customer_id=demo.CUSTOMER_ID,
        amount=Decimal("5.00"),
        reason="rain",
        asked_by="user:ana",
        now=timezone.now(),
    )
    return run_id


def decide(*, approve: bool) -> None:
    """The first time that somebody looks."""
    boss = saga.Decider("user:boss", frozenset({"permission:saga.change_approval"}))
    for waiting in Approval.objects.filter(status="OPEN"):
        saga.decide(waiting.pk, approve=approve, by=boss, reason="it did rain", now=timezone.now())


class TestTheDocumentedUseCase:
    def test_lacks_nothing(self, goodwill: ModuleType) -> None:
        assert goodwill.GOODWILL.problems() == []
        assert list(problems_of(goodwill.GOODWILL)) == []

    def test_pays_once_somebody_agrees(self, opened: demo.Demo, goodwill: ModuleType) -> None:
        run_id = given(goodwill)
        assert ledger.balance(CASH).pending == Decimal("5.00")
        assert finish(run_id, meanwhile=lambda: decide(approve=True)).status == "COMPLETED"
        assert ledger.balance(CUSTOMER).posted == demo.OPENING_BALANCE + 5
        assert ledger.balance(CASH).pending == 0

    def test_lets_go_when_somebody_refuses(self, opened: demo.Demo, goodwill: ModuleType) -> None:
        run_id = given(goodwill)
        assert finish(run_id, meanwhile=lambda: decide(approve=False)).status == "COMPENSATED"
        assert ledger.balance(CUSTOMER).posted == demo.OPENING_BALANCE
        assert ledger.balance(CASH).pending == 0

import pytest
from django.db import transaction

from apps.ledger import public as ledger
from apps.ledger.tasks import expire_holds
from tests.integration.ledger.conftest import ANA, NOW, fund, money


@pytest.mark.usefixtures("bank")
class TestExpireHoldsTask:
    def test_commits_what_it_ended_and_takes_arguments_of_newer_versions(self) -> None:
        fund(ANA, 10)
        with transaction.atomic():
            ledger.hold(key="k", branch="0001", account=ANA.account, amount=money(10), expires_at=NOW, now=NOW)
        expire_holds(newer=True)
        assert ledger.balance(ANA).available == 10

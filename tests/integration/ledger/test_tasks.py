from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import transaction
from django.utils import timezone

from apps.ledger import public as ledger
from apps.ledger.models import Refusal
from apps.ledger.queue import REFUSALS_KEPT
from apps.ledger.tasks import expire_holds, forget_refusals
from tests.integration.ledger.conftest import ANA, NOW, fund, money


@pytest.mark.usefixtures("bank")
class TestExpireHoldsTask:
    def test_commits_what_it_ended_and_takes_arguments_of_newer_versions(self) -> None:
        fund(ANA, 10)
        with transaction.atomic():
            ledger.hold(key="k", branch="0001", account=ANA.account, amount=money(10), expires_at=NOW, now=NOW)
        expire_holds(newer=True)
        assert ledger.balance(ANA).available == 10


@pytest.mark.django_db
class TestForgetRefusalsTask:
    def test_commits_what_it_deleted_and_takes_arguments_of_newer_versions(self) -> None:
        now = timezone.now()
        for age in (timedelta(0), REFUSALS_KEPT + timedelta(minutes=1)):
            Refusal.objects.create(tracekey=uuid4(), code="R103", reason="-", retryable=True, refused_at=now - age)
        forget_refusals(newer=True)
        assert Refusal.objects.get().refused_at == now

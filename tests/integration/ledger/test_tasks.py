import logging
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import transaction
from django.utils import timezone

from apps.ledger import metrics
from apps.ledger import public as ledger
from apps.ledger.models import Check, Refusal
from apps.ledger.queue import REFUSALS_KEPT
from apps.ledger.tasks import check_all, check_changes, expire_holds, forget_refusals
from tests.integration.ledger.conftest import ANA, NOW, fund, money
from tests.integration.ledger.test_reconciliation import damage


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


@pytest.mark.usefixtures("committed_bank")
class TestCheckTasks:
    def test_check_write_down_and_tell_the_metrics(self, caplog: pytest.LogCaptureFixture) -> None:
        fund(ANA, 10)
        check_changes(newer=True)
        check_all(newer=True)
        assert list(Check.objects.order_by("id").values_list("kind", "differences")) == [("INCREMENTAL", 0), ("FULL", 0)]
        damage("UPDATE ledger_account SET postedcredit = postedcredit + 1 WHERE account = '000000001'")
        with caplog.at_level(logging.ERROR):
            check_changes()
        assert "1 of the ledger's balances differ" in caplog.text
        with transaction.atomic():
            ledger.suspend(mode="REFUSE", reason="x", by="x", now=timezone.now())
        told = {(reading.gauge.name, *reading.labels): reading.value for reading in metrics._rows()}
        assert told["lastro_ledger_differences", "OPEN"] == 1
        assert told["lastro_ledger_differences", "ACKNOWLEDGED"] == 0
        assert told["lastro_ledger_suspensions",] == 1
        for kind in ("FULL", "INCREMENTAL"):
            assert 0 <= told["lastro_ledger_check_age_seconds", kind] < 60
            assert 0 <= told["lastro_ledger_check_seconds", kind] < 60

    def told(self) -> dict[tuple[str, ...], float]:
        return {(reading.gauge.name, *reading.labels): reading.value for reading in metrics._rows()}

    def test_a_check_that_is_never_done_again_is_told_for_ever(self) -> None:
        check_all()
        Check.objects.update(began_at=timezone.now() - timedelta(days=40), snapshot_at=timezone.now() - timedelta(days=40))
        check_changes()  # forgets old ones, too
        assert self.told()["lastro_ledger_check_age_seconds", "FULL"] >= timedelta(days=40).total_seconds()

    def test_a_check_that_never_came_to_its_end_is_told(self) -> None:
        assert ("lastro_ledger_check_age_seconds", "FULL") not in self.told()
        began = timezone.now() - timedelta(days=3)
        Check.objects.create(kind="FULL", began_at=began)  # a worker was killed
        Check.objects.create(kind="FULL", began_at=timezone.now(), ended_at=timezone.now(), failure="broke off")
        told = self.told()
        assert told["lastro_ledger_check_age_seconds", "FULL"] >= timedelta(days=3).total_seconds()
        assert ("lastro_ledger_check_seconds", "FULL") not in told

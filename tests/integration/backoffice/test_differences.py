"""Where the ledger does not add up: on the page of the account and in the menu."""

import pytest
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.backoffice.shell import differences_badge
from apps.ledger import public as ledger
from apps.ledger.care_models import Check, Difference
from tests.integration.backoffice.test_account import account_url
from tests.integration.ledger.conftest import ANA, fund, money, open_bank

pytestmark = pytest.mark.django_db
WHY = "the import of March, corrected by hand"
RULE = "a day's debits are the sum of its lines"
LIST = "admin:ledger_difference_changelist"


@pytest.fixture
def found(db: None) -> Difference:
    """What a check has found a moment ago."""
    now = timezone.now()
    open_bank(now=now)
    fund(ANA, 10)
    check = Check.objects.create(kind="FULL", began_at=now, snapshot_at=now, ended_at=now, differences=1)
    return Difference.objects.create(
        rule=RULE,
        branch=ANA.branch,
        account=ANA.account,
        currency=ANA.currency,
        dateref=now.date(),
        stored=money(12),
        proven=money(10),
        first_seen=now,
        last_seen=now,
        check_run=check,
    )


class TestDifferences:
    def test_are_seen_on_their_account_and_in_the_menu_until_somebody_knows_why(
        self, chief: Client, found: Difference
    ) -> None:
        page = chief.get(account_url())
        text = page.content.decode()
        assert "It does not add up." in text
        assert "stored 12.00, proven 10.00" in text
        doors = f"{reverse(LIST)}?q={ANA.branch}/{ANA.account}"
        assert doors in text
        assert RULE.replace("'", "&#x27;") in chief.get(doors).content.decode()
        assert differences_badge(page.wsgi_request) == "1"
        with transaction.atomic():
            ledger.acknowledge(difference_id=found.pk, by="chief", reason=WHY, now=timezone.now())
        assert differences_badge(page.wsgi_request) == ""
        assert "proven 10.00, known" in chief.get(account_url()).content.decode()

    def test_has_a_page_that_says_what_to_do(self, chief: Client, found: Difference) -> None:
        page = reverse("admin:ledger_difference_change", args=[found.pk])
        door = f'href="{reverse(LIST)}?q={ANA.branch}/{ANA.account}"'
        assert door in chief.get(page).content.decode()
        Difference.objects.update(state="GONE", gone_at=timezone.now())
        assert door not in chief.get(page).content.decode()

    def test_that_are_gone_are_not_told(self, chief: Client, found: Difference) -> None:
        Difference.objects.update(state="GONE", gone_at=timezone.now())
        assert "It does not add up." not in chief.get(account_url()).content.decode()


class TestProved:
    def test_says_when_the_account_was_last_looked_at(self, found: Difference) -> None:
        assert ledger.proved(ANA) is not None
        Check.objects.update(branch="0002")
        assert ledger.proved(ANA) is None, "a check of another branch says nothing of this one"
        Check.objects.update(branch=ANA.branch)
        assert ledger.proved(ANA) is not None
        Check.objects.update(failure="it broke off")
        assert ledger.proved(ANA) is None

"""Where the ledger does not add up: in the list, on the account, in the menu, on the home page; known with a reason."""

from uuid import uuid4

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.backoffice.shell import differences_badge
from apps.ledger import public as ledger
from apps.ledger.care_models import Check, Difference
from tests.integration.backoffice.test_account import account_url, auditor
from tests.integration.ledger.conftest import ANA, fund, money, open_bank

pytestmark = pytest.mark.django_db
WHY = "the import of March, corrected by hand"
RULE = "a day's debits are the sum of its lines"
LIST = "admin:backoffice_differences"


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


def url(found: Difference) -> str:
    return reverse("admin:backoffice_difference", args=[found.pk])


class TestDifferences:
    def test_are_seen_wherever_they_matter(self, chief: Client, found: Difference) -> None:
        page = chief.get(reverse(LIST))
        text = page.content.decode()
        assert "1 difference nobody has looked into." in text
        assert account_url() in text
        assert [each.differs_by for each, _ in page.context["lines"]] == [money(2)]
        account = chief.get(account_url()).content.decode()
        assert "It does not add up." in account
        assert "stored 12.00, proven 10.00" in account
        home = chief.get("/admin/").context["home"]
        assert [(need.title, need.amount) for need in home.needs] == [("1 difference in the ledger", money(2))]
        assert differences_badge(page.wsgi_request) == "1"

    def test_are_known_with_a_reason_and_call_for_nobody_then(self, chief: Client, found: Difference) -> None:
        assert chief.get(url(found)).status_code == 200
        assert chief.post(url(found), {"reason": " "}).status_code == 422
        assert Difference.objects.get().state == "OPEN"
        text = chief.post(url(found), {"reason": WHY}, follow=True).content.decode()
        assert "1 difference is known." in text
        assert WHY in text
        assert Difference.objects.get().acknowledged_by == "user:chief"
        assert differences_badge(chief.get("/admin/").wsgi_request) == ""
        assert chief.get("/admin/").context["home"].needs == ()
        assert "known" in chief.get(account_url()).content.decode()

    def test_that_are_gone_are_not_acknowledged(self, chief: Client, found: Difference) -> None:
        Difference.objects.update(state="GONE", gone_at=timezone.now())
        assert "R134" in chief.post(url(found), {"reason": WHY}, follow=True).content.decode()
        assert "The ledger adds up." in chief.get(reverse(LIST)).content.decode()
        assert RULE.replace("'", "&#x27;") in chief.get(reverse(LIST) + "?tab=gone").content.decode()
        assert "It does not add up." not in chief.get(account_url()).content.decode()

    def test_open_for_those_who_may(self, newcomer: Client, found: Difference) -> None:
        assert newcomer.get(reverse(LIST)).status_code == 403
        assert newcomer.post(url(found), {"reason": WHY}).status_code == 403
        looker = auditor("view_difference")
        assert looker.get(reverse(LIST)).status_code == 200
        assert looker.post(url(found), {"reason": WHY}).status_code == 403
        assert Difference.objects.get().state == "OPEN"

    def test_that_nobody_found_is_not_found(self, chief: Client, found: Difference) -> None:
        assert chief.get(reverse("admin:backoffice_difference", args=[uuid4()])).status_code == 404


class TestProved:
    def test_says_when_the_account_was_last_looked_at(self, found: Difference) -> None:
        assert ledger.proved(ANA) is not None
        Check.objects.update(branch="0002")
        assert ledger.proved(ANA) is None, "a check of another branch says nothing of this one"
        Check.objects.update(branch=ANA.branch)
        assert ledger.proved(ANA) is not None
        Check.objects.update(failure="it broke off")
        assert ledger.proved(ANA) is None

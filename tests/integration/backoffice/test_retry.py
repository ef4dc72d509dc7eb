"""A stuck run is let go on by a person, with a reason, and never by a link."""

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.saga import definition as definitions
from apps.saga.models import Audit, Run, RunStatus
from tests import factories

# Retry is a commit of its own.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def stuck(transactional_db: None) -> Run:
    assert definitions.lookup("orders.purchase.card", 1)
    return factories.stuck_run(now=timezone.now())


def url(run: Run) -> str:
    return reverse("admin:backoffice_run_retry", args=[run.pk])


class TestRetry:
    def test_looking_changes_nothing(self, stuck: Run, chief: Client) -> None:
        answer = chief.get(url(stuck))
        assert answer.status_code == 200
        assert "If you retry now" in answer.content.decode()
        assert Run.objects.get().status == RunStatus.STUCK
        assert Audit.objects.count() == 0

    def test_lets_the_run_go_on_and_keeps_who_and_why(self, stuck: Run, chief: Client) -> None:
        answer = chief.post(url(stuck), {"reason": "the lock is gone"})
        assert answer["Location"] == reverse("admin:backoffice_run", args=[stuck.pk])
        assert Run.objects.get().status == RunStatus.RUNNING
        row = Audit.objects.get()
        assert (row.actor, row.run_id, row.action, row.reason) == ("user:chief", stuck.pk, "retry", "the lock is gone")

    @pytest.mark.parametrize("reason", ["", "   ", "ok"])
    def test_asks_for_a_reason(self, stuck: Run, chief: Client, reason: str) -> None:
        assert chief.post(url(stuck), {"reason": reason}).status_code == 422
        assert Run.objects.get().status == RunStatus.STUCK

    def test_a_second_click_does_nothing(self, stuck: Run, chief: Client) -> None:
        for _ in range(2):
            chief.post(url(stuck), {"reason": "the lock is gone"})
        page = chief.get(reverse("admin:backoffice_run", args=[stuck.pk])).content.decode()
        assert Audit.objects.count() == 1
        assert "not stuck any more" in page

    def test_only_a_stuck_run_shows_the_door(self, stuck: Run, chief: Client) -> None:
        live = factories.undoing_run(now=timezone.now())
        assert url(stuck) in chief.get(reverse("admin:backoffice_run", args=[stuck.pk])).content.decode()
        html = chief.get(reverse("admin:backoffice_run", args=[live.pk])).content.decode()
        assert url(live) not in html
        assert "Retry now: not while it goes on by itself" in html

    def test_needs_the_permission(self, stuck: Run, newcomer: Client, client: Client) -> None:
        assert newcomer.post(url(stuck), {"reason": "the lock is gone"}).status_code == 403
        assert client.post(url(stuck), {"reason": "the lock is gone"}).status_code == 302
        assert Run.objects.get().status == RunStatus.STUCK

    def test_needs_the_forms_token(self, stuck: Run, chief: Client) -> None:
        strict = Client(enforce_csrf_checks=True)
        strict.cookies = chief.cookies
        assert strict.post(url(stuck), {"reason": "the lock is gone"}).status_code == 403
        assert Run.objects.get().status == RunStatus.STUCK

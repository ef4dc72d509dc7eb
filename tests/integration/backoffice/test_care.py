"""Taking and silencing a group on the pages: a reason or a note, a POST, and never a change on GET."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.saga import bulk, incidents, selection
from apps.saga.models import Audit, Incident
from apps.saga.triage import Action, wanted
from tests import factories

pytestmark = pytest.mark.django_db
WHY = "the partner works on it"


@pytest.fixture
def group(db: None) -> Incident:
    factories.stuck_run(now=timezone.now())
    assert incidents.adopt() == 1
    return Incident.objects.get()


def url(group: Incident, do: str) -> str:
    return f"{reverse('admin:backoffice_triage_care')}?do={do}&incident={group.pk}"


class TestDoors:
    def test_open_for_those_who_may_and_change_nothing(
        self, chief: Client, newcomer: Client, client: Client, group: Incident
    ) -> None:
        for do in ("take", "release", "silence", "unsilence"):
            assert chief.get(url(group, do)).status_code == 200
            assert newcomer.get(url(group, do)).status_code == 403
            assert newcomer.post(url(group, do), {"reason": WHY}).status_code == 403
            assert client.get(url(group, do)).status_code == 302
        for odd in (url(group, "odd"), url(group, "take") + "0", reverse("admin:backoffice_triage_care")):
            assert chief.get(odd).status_code == 404
        assert not Audit.objects.exists()

    def test_the_lists_of_the_admin_show_them(self, chief: Client, newcomer: Client, group: Incident) -> None:
        for model in ("incident", "bulkaction"):
            address = reverse(f"admin:saga_{model}_changelist")
            for query in ("", "?care=mine", "?care=unowned", "?care=silenced", "?q=R1", "?action__exact=retry"):
                assert chief.get(address + query).status_code in {200, 302}, (model, query)
            assert newcomer.get(address).status_code == 403
        text = chief.get(reverse("admin:saga_incident_changelist") + "?care=unowned").content.decode()
        assert group.error_code in text


class TestCare:
    def test_a_group_is_taken_noted_and_stands_among_mine(self, chief: Client, group: Incident) -> None:
        page: Any = chief.post(url(group, "take"), {"note": "asks the partner"}, follow=True)
        assert "It is yours." in page.content.decode()
        assert "asks the partner" in page.content.decode()
        triage = reverse("admin:backoffice_triage")
        assert len(chief.get(f"{triage}?tab=mine").context["page"].groups) == 1
        assert len(chief.get(f"{triage}?tab=unowned").context["page"].groups) == 0

    def test_what_somebody_took_meanwhile_is_not_taken_from_them(self, chief: Client, group: Incident) -> None:
        Incident.objects.update(owner="user:ana")
        page: Any = chief.post(url(group, "take"), {"instead_of": ""}, follow=True)
        assert "R576: ana sees to it." in page.content.decode()
        chief.post(url(group, "take"), {"instead_of": "user:ana"})
        assert Incident.objects.get().owner == "user:chief"

    def test_a_silence_clears_badge_and_home_and_has_a_tab(self, chief: Client, group: Incident) -> None:
        assert chief.post(url(group, "silence"), {"hours": "4"}).status_code == 422
        assert chief.post(url(group, "silence"), {"hours": "999", "reason": WHY}).status_code == 422
        chief.post(url(group, "silence"), {"hours": "4", "reason": WHY})
        page = chief.get(reverse("admin:backoffice_triage"))
        assert page.context["page"].title == "No group is open."
        assert page.context["page"].counts == {"open": 0, "mine": 0, "unowned": 0, "silenced": 1}
        silenced = chief.get(reverse("admin:backoffice_triage") + "?tab=silenced")
        assert WHY in silenced.content.decode()
        assert chief.get("/admin/").context["home"].needs == ()
        chief.post(url(group, "unsilence"))
        assert chief.get(reverse("admin:backoffice_triage")).context["page"].counts["open"] == 1


def test_an_action_is_found_in_the_list(chief: Client, group: Incident) -> None:
    action = bulk.request(
        selection.Selection(incident_id=group.pk), wanted(Action.RETRY), reason=WHY, by="user:ana", now=timezone.now()
    )
    text = chief.get(reverse("admin:saga_bulkaction_changelist") + "?q=ana").content.decode()
    assert str(action) in text
    assert WHY in text

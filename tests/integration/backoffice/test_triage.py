"""The triage pages: who may see and act, that nothing happens on GET, and that a mistake changes nothing."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.saga import bulk, incidents
from apps.saga.models import Audit, BulkAction, Incident, Run, RunStatus
from tests import factories

pytestmark = pytest.mark.django_db(transaction=True)
WHY = "the lock is gone since 22:12"
LIST_QUERIES_MAX = 40  # with two groups; each costs five


@pytest.fixture
def stuck(transactional_db: None) -> list[Run]:
    runs = [factories.stuck_run(now=timezone.now()) for _ in range(3)]
    assert incidents.adopt() == 1
    return runs


@pytest.fixture
def group(stuck: list[Run]) -> Incident:
    return Incident.objects.get()


def act_url(**query: Any) -> str:
    return reverse("admin:backoffice_triage_act") + "?" + "&".join(f"{name}={value}" for name, value in query.items())


def hidden(page: Any, name: str) -> str:
    text: str = page.content.decode()
    start = text.index(f'name="{name}" value="') + len(f'name="{name}" value="')
    return text[start : text.index('"', start)].replace("&#x3D;", "=").replace("&#x2B;", "+")


def post(client: Client, url: str, **form: Any) -> Any:
    page = client.get(url)
    seen, expected = hidden(page, "seen"), hidden(page, "expected")
    return client.post(url, {"seen": seen, "expected": expected, "reason": WHY, **form})


class TestDoors:
    def pages(self, group: Incident, action: BulkAction) -> list[str]:
        return [
            reverse("admin:backoffice_triage"),
            reverse("admin:backoffice_triage_live"),
            reverse("admin:backoffice_triage") + "?tab=handled",
            reverse("admin:backoffice_triage") + "?tab=approvals",
            reverse("admin:backoffice_triage") + "?tab=odd&q=%00R1",
            reverse("admin:backoffice_triage_group", args=[group.pk]),
            reverse("admin:backoffice_triage_group_live", args=[group.pk]),
            reverse("admin:backoffice_triage_action", args=[action.pk]),
            reverse("admin:backoffice_triage_action_live", args=[action.pk]) + "?status=odd&after=odd",
            *(act_url(action=verb, incident=group.pk) for verb in ("retry", "compensate", "skip", "handle")),
        ]

    def test_open_for_those_who_may_and_change_nothing(
        self, chief: Client, newcomer: Client, client: Client, stuck: list[Run], group: Incident
    ) -> None:
        post(chief, act_url(action="compensate", incident=group.pk), how="all", typed="3")
        before = list(Run.objects.order_by("pk").values())
        for url in self.pages(group, BulkAction.objects.get()):
            assert chief.get(url).status_code == 200, url
            assert newcomer.get(url).status_code == 403, url
            assert client.get(url).status_code == 302, url
        for name in ("approve", "cancel"):
            url = reverse(f"admin:backoffice_triage_action_{name}", args=[BulkAction.objects.get().pk])
            assert newcomer.post(url, {"reason": WHY}).status_code == 403
        assert list(Run.objects.order_by("pk").values()) == before

    def test_who_may_only_look_sees_a_locked_door(self, stuck: list[Run], group: Incident) -> None:
        user = User.objects.create_user("auditor", password="a long one", is_staff=True)
        user.user_permissions.add(Permission.objects.get(codename="view_run"))
        client = Client()
        client.force_login(user)
        page = client.get(reverse("admin:backoffice_triage")).content.decode()
        assert "you lack the permission" in page
        assert client.get(act_url(action="retry", incident=group.pk)).status_code == 403
        assert client.post(act_url(action="retry", incident=group.pk), {"reason": WHY}).status_code == 403

    def test_what_is_unknown_is_not_found(self, chief: Client, stuck: list[Run], group: Incident) -> None:
        nobody = "00000000-0000-0000-0000-000000000001"
        for url in (
            reverse("admin:backoffice_triage_group", args=[nobody]),
            reverse("admin:backoffice_triage_action", args=[nobody]),
            act_url(action="retry"),
            act_url(action="explode", incident=group.pk),
            act_url(action="retry", incident="odd"),
            act_url(action="retry", run=nobody),
            act_url(action="retry", run=stuck[0].subject_id),
            act_url(action="retry", run=stuck[0].pk, incident=group.pk),
        ):
            assert chief.get(url).status_code == 404, url

    def test_the_list_does_not_ask_too_much(
        self, chief: Client, stuck: list[Run], django_assert_max_num_queries: Any
    ) -> None:
        with django_assert_max_num_queries(LIST_QUERIES_MAX):
            chief.get(reverse("admin:backoffice_triage"))


class TestAct:
    def test_of_a_group_without_runs_leads_to_its_closing(self, chief: Client, stuck: list[Run], group: Incident) -> None:
        Run.objects.update(status=RunStatus.COMPLETED, finished_at=timezone.now(), due_at=None)
        page = chief.get(act_url(action="retry", incident=group.pk)).content.decode()
        door = act_url(incident=group.pk, action="handle").replace("&", "&amp;")
        assert "Nothing would be done." in page
        assert "The cause is still there." not in page
        assert "only the group is closed" not in page
        assert f'href="{door}"' in page
        assert "only the group is closed" in chief.get(act_url(action="handle", incident=group.pk)).content.decode()

    def test_does_it_and_shows_the_outcomes(self, chief: Client, stuck: list[Run], group: Incident) -> None:
        answer = post(chief, act_url(action="retry", incident=group.pk), how="all", typed="3")
        action = BulkAction.objects.get()
        assert answer["Location"] == reverse("admin:backoffice_triage_action", args=[action.pk])
        assert set(Run.objects.values_list("status", flat=True)) == {RunStatus.RUNNING}
        assert Audit.objects.filter(action="retry", actor="user:chief", reason=WHY).count() == 3

    @pytest.mark.parametrize(
        ("form", "says"),
        [
            ({"how": "all", "typed": ""}, "Type 3 to confirm"),
            ({"how": "all", "typed": "37"}, "Type 3 to confirm"),
            ({"how": "all", "typed": "3", "reason": ""}, "Say why"),
            ({"how": "all", "typed": "3", "reason": "ok"}, "a few words"),
            ({"how": "first", "given": "{"}, "This is no JSON."),
            ({"how": "first", "given": "[" * 100_000}, "at most 20000 characters"),
            ({"how": "first", "given": "[]"}, "is a JSON object"),
        ],
    )
    def test_asks_again_when_something_is_missing(
        self, chief: Client, stuck: list[Run], group: Incident, form: dict[str, str], says: str
    ) -> None:
        answer = post(chief, act_url(action="retry", incident=group.pk), **form)
        assert answer.status_code == 422
        assert says in answer.content.decode()
        assert not BulkAction.objects.exists()

    def test_means_only_the_runs_that_were_seen(self, chief: Client, stuck: list[Run], group: Incident) -> None:
        url = act_url(action="retry", incident=group.pk)
        seen = hidden(chief.get(url), "seen")
        late = factories.stuck_run(now=timezone.now())
        chief.post(url, {"seen": seen, "reason": WHY, "how": "all", "typed": "3"})
        assert Run.objects.get(pk=late.pk).status == RunStatus.STUCK
        assert Run.objects.filter(status=RunStatus.RUNNING).count() == 3

    @pytest.mark.parametrize("seen", ["", "odd", "AAAA"])
    def test_a_forged_list_of_runs_means_nobody_else(
        self, chief: Client, stuck: list[Run], group: Incident, seen: str
    ) -> None:
        chief.post(act_url(action="retry", incident=group.pk), {"seen": seen, "reason": WHY, "how": "all", "typed": "3"})
        assert not Run.objects.filter(status=RunStatus.RUNNING).exists()

    def test_of_a_run_that_moved_on_does_nothing(self, chief: Client, stuck: list[Run]) -> None:
        url = act_url(action="retry", run=stuck[0].pk)
        page = chief.get(url)
        form = {"seen": hidden(page, "seen"), "expected": hidden(page, "expected"), "reason": WHY}
        chief.post(url, form)
        Run.objects.filter(pk=stuck[0].pk).update(status=RunStatus.STUCK, due_at=None, cursor=1)
        answer = chief.post(url, form, follow=True)
        assert "Nothing done: The run has moved on" in answer.content.decode()
        assert Run.objects.get(pk=stuck[0].pk).status == RunStatus.STUCK
        assert BulkAction.objects.count() == 1

    def test_closing_the_group_handles_it(self, chief: Client, stuck: list[Run], group: Incident) -> None:
        post(chief, act_url(action="handle", incident=group.pk), how="all", typed="3")
        assert set(Run.objects.values_list("status", flat=True)) == {RunStatus.HANDLED}
        page = chief.get(reverse("admin:backoffice_triage")).content.decode()
        assert "No group is open." in page
        handled = chief.get(reverse("admin:backoffice_triage") + "?tab=handled").content.decode()
        assert f"Handled by chief: {WHY}" in handled

    def test_needs_the_forms_token(self, chief: Client, stuck: list[Run], group: Incident) -> None:
        strict = Client(enforce_csrf_checks=True)
        strict.cookies = chief.cookies
        assert strict.post(act_url(action="retry", incident=group.pk), {"reason": WHY}).status_code == 403


class TestFromTheRun:
    @pytest.mark.parametrize(
        ("word", "title"), [("edit", "Retry"), ("compensate", "Undo"), ("skip", "Skip"), ("handled", "Close by hand")]
    )
    def test_every_offer_leads_to_its_dry_run(self, chief: Client, stuck: list[Run], word: str, title: str) -> None:
        run_page = chief.get(reverse("admin:backoffice_run", args=[stuck[0].pk])).content.decode()
        url = reverse(f"admin:backoffice_run_{word}", args=[stuck[0].pk])
        # A door that is closed says why, and its page says it again.
        assert ("it has passed its pivot" if word == "compensate" else f'href="{url}"') in run_page
        page = chief.get(url, follow=True).content.decode()
        assert f"{title} " in page
        assert "What would happen" in page
        assert Run.objects.filter(status=RunStatus.STUCK).count() == 3

    def test_is_closed_to_those_who_may_not(self, newcomer: Client, stuck: list[Run]) -> None:
        assert newcomer.get(reverse("admin:backoffice_run_skip", args=[stuck[0].pk])).status_code == 403


class TestApprove:
    def test_by_another_person_only(self, chief: Client, stuck: list[Run], group: Incident, settings: Any) -> None:
        settings.SAGA_FOUR_EYES = ["retry"]
        post(chief, act_url(action="retry", incident=group.pk), how="all", typed="3")
        action = BulkAction.objects.get()
        url = reverse("admin:backoffice_triage_action_approve", args=[action.pk])
        assert chief.get(url).status_code == 302
        assert "a second person must" in chief.post(url, follow=True).content.decode()
        assert not Run.objects.filter(status=RunStatus.RUNNING).exists()
        other = Client()
        other.force_login(User.objects.create_superuser("finance", password="a long one"))
        told, home = "1 action waits for a second person", reverse("admin:index")
        assert told in other.get(home).content.decode()
        assert told not in chief.get(home).content.decode()
        assert "Done." in other.post(url, follow=True).content.decode()
        assert Run.objects.filter(status=RunStatus.RUNNING).count() == 3

    def test_and_cancel_asks_why(self, chief: Client, stuck: list[Run], group: Incident, settings: Any) -> None:
        settings.SAGA_FOUR_EYES = ["retry"]
        post(chief, act_url(action="retry", incident=group.pk), how="first")
        action = BulkAction.objects.get()
        url = reverse("admin:backoffice_triage_action_cancel", args=[action.pk])
        assert "say why" in chief.post(url, {"reason": ""}, follow=True).content.decode()
        assert "Stopped by chief." in chief.post(url, {"reason": WHY}, follow=True).content.decode()
        assert bulk.work(action.pk, now=timezone.now() + timedelta(minutes=1)) == 0


class TestAdopt:
    def test_finds_runs_in_trouble_from_before_there_were_incidents(self, stuck: list[Run], group: Incident) -> None:
        run = stuck[0]
        assert (group.use_case, group.step, group.error_code) == (run.use_case, run.failed_step, run.error_code)
        assert (group.count, group.detail) == (3, run.error_detail)
        assert incidents.adopt() == 0

"""The pages of the use cases: what they tell, and that pausing is a form with a reason, never a link."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.saga import pauses
from apps.saga.definition import PIVOT, Definition
from apps.saga.models import Audit, Pause, Run
from tests.integration.saga.test_engine import Story, ask, local
from tests.integration.saga.world import REASON, TOY, begin, registered, toy, with_breaker
from tests.saga_driver import work

pytestmark = pytest.mark.django_db(transaction=True)
PAGE = reverse("admin:backoffice_use_case", args=[TOY])
PAUSE = reverse("admin:backoffice_use_case_pause", args=[TOY])
RESUME = reverse("admin:backoffice_use_case_resume", args=[TOY])
RUNS = reverse("admin:saga_run_changelist")


@pytest.fixture(autouse=True)
def made(transactional_db: None) -> Iterator[Definition]:
    story = Story()
    found = toy(local(story, "a"), with_breaker(ask(story, "b")), local(story, "c", PIVOT), story=story)
    with registered(found):
        yield found


@pytest.fixture
def looker(transactional_db: None) -> Client:
    """Somebody who may look at runs, and no more."""
    user = User.objects.create_user("looker", password="a long one", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_run"))
    client = Client()
    client.force_login(user)
    return client


def html(client: Client, url: str = PAGE) -> str:
    answered = client.get(url)
    assert answered.status_code == 200
    return answered.content.decode()


class TestPages:
    def test_list_every_use_case_with_its_owner(self, chief: Client, made: Definition) -> None:
        begin(made)
        page = html(chief, reverse("admin:backoffice_use_cases"))
        assert PAGE in page
        assert "orders.purchase.card" in page
        assert "10 s · 1 min 00 s" in page.replace("\u00a0", " ")

    def test_show_the_steps_as_a_drawing_and_the_terms(self, chief: Client, made: Definition) -> None:
        page = html(chief)
        assert 'aria-label="Map of test.toy.' in page
        assert "It runs." in page
        assert "Nobody had to." in page

    def test_are_shown_to_whoever_may_see_runs(self, newcomer: Client, looker: Client, client: Client) -> None:
        for url in (PAGE, reverse("admin:backoffice_use_cases")):
            assert newcomer.get(url).status_code == 403
            assert looker.get(url).status_code == 200
            assert client.get(url).status_code == 302

    def test_of_an_unknown_use_case_are_not_found(self, chief: Client) -> None:
        for name in ("backoffice_use_case", "backoffice_use_case_pause", "backoffice_use_case_resume"):
            assert chief.post(reverse(f"admin:{name}", args=["test.nowhere"])).status_code == 404


class TestPause:
    @pytest.mark.parametrize(
        ("what", "step", "refuses", "says"),
        [
            ("wait", "", False, "Paused: new runs wait."),
            ("refuse", "", True, "Paused: new runs are refused."),
            ("step:b", "b", False, "No run begins b."),
        ],
    )
    def test_does_what_the_form_says_and_says_so(
        self, chief: Client, what: str, step: str, refuses: bool, says: str
    ) -> None:
        assert chief.post(PAUSE, {"what": what, "reason": REASON})["Location"] == PAGE
        row = Pause.objects.get()
        assert (row.step, row.refuses, row.paused_by, row.reason) == (step, refuses, "user:chief", REASON)
        page = html(chief)
        assert says in page
        assert REASON in page
        assert f'value="{what}"' not in page, "what is paused is not offered again"

    @pytest.mark.parametrize(
        "form", [{}, {"what": "wait"}, {"what": "wait", "reason": "no"}, {"what": "step:z", "reason": REASON}]
    )
    def test_asks_for_what_is_missing(self, chief: Client, form: dict[str, str]) -> None:
        answered = chief.post(PAUSE, form)
        if form:
            assert answered.status_code == 422
            assert 'role="alert"' in answered.content.decode()
        assert not Pause.objects.exists()

    def test_looking_at_its_address_changes_nothing(self, chief: Client) -> None:
        for url in (PAUSE, RESUME):
            assert chief.get(url, {"what": "wait", "reason": REASON})["Location"] == PAGE
        assert not Pause.objects.exists()

    def test_by_somebody_else_meanwhile_is_told(self, chief: Client) -> None:
        pauses.pause(TOY, "b", reason=REASON, by="user:other", now=timezone.now())
        answered = chief.post(PAUSE, {"what": "step:b", "reason": REASON})
        assert answered.status_code == 422, "it is not offered any more"
        assert Pause.objects.count() == 1

    def test_needs_the_permission_and_the_forms_token(self, looker: Client, chief: Client) -> None:
        assert looker.post(PAUSE, {"what": "wait", "reason": REASON}).status_code == 403
        assert "you lack the permission" in html(looker)
        strict = Client(enforce_csrf_checks=True)
        strict.cookies = chief.cookies
        assert strict.post(PAUSE, {"what": "wait", "reason": REASON}).status_code == 403
        assert not Pause.objects.exists()


class TestResume:
    def test_lets_go_what_the_page_showed(self, chief: Client, made: Definition) -> None:
        chief.post(PAUSE, {"what": "wait", "reason": REASON})
        run_id = begin(made)
        page = html(chief)
        assert "1 run waits and goes on by itself when it is resumed." in page.replace("\u00a0", " ")
        made_pause = Pause.objects.get()
        assert f'value="{made_pause.pk}"' in page
        assert chief.post(RESUME, {"pause": str(made_pause.pk), "reason": "it is over"})["Location"] == PAGE
        assert Run.objects.get(pk=run_id).held_by is None
        assert list(Audit.objects.order_by("id").values_list("action", "actor")) == [
            ("pause", "user:chief"),
            ("resume", "user:chief"),
        ]
        page = html(chief)
        assert "It runs." in page
        assert "it is over" in page

    def test_of_a_page_that_is_out_of_date_does_nothing(self, chief: Client) -> None:
        for pause_id in (str(uuid4()), "", "nonsense"):
            pauses.forget()
            chief.post(PAUSE, {"what": "wait", "reason": REASON})
            chief.post(RESUME, {"pause": pause_id, "reason": "it is over"})
        assert Pause.objects.get().lifted_at is None
        assert "this pause is over" in html(chief)

    def test_asks_for_a_reason(self, chief: Client) -> None:
        chief.post(PAUSE, {"what": "step:b", "reason": REASON})
        answered = chief.post(RESUME, {"pause": str(Pause.objects.get().pk), "reason": "no"})
        assert answered.status_code == 422
        assert 'role="alert"' in answered.content.decode()
        assert Pause.objects.get().lifted_at is None

    def test_needs_the_permission(self, chief: Client, looker: Client) -> None:
        chief.post(PAUSE, {"what": "wait", "reason": REASON})
        assert looker.post(RESUME, {"pause": str(Pause.objects.get().pk), "reason": "it is over"}).status_code == 403
        assert Pause.objects.get().lifted_at is None


class TestRuns:
    def test_a_held_run_says_so(self, chief: Client, made: Definition) -> None:
        pauses.pause(TOY, "b", reason=REASON, by="user:chief", now=timezone.now())
        run_id = begin(made)
        work(run_id)
        page = html(chief, reverse("admin:backoffice_run", args=[run_id]))
        assert "a pause stands before b." in page
        assert "It goes on by itself when the pause is lifted." in page

    def test_are_found_by_how_they_are_and_counted(self, chief: Client, made: Definition) -> None:
        pauses.pause(TOY, "b", reason=REASON, by="user:chief", now=timezone.now())
        held, waiting = begin(made, key="held one"), begin(made, key="other one")
        work(held)
        page = html(chief, f"{RUNS}?needs=held")
        assert "held one" in page
        assert "other one" not in page
        assert ">1 run<" in page
        assert ">2 runs<" in html(chief, RUNS)
        Run.objects.filter(pk=waiting).update(started_at=timezone.now() - 2 * made.sla.deadline if made.sla else None)
        assert "other one" in html(chief, f"{RUNS}?needs=late")
        assert "other one" not in html(chief, f"{RUNS}?needs=in_error")

    def test_are_found_by_the_key_of_their_request(self, chief: Client, made: Definition) -> None:
        run_id = begin(made, key="order 7")
        begin(made, key="order 8")
        Run.objects.filter(pk=run_id).update(idempotency_key="req 7")
        page = html(chief, f"{RUNS}?q=req+7")
        assert "order 7" in page
        assert "order 8" not in page

    def test_pauses_and_interventions_have_lists_that_nobody_changes(self, chief: Client) -> None:
        chief.post(PAUSE, {"what": "step:b", "reason": REASON})
        for model, key in (("pause", Pause.objects.get().pk), ("audit", Audit.objects.get().pk)):
            assert REASON in html(chief, reverse(f"admin:saga_{model}_changelist"))
            assert REASON in html(chief, reverse(f"admin:saga_{model}_change", args=[key]))
            assert chief.get(reverse(f"admin:saga_{model}_add")).status_code == 403

"""The pages of approvals: a question, its facts, two buttons and a reason; for those whose it is to decide."""

import re
from collections.abc import Iterator
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.saga.definition import Definition
from apps.saga.models import Approval, Audit, Run, RunStatus
from tests.integration.saga.test_approvals import question
from tests.integration.saga.test_engine import Story, ask, local
from tests.integration.saga.test_timers import begin
from tests.integration.saga.world import REASON, registered, toy

pytestmark = pytest.mark.django_db(transaction=True)
LIST = reverse("admin:backoffice_approvals")


@pytest.fixture(name="made", autouse=True)
def a_toy(transactional_db: None) -> Iterator[Definition]:
    story = Story()
    with registered(made := toy(local(story, "a"), question(story), ask(story, "b"), story=story)):
        yield made


@pytest.fixture
def boss(transactional_db: None) -> Client:
    """One of the group that decides, who may do nothing else."""
    user = User.objects.create_user("boss", password="a long one", is_staff=True)
    user.groups.add(Group.objects.create(name="bosses"))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def looker(transactional_db: None) -> Client:
    user = User.objects.create_user("looker", password="a long one", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_approval"))
    client = Client()
    client.force_login(user)
    return client


def page_of() -> str:
    return reverse("admin:backoffice_approval", args=[Approval.objects.get().pk])


def html(client: Client, url: str) -> str:
    answered = client.get(url)
    assert answered.status_code == 200
    return answered.content.decode()


class TestLook:
    def test_whoever_decides_sees_what_is_his(self, boss: Client, made: Definition) -> None:
        begin(made, now=timezone.now())
        assert "Shall toy go on?" in html(boss, LIST)
        page = html(boss, page_of())
        assert "You decide." in page
        assert "1.00" in page
        assert 'value="approve"' in page
        assert 'value="refuse"' in page
        run = reverse("admin:backoffice_run", args=[Run.objects.get().pk])
        assert run not in page + html(boss, LIST), "a door that is closed to him"

    def test_whoever_may_look_sees_all_and_decides_nothing(self, looker: Client, made: Definition) -> None:
        begin(made, now=timezone.now())
        assert "the group bosses" in html(looker, LIST)
        page = html(looker, page_of())
        assert "The group bosses decides." in page
        assert "the group bosses decides this" in page
        assert 'value="approve"' not in page
        assert looker.post(page_of(), {"decision": "approve", "reason": REASON}).status_code == 403

    def test_others_see_nothing(self, newcomer: Client, client: Client, made: Definition) -> None:
        begin(made, now=timezone.now())
        assert "Nothing waits for a decision." in html(newcomer, LIST)
        assert newcomer.get(page_of()).status_code == 403
        assert client.get(LIST).status_code == 302

    def test_of_an_unknown_one_is_not_found(self, chief: Client) -> None:
        assert chief.get(reverse("admin:backoffice_approval", args=[uuid4()])).status_code == 404

    def test_the_lists_of_the_admin_show_them(self, chief: Client, made: Definition) -> None:
        begin(made, now=timezone.now())
        assert "Shall toy go on?" in html(chief, reverse("admin:saga_approval_changelist"))
        assert "Shall toy go on?" in html(chief, reverse("admin:saga_approval_changelist") + "?q=toy")
        assert "No run holds a key." in html(chief, reverse("admin:saga_lock_changelist"))
        html(chief, reverse("admin:saga_approval_change", args=[Approval.objects.get().pk]))


class TestRun:
    def test_leads_whoever_decides_to_the_question_and_tells_the_others_who_does(
        self, chief: Client, made: Definition
    ) -> None:
        run = reverse("admin:backoffice_run", args=[begin(made, now=timezone.now())])
        assert "Decide: the group bosses" in html(chief, run)
        chief_user = User.objects.get(username="chief")
        chief_user.groups.add(Group.objects.create(name="bosses"))
        door = f'href="{page_of()}">'
        assert re.search(re.escape(door) + r"<svg.*?</svg>Decide…", html(chief, run), re.DOTALL)
        chief.post(page_of(), {"decision": "approve", "reason": REASON})
        assert "Decide" not in html(chief, run)


class TestHome:
    def test_calls_whoever_decides_and_nobody_else(self, boss: Client, newcomer: Client, made: Definition) -> None:
        begin(made, now=timezone.now())
        home = reverse("admin:index")
        assert "1 approval waits for you" in html(boss, home)
        assert "waits for you" not in html(newcomer, home)

    def test_does_not_say_that_all_is_well_to_somebody_who_may_not_know(self, newcomer: Client, chief: Client) -> None:
        for page, knows in ((html(newcomer, reverse("admin:index")), False), (html(chief, reverse("admin:index")), True)):
            assert ("No run is stuck" in page, "Nothing is stuck" in page) == (knows, knows)


class TestDecide:
    @pytest.mark.parametrize(
        ("decision", "status", "run"),
        [("approve", "APPROVED", RunStatus.WAITING), ("refuse", "REFUSED", RunStatus.COMPENSATING)],
    )
    def test_a_button_with_a_reason_does_it(
        self, boss: Client, made: Definition, decision: str, status: str, run: str
    ) -> None:
        run_id = begin(made, now=timezone.now())
        assert boss.post(page_of(), {"decision": decision, "reason": REASON})["Location"] == page_of()
        row = Approval.objects.get()
        assert (row.status, row.decided_by, row.reason) == (status, "user:boss", REASON)
        assert Audit.objects.get(run_id=run_id).actor == "user:boss"
        if run == RunStatus.COMPENSATING:
            assert Run.objects.get().status == run
        page = html(boss, page_of())
        assert f"boss: {REASON}" in page
        assert "user:boss" not in page
        assert 'value="approve"' not in page

    @pytest.mark.parametrize(
        "form", [{}, {"decision": "approve"}, {"decision": "approve", "reason": "ok"}, {"decision": "x", "reason": REASON}]
    )
    def test_asks_for_what_is_missing(self, boss: Client, made: Definition, form: dict[str, str]) -> None:
        begin(made, now=timezone.now())
        answered = boss.post(page_of(), form)
        assert answered.status_code == 422
        assert 'role="alert"' in answered.content.decode()
        assert Approval.objects.get().status == "OPEN"

    def test_a_stale_page_changes_nothing(self, boss: Client, made: Definition) -> None:
        begin(made, now=timezone.now())
        boss.post(page_of(), {"decision": "refuse", "reason": REASON})
        answered = boss.post(page_of(), {"decision": "approve", "reason": REASON}, follow=True)
        assert "Nothing done: user:boss has decided: refused." in answered.content.decode()
        assert Approval.objects.get().status == "REFUSED"

    def test_looking_changes_nothing(self, boss: Client, made: Definition) -> None:
        begin(made, now=timezone.now())
        boss.get(page_of(), {"decision": "approve", "reason": REASON})
        assert Approval.objects.get().status == "OPEN"

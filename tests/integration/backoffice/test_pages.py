"""The pages of the back office: they answer, they hide what must be hidden, and they do not ask too much."""

import re
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib import admin
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.ledger import public as ledger
from apps.ledger.care_models import Check, Difference
from apps.ledger.chain_models import Patrol
from apps.orders.models import Order, OrderReturn
from apps.saga.models import Run
from tests import factories

pytestmark = pytest.mark.django_db

# Session, user and permissions cost 4; a run page asks each of seven neighbours once or twice.
RUN_QUERIES_MAX = 32
# The last ones: decisions, second persons, when the whole ledger was proven, its chain, whether there is a contingency.
HOME_QUERIES_MAX = 27
LIST_QUERIES_MAX = 12


@pytest.fixture
def runs() -> list[Run]:
    now = timezone.now()
    return [factories.undoing_run(now=now), factories.stuck_run(now=now), factories.completed_run(now=now)]


def run_url(run: Run) -> str:
    return reverse("admin:backoffice_run", args=[run.pk])


def pages() -> list[str]:
    """Every list of the admin."""
    names = sorted(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist" for model in admin.site._registry)
    return ["admin:index", *names]


class TestDoors:
    @pytest.mark.parametrize("name", pages())
    def test_every_list_answers_somebody_who_may_see_it(self, chief: Client, runs: list[Run], name: str) -> None:
        answer = chief.get(reverse(name))
        assert answer.status_code == 200

    @pytest.mark.parametrize("name", ["admin:index", "admin:saga_run_changelist"])
    def test_a_stranger_is_sent_to_the_login(self, client: Client, name: str) -> None:
        answer = client.get(reverse(name))
        assert answer.status_code == 302
        assert reverse("admin:login") in answer["Location"]

    def test_a_stranger_sees_no_run(self, client: Client, runs: list[Run]) -> None:
        for page in ("backoffice_run", "backoffice_run_live"):
            answer = client.get(reverse(f"admin:{page}", args=[runs[0].pk]))
            assert answer.status_code == 302
        assert client.get(reverse("admin:backoffice_home_live")).status_code == 302

    def test_somebody_without_the_permission_sees_no_run(self, newcomer: Client, runs: list[Run]) -> None:
        assert newcomer.get(run_url(runs[0])).status_code == 403

    def test_somebody_without_permissions_gets_a_home_without_numbers(self, newcomer: Client, runs: list[Run]) -> None:
        html = newcomer.get(reverse("admin:index")).content.decode()
        assert 'bo-tile"' not in html
        assert "1,284.50" not in html

    def test_a_run_that_is_none_is_not_found(self, chief: Client) -> None:
        assert chief.get("/admin/runs/01234567-89ab-7cde-8123-456789abcdef/").status_code == 404

    def test_the_order_of_a_run_is_no_name_of_its_page(self, chief: Client, runs: list[Run]) -> None:
        assert chief.get(reverse("admin:backoffice_run", args=[runs[0].subject_id])).status_code == 404

    def test_the_plain_page_of_a_run_leads_to_its_timeline(self, chief: Client, runs: list[Run]) -> None:
        answer = chief.get(reverse("admin:saga_run_change", args=[runs[0].pk]))
        assert answer["Location"] == run_url(runs[0])

    @pytest.mark.parametrize("model", ["saga_run", "orders_order", "messaging_message"])
    def test_nothing_can_be_added_or_deleted(self, chief: Client, model: str) -> None:
        assert chief.get(reverse(f"admin:{model}_add")).status_code == 403


class TestRun:
    def test_says_what_happened_in_words(self, chief: Client, runs: list[Run]) -> None:
        html = chief.get(run_url(runs[0])).content.decode()
        assert "Issue fiscal doc was refused (R412)" in html
        assert "Undoing authorise payment, attempt 4." in html
        assert "R$\u00a0486.00" in html
        assert "2 × Noite do Samba" in html

    def test_shows_no_card_number_no_secret_and_no_whole_cpf(self, chief: Client, runs: list[Run]) -> None:
        for tab in ("steps", "messages", "data"):
            html = chief.get(run_url(runs[0]), {"tab": tab}).content.decode()
            for hidden in ("4242424242424242", '123"', factories.CPF, "390.533.447-05", "tok_1234567890abcdef"):
                assert hidden not in html, (tab, hidden)
        assert "•••.•••.447\u2011••" in html

    def test_draws_every_attempt_and_every_step_that_never_began(self, chief: Client, runs: list[Run]) -> None:
        html = chief.get(run_url(runs[0])).content.decode()
        assert html.count("<title>undo authorise_payment: attempt") == 4
        assert html.count(">never begun</text>") == 3
        assert ">now</text>" in html

    def test_a_live_run_is_asked_again_and_a_finished_one_is_not(self, chief: Client, runs: list[Run]) -> None:
        live, over = chief.get(run_url(runs[0])).content.decode(), chief.get(run_url(runs[2])).content.decode()
        assert "data-live-url" in live
        assert "backoffice/live.js" in live
        assert "data-live-url" not in over
        assert "backoffice/live.js" not in over

    def test_the_parts_come_without_the_page(self, chief: Client, runs: list[Run]) -> None:
        html = chief.get(reverse("admin:backoffice_run_live", args=[runs[0].pk])).content.decode()
        assert "<html" not in html
        ids = re.findall(r'id="([^"]+)" data-live-part', html)
        assert ids == ["run-head", "run-timeline", "run-tabs", "run-postings", "run-actions", "run-money"]
        assert "data-live-over" not in html
        over = chief.get(reverse("admin:backoffice_run_live", args=[runs[2].pk])).content.decode()
        assert "data-live-over" in over

    def test_an_unknown_tab_shows_the_steps(self, chief: Client, runs: list[Run]) -> None:
        assert "The steps of this run" in chief.get(run_url(runs[0]), {"tab": "nonsense"}).content.decode()

    def test_needs_a_bounded_number_of_queries(
        self, chief: Client, runs: list[Run], django_assert_max_num_queries: object
    ) -> None:
        for run in runs:
            with django_assert_max_num_queries(RUN_QUERIES_MAX):  # type: ignore[operator]
                chief.get(run_url(run))

    def test_has_no_script_in_the_page(self, chief: Client, runs: list[Run]) -> None:
        html = chief.get(run_url(runs[0])).content.decode()
        main = html[html.index('<div class="bo" id="run"') : html.index("simplebar.js")]
        assert main.count("<script") == 1, "that of the shell behind it"
        for inline in ("onclick", " style=", "<style"):
            assert inline not in main


class TestEmptyLists:
    @pytest.mark.parametrize("model", [m for m in admin.site._registry if m._meta.app_label != "auth"], ids=str)
    def test_say_what_would_be_there(self, chief: Client, model: Any) -> None:
        list_of = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        assert "This page yielded into no results" not in chief.get(list_of).content.decode()
        assert "This page yielded into no results" not in chief.get(f"{list_of}?q={uuid4()}").content.decode()


class TestHome:
    def test_says_that_nothing_needs_a_person(self, chief: Client) -> None:
        now = timezone.now()
        factories.completed_run(now=now, age=timedelta(seconds=2))
        html = chief.get(reverse("admin:index")).content.decode()
        assert "Nothing needs you." in html

    def test_names_what_needs_a_person_with_its_money_and_its_rows(self, chief: Client, runs: list[Run]) -> None:
        html = chief.get(reverse("admin:index")).content.decode()
        assert "1 thing needs you." in html
        assert "1 run is stuck" in html
        assert "R$\u00a01,284.50" in html
        address = re.search(r'href="(/admin/saga/run/[^"]*needs=stuck[^"]*failed_step[^"]*)"', html)
        assert address is not None
        rows = chief.get(address.group(1).replace("&amp;", "&")).content.decode()
        assert str(runs[1].business_key) in rows
        assert str(runs[0].business_key) not in rows

    def test_names_differences_and_suspensions_of_the_ledger(self, chief: Client) -> None:
        now = timezone.now()
        check = Check.objects.create(kind="FULL", began_at=now)
        for rule in ("one", "two"):
            Difference.objects.create(rule=rule, first_seen=now, last_seen=now, check_run=check)
        with transaction.atomic():
            ledger.suspend(mode="REFUSE", reason="a look", by="ana", now=now)
        html = chief.get(reverse("admin:index")).content.decode().replace("\u00a0", " ")
        assert "2 differences in the ledger" in html
        assert "1 suspension in the ledger" in html
        for door in ("ledger/difference/?state=OPEN", "ledger/suspension/"):
            assert chief.get(f"/admin/{door}").status_code == 200
            assert door in html

    def test_names_a_chain_of_the_ledger_that_is_damaged_first(self, chief: Client, runs: list[Run]) -> None:
        Patrol.objects.create(id=1, damages_before=2, damage="block 7: line 41 is not what was hashed")
        html = chief.get(reverse("admin:index")).content.decode()
        assert "2 things need you." in html
        assert html.index("The chain of the ledger is damaged") < html.index("1 run is stuck")
        assert "block 7: line 41 is not what was hashed" in html
        assert html.count(reverse("admin:ledger_block_changelist")) == 2, "in the menu, and behind the need"

    def test_says_when_the_whole_ledger_was_not_proven_for_days(self, chief: Client) -> None:
        title, now = "The whole ledger was not proven for days", timezone.now()
        row = Check.objects.create(kind="FULL", began_at=now, progress={"stage": "KEYS"}, looked=430, expected=1000)
        assert title not in chief.get(reverse("admin:index")).content.decode()
        Check.objects.filter(pk=row.pk).update(began_at=now - timedelta(days=2, minutes=1))
        html = chief.get(reverse("admin:index")).content.decode()
        assert title in html
        assert "one is at 43 %" in html
        assert "43 % proven" in chief.get(reverse("admin:ledger_check_changelist")).content.decode()
        Check.objects.create(kind="FULL", began_at=now, snapshot_at=now, ended_at=now)
        assert title not in chief.get(reverse("admin:index")).content.decode()

    def test_needs_a_bounded_number_of_queries(
        self, chief: Client, runs: list[Run], django_assert_max_num_queries: object
    ) -> None:
        with django_assert_max_num_queries(HOME_QUERIES_MAX):  # type: ignore[operator]
            chief.get(reverse("admin:index"))

    def test_says_where_customers_wait(self, chief: Client, runs: list[Run]) -> None:
        html = chief.get(reverse("admin:index")).content.decode().replace("\u00a0", " ")
        assert "Step post_sale holds 1 run; it waits 21 min for somebody of orders to decide." in html
        assert reverse("admin:backoffice_use_case", args=["orders.purchase.card"]) in html
        assert "1 in trouble" in html
        assert "<b>2 runs</b>" in html
        assert "2 on the way" not in html, "one is stuck; the headline counts one on the way"
        listed = chief.get(reverse("admin:backoffice_use_cases")).content.decode().replace("\u00a0", " ")
        assert "Step post_sale holds 1 run; it waits 21 min" in listed

    def test_counts_who_is_past_the_deadline(self, chief: Client, runs: list[Run]) -> None:
        html = chief.get(reverse("admin:index")).content.decode()
        tile = html[html.index("Past the deadline") :][:600]
        assert '<span class="bo-v">1</span>' in tile
        assert "2 past the target" in tile

    def test_every_tile_opens_its_rows(self, chief: Client, runs: list[Run]) -> None:
        html = chief.get(reverse("admin:index")).content.decode()
        doors = re.findall(r'bo-tile[^"]*" href="([^"]+)"', html)
        assert len(doors) == 7
        for door in doors:
            assert chief.get(door.replace("&amp;", "&")).status_code == 200


class TestLists:
    @pytest.mark.parametrize("model", ["saga_run", "orders_order", "messaging_message", "messaging_pending"])
    def test_need_a_bounded_number_of_queries(
        self, chief: Client, runs: list[Run], model: str, django_assert_max_num_queries: object
    ) -> None:
        with django_assert_max_num_queries(LIST_QUERIES_MAX):  # type: ignore[operator]
            chief.get(reverse(f"admin:{model}_changelist"))

    def test_a_run_is_found_by_its_id_its_order_and_its_key(self, chief: Client, runs: list[Run]) -> None:
        for term in (runs[0].pk, runs[0].subject_id, runs[0].global_id, runs[0].business_key):
            html = chief.get(reverse("admin:saga_run_changelist"), {"q": str(term)}).content.decode()
            assert runs[0].business_key in html
            assert runs[1].business_key not in html

    def test_words_that_are_no_id_find_nothing(self, chief: Client, runs: list[Run]) -> None:
        for model in ("saga_run", "orders_order", "messaging_message"):
            html = chief.get(reverse(f"admin:{model}_changelist"), {"q": "'; nothing --"}).content.decode()
            assert str(runs[0].subject_id) not in html

    @pytest.mark.parametrize(("needs", "found"), [("stuck", {1}), ("live", {0}), ("any", {1}), ("undoing", set())])
    def test_runs_are_filtered_by_what_they_need(self, chief: Client, runs: list[Run], needs: str, found: set[int]) -> None:
        html = chief.get(reverse("admin:saga_run_changelist"), {"needs": needs}).content.decode()
        assert {place for place, run in enumerate(runs) if run.business_key in html} == found

    def test_an_order_leads_to_its_run(self, chief: Client, runs: list[Run]) -> None:
        html = chief.get(reverse("admin:orders_order_change", args=[runs[0].subject_id])).content.decode()
        assert run_url(runs[0]) in html
        assert "Noite do Samba" in html


class TestOrder:
    def test_leads_to_its_returns_and_to_no_payment_that_is_not_there(self, chief: Client) -> None:
        order = factories.make_order(now=timezone.now(), status="COMPLETED", amount="10.50")
        page = reverse("admin:orders_order_change", args=[order.pk])
        door = f"{reverse('admin:orders_orderreturn_changelist')}?q={order.pk}"
        html = chief.get(page).content.decode()
        assert "Its payments" in html
        assert door not in html
        OrderReturn.objects.create(
            order_id=order.pk,
            amount=order.amount,
            document="RETURN_DOCUMENT_NEEDED",
            run_id=uuid4(),
            created_at=timezone.now(),
        )
        assert door in chief.get(page).content.decode()
        assert "Return document needed" in chief.get(door).content.decode()
        Order.objects.update(payment_method="balance")
        assert "Its payments" not in chief.get(page).content.decode()

"""Where there is no page for somebody he reads why, in words, and a way on. Programs get a problem document."""

from uuid import UUID

import pytest
from django.contrib import admin
from django.http import HttpRequest
from django.test import Client
from django.urls import reverse

pytestmark = pytest.mark.django_db
HOME = f'href="{reverse("admin:index")}"'


class TestDenied:
    @pytest.mark.parametrize(
        "name", ["admin:backoffice_triage", "admin:saga_run_changelist", "admin:ledger_account_changelist"]
    )
    def test_says_what_is_missing_and_leads_on(self, newcomer: Client, name: str) -> None:
        answered = newcomer.get(reverse(name))
        page = answered.content.decode()
        assert answered.status_code == 403
        assert "You may not open this page." in page
        assert HOME in page
        assert "script-src" in answered["Content-Security-Policy"]


class TestUnknown:
    @pytest.mark.parametrize(
        "path",
        [
            "/admin/nowhere/",
            f"/admin/runs/{UUID(int=1)}/",
            f"/admin/entries/{UUID(int=1)}/",
            "/admin/saga/run/4711/change/",
        ],
    )
    def test_is_a_page_of_the_back_office(self, chief: Client, path: str) -> None:
        answered = chief.get(path)
        page = answered.content.decode()
        assert answered.status_code == 404
        assert "There is no such page." in page
        assert reverse("admin:saga_run_changelist") in page, "the menu is there"

    def test_shows_a_stranger_no_menu(self, client: Client) -> None:
        answered = client.get("/admin/nowhere")
        assert answered.status_code in {302, 404}
        assert reverse("admin:saga_run_changelist") not in answered.content.decode()

    def test_is_a_problem_document_for_programs(self, client: Client) -> None:
        answered = client.get("/nowhere")
        assert (answered.status_code, answered["Content-Type"]) == (404, "application/problem+json")


class TestStaleForm:
    def test_says_that_nothing_was_done(self, db: None) -> None:
        answered = Client(enforce_csrf_checks=True).post(reverse("admin:login"), {"username": "x", "password": "y"})
        assert answered.status_code == 403
        assert "Nothing was done: the form was too old." in answered.content.decode()


class TestBroken:
    def test_names_the_id_that_the_log_has(self, chief: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        def breaks(_request: HttpRequest) -> None:
            raise RuntimeError("broken")

        monkeypatch.setattr(admin.site, "each_context", breaks)
        chief.raise_request_exception = False
        answered = chief.get(reverse("admin:index"))
        assert answered.status_code == 500
        page = answered.content.decode()
        assert "Something broke on our side." in page
        assert answered["X-Request-ID"] in page
        assert "script-src" in answered["Content-Security-Policy"]


class TestAKeyThatCannotBe:
    def test_is_nobodys_page_in_any_list(self, chief: Client) -> None:
        for model in admin.site._registry:
            address = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
            answered = chief.get(f"{address}%00/change/")
            assert answered.status_code == 404, address

    def test_is_nothing_to_programs_either(self, client: Client) -> None:
        answered = client.get("/ledger/accounts/0001/%00/BRL")
        assert (answered.status_code, answered["Content-Type"]) == (404, "application/problem+json")

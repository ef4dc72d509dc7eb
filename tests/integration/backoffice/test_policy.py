"""The pages of the back office tell the browser to run no script but ours, and keep to it themselves."""

import re
from pathlib import Path

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tests import worlds

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).resolve().parents[3]
TEMPLATES = sorted(ROOT.glob("apps/*/templates/**/*.html"))


def directives(policy: str) -> dict[str, str]:
    """A policy by its directives."""
    parts = [each.strip().partition(" ") for each in policy.split(";")]
    return {name: value for name, _, value in parts}


class TestPolicy:
    def test_stands_on_every_page_of_the_back_office(self, chief: Client, client: Client) -> None:
        lists = [f"admin:{m._meta.app_label}_{m._meta.model_name}_changelist" for m in admin.site._registry]
        for name in ("admin:index", "admin:backoffice_use_cases", *lists):
            assert "script-src" in chief.get(reverse(name))["Content-Security-Policy"], name
        assert "script-src" in client.get(reverse("admin:login"))["Content-Security-Policy"]

    def test_runs_no_script_that_is_written_into_a_page_and_asks_no_other_host(self, chief: Client) -> None:
        told = directives(chief.get(reverse("admin:index"))["Content-Security-Policy"])
        assert told["default-src"] == "'none'"
        assert told["script-src"] == "'self'"
        assert "unsafe-inline" not in told["style-src"]
        assert told["base-uri"] == "'none'"
        assert told["frame-ancestors"] == told["frame-src"] == "'self'"
        assert {each for value in told.values() for each in value.split() if "//" in each or each == "*"} == set()

    def test_names_every_style_that_the_shell_writes_into_a_page(self, chief: Client) -> None:
        allowed = chief.get(reverse("admin:index"))["Content-Security-Policy"]
        from apps.backoffice.policy import _hash

        for name in ("admin:index", "admin:saga_run_changelist", "admin:auth_user_changelist", "admin:login"):
            html = chief.get(reverse(name)).content.decode()
            for style in re.findall(r"<style[^>]*>(.*?)</style>", html, re.DOTALL):
                assert _hash(style) in allowed, (name, style)

    def test_of_a_fragment_lets_nothing_be_done(self, chief: Client) -> None:
        told = chief.get(reverse("admin:backoffice_home_live"))["Content-Security-Policy"]
        assert directives(told)["default-src"] == "'none'"
        assert "script-src" not in told

    def test_is_not_that_of_the_api(self, client: Client) -> None:
        assert "Content-Security-Policy" not in client.get("/healthz")


class TestTemplates:
    @pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
    def test_of_ours_have_no_script_and_no_style_in_them(self, path: Path) -> None:
        text = path.read_text()
        assert "<style" not in text
        styles = re.findall(r"\sstyle=\"([^\"]*)\"", text)
        assert [each for each in styles if not each.startswith("flex:{{")] == [], "only the length of a bar is a number"
        assert not re.search(r"\son[a-z]+=", text)
        assert all("src=" in script for script in re.findall(r"<script[^>]*>", text))

    def test_of_the_maps_fragment_have_none_when_they_are_drawn(self, chief: Client) -> None:
        worlds.busy_evening(now=timezone.now(), completed=3, waiting=2)
        html = chief.get(reverse("admin:backoffice_use_case_live", args=["orders.purchase.card"])).content.decode()
        assert not re.search(r"<style|<script|\sstyle=|\son[a-z]+=", html)

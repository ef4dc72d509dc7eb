"""``manage.py ledger_suspend``."""

import json
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from apps.ledger import public as ledger
from apps.ledger.models import Suspension

pytestmark = pytest.mark.usefixtures("committed_bank")


def run(*arguments: str) -> Any:
    output = StringIO()
    call_command("ledger_suspend", *arguments, stdout=output)
    return json.loads(output.getvalue()) if "--json" in arguments else output.getvalue()


class TestLedgerSuspend:
    @pytest.mark.parametrize(
        ("scope", "named"),
        [
            (["--all"], [None, None, None]),
            (["--branch", "0001"], ["0001", None, None]),
            (["--account", "0001/000000001"], ["0001", "000000001", "BRL"]),
            (["--account", "0001/000000001/BRL"], ["0001", "000000001", "BRL"]),
        ],
    )
    def test_suspends_lists_and_lifts(self, scope: list[str], named: list[str | None]) -> None:
        (made,) = run(*scope, "--reason", "a look", "--by", "ana", "--minutes", "5", "--json")
        assert [made["branch"], made["account"], made["currency"]] == named
        (view,) = ledger.suspended(now=timezone.now())
        assert (view.mode, view.reason, view.suspended_by) == ("REFUSE", "a look", "ana")
        assert made["id"] in run()
        assert "lifted" in run("--resume", made["id"], "--by", "bob")
        assert run() == "Nothing is suspended.\n"
        assert Suspension.objects.get(pk=UUID(made["id"])).lifted_by == "bob"

    @pytest.mark.parametrize(
        "wrong",
        [
            ["--all"],
            ["--branch", "9", "--reason", "x"],
            ["--account", "0001", "--reason", "x"],
            ["--resume", str(UUID(int=1))],
        ],
    )
    def test_says_what_is_wrong(self, wrong: list[str]) -> None:
        with pytest.raises(CommandError):
            run(*wrong)
        assert Suspension.objects.count() == 0

    def test_lists_for_a_user_without_a_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def nameless() -> str:
            raise KeyError("getpwuid(): uid not found: 10001")  # as in a container

        monkeypatch.setattr("getpass.getuser", nameless)
        assert run() == "Nothing is suspended.\n"
        (made,) = run("--all", "--reason", "a look", "--json")
        assert made["suspended_by"] == "command"

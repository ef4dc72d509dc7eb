"""The commands of an operator without a browser."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from apps.saga import snapshots
from apps.saga.definition import PIVOT, Definition
from apps.saga.models import Audit, Pause, Run
from tests.integration.saga.test_engine import Story, ask, local
from tests.integration.saga.world import REASON, TOY, begin, registered, toy, with_breaker

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


@pytest.fixture(name="made", autouse=True)
def a_toy(story: Story) -> Iterator[Definition]:
    made = toy(local(story, "a"), with_breaker(ask(story, "b")), local(story, "c", PIVOT), story=story)
    with registered(made):
        yield made


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str) -> str:
        capsys.readouterr()
        call_command(*words)
        return capsys.readouterr().out

    return run


class TestState:
    def test_tells_one_run_by_any_key(self, said: Any, made: Definition) -> None:
        run_id = begin(made, inline_ms=10_000, key="order 7", data={"amount": "10.5"})
        Run.objects.filter(pk=run_id).update(idempotency_key="req 8")
        for key in (str(run_id), "order 7", "req 8"):
            text = said("saga_state", key)
            assert text.startswith(f"{TOY} v1  run {run_id}  order 7: WAITING\n  waits for answer: partner until ")
            assert ", within its SLA\n" in text
        told = json.loads(said("saga_state", "order 7", "--json"))
        assert (told["run_id"], told["step"], told["amount"]) == (str(run_id), "b", "10.50")
        assert (told["waits_for"]["whom"], told["sla"]["standing"]) == ("partner", "within")
        assert [step["name"] for step in told["steps"]] == ["a", "b", "c"]

    def test_lists_the_runs_that_meet_the_conditions(self, said: Any, made: Definition, story: Story) -> None:
        story.plan["do a"] = [RuntimeError("broken")]
        failing = begin(made, inline_ms=10_000, key="one", data={"customer": "ana", "amount": "5"})
        waiting = begin(made, inline_ms=10_000, key="two", data={"customer": "bia", "amount": "7"})
        text = said("saga_state", "--state=in_error", f"--use-case={TOY}")
        assert text.startswith(f"1 runs, 5.00 at risk\n{failing}  RUNNING      a ")
        assert "one  a RuntimeError  waits for retry: until " in text
        assert str(waiting) not in text
        for conditions in (
            ["--attribute=customer=bia"],
            ["--attribute=amount>=6"],
            ["--waiting-for=partner"],
            ["--step=b"],
        ):
            assert str(waiting) in said("saga_state", *conditions)
            assert str(failing) not in said("saga_state", *conditions)
        assert said("saga_state", "--older-than=3600") == "0 runs, 0.00 at risk\n"

    def test_goes_on_where_a_page_ended(self, said: Any, made: Definition) -> None:
        runs = [str(begin(made)) for _ in range(3)]
        first = json.loads(said("saga_state", "--limit=2", "--json"))
        second = json.loads(said("saga_state", "--limit=2", "--json", f"--cursor={first['next_cursor']}"))
        assert [run["run_id"] for page in (first, second) for run in page["runs"]] == runs[::-1]
        assert (first["total"], second["next_cursor"]) == ("3", None)
        assert said("saga_state", "--limit=2").endswith(f"more: --cursor {first['next_cursor']}\n")

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["nobody"], "No run is known by nobody"),
            (["--use-case=test.nowhere"], "R511"),
            (["--state=asleep"], "R520"),
            (["--attribute=x=1"], "R518"),
            (["--cursor=mine"], "R001"),
        ],
    )
    def test_says_why_not(self, words: list[str], message: str) -> None:
        with pytest.raises(CommandError, match=message):
            call_command("saga_state", *words)


class TestPauses:
    def test_a_use_case_and_a_step_are_paused_and_resumed(self, said: Any, made: Definition) -> None:
        assert said("saga_pause", TOY, f"--reason={REASON}", "--refuse") == "Paused.\n"
        assert said("saga_pause", TOY, "b", f"--reason={REASON}", "--undo-goes-on") == "Paused.\n"
        rows = Pause.objects.order_by("step").values_list("step", "refuses", "holds_undo")
        assert list(rows) == [("", True, True), ("b", False, False)]
        listed = said("saga_use_cases", TOY)
        assert "PAUSED new runs refuse by command:saga_pause" in listed
        assert "PAUSED step b by command:saga_pause" in listed
        assert said("saga_resume", TOY, f"--reason={REASON}") == "It goes on.\n"
        assert said("saga_resume", TOY, "b", f"--reason={REASON}") == "It goes on.\n"
        assert not Pause.objects.filter(lifted_at__isnull=True).exists()
        assert Audit.objects.count() == 4

    @pytest.mark.parametrize(
        ("words", "code"),
        [
            (["saga_resume", TOY, f"--reason={REASON}"], "R515"),
            (["saga_pause", TOY, "z", f"--reason={REASON}"], "R512"),
            (["saga_pause", TOY, "--reason=no"], "R001"),
        ],
    )
    def test_a_refusal_is_told(self, words: list[str], code: str) -> None:
        with pytest.raises(CommandError, match=code):
            call_command(*words)


class TestUseCases:
    def test_are_listed_and_drawn(self, said: Any, made: Definition) -> None:
        begin(made)
        text = said("saga_use_cases")
        assert (
            f"{TOY} v1  owner tests  SLA target 0:00:10, deadline 0:01:00\n  A toy.\n  v1: 1 live, 0 held, 0 stuck" in text
        )
        assert "orders.purchase.card v1" in text
        assert said("saga_use_cases", TOY, "--mermaid").startswith("flowchart LR\n")
        assert said("saga_use_cases", TOY, "--svg").startswith("<svg ")

    @pytest.mark.parametrize(
        ("words", "message"), [(["test.nowhere"], "R511"), (["--svg"], "A picture is of one use case")]
    )
    def test_says_why_not(self, words: list[str], message: str) -> None:
        with pytest.raises(CommandError, match=message):
            call_command("saga_use_cases", *words)


class TestSnapshots:
    def test_are_compared_and_written(self, said: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(snapshots, "folders", lambda: {"test": tmp_path, "orders": tmp_path})
        with pytest.raises(CommandError, match=r"test\.toy v1 has no snapshot"):
            call_command("saga_snapshots")
        assert "written: test.toy.v1.json\n" in said("saga_snapshots", "--write")
        assert said("saga_snapshots") == "Every version has the steps of its snapshot.\n"


class TestTriage:
    @pytest.fixture
    def stuck(self, story: Story) -> Iterator[Run]:
        from apps.saga.definition import RETRIABLE
        from tests.integration.saga.test_engine import Refusal, local
        from tests.saga_driver import finish

        made = toy(local(story, "d", PIVOT), local(story, "e", RETRIABLE), story=story, use_case="test.stuck")
        with registered(made):
            story.plan["do e"] = [Refusal("no such account")]
            yield finish(begin(made, key="order 9", data={"amount": "10.00"}))

    def test_lists_what_broke(self, said: Any, stuck: Run) -> None:
        text = said("saga_triage")
        assert "open  R999 at e of test.stuck: 1 runs (1 stuck), 10.00 at risk, 1 failures, last " in text
        (line,) = said("saga_triage", "list", "--json").splitlines()
        assert (json.loads(line)["runs"], json.loads(line)["amount"]) == (1, "10.00")
        assert said("saga_triage", "list", "--status", "handled") == "No incident.\n"

    def test_tells_first_and_does_it_then(self, said: Any, stuck: Run) -> None:
        incident = json.loads(said("saga_triage", "list", "--json"))["id"]
        text = said("saga_triage", "retry", "--incident", incident, "--dry-run")
        assert f"{stuck.pk}  order 9  tries e again" in text
        assert "1 runs, 10.00 at risk. Nothing was changed." in text
        assert Run.objects.get(pk=stuck.pk).status == "STUCK"
        text = said("saga_triage", "retry", "--incident", incident, "--reason", REASON, "--input", '{"amount": "11.00"}')
        assert "done; 1 done" in text
        assert Run.objects.get(pk=stuck.pk).data == {"amount": "11.00"}
        row = Audit.objects.get()
        assert (row.action, row.reason) == ("retry", REASON)
        assert row.actor.startswith("command:saga_triage by ")

    def test_asks_and_cancels(self, said: Any, stuck: Run, settings: Any) -> None:
        settings.SAGA_FOUR_EYES = ["5.00"]
        text = said("saga_triage", "handle", "--use-case", "test.stuck", "--state", "stuck", "--reason", REASON)
        assert "asked; 1 pending. It waits for a second person." in text
        action = text.split()[0]
        with pytest.raises(CommandError, match="R552"):
            said("saga_triage", "approve", action)
        assert "cancelled; 1 cancelled" in said("saga_triage", "cancel", action, "--reason", REASON)
        assert f"{stuck.pk}  order 9  cancelled" in said("saga_triage", "show", action)

    def test_retries_one_run(self, said: Any, stuck: Run) -> None:
        assert said("saga_retry", str(stuck.pk), "--reason", REASON) == "The run goes on.\n"
        with pytest.raises(CommandError, match="R501"):
            said("saga_retry", str(stuck.pk), "--reason", REASON)

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("retry",), "Say which runs"),
            (("retry", "--use-case", "test.stuck"), "Say why"),
            (("retry", "--use-case", "test.stuck", "--reason", "ok"), "R001"),
            (("retry", "--use-case", "test.typo", "--reason", REASON), "R511"),
            (("skip", "--use-case", "test.stuck", "--reason", REASON, "--output", "{"), "is no JSON"),
            (("show", "00000000-0000-0000-0000-000000000001"), "R550"),
        ],
    )
    def test_refuses_what_makes_no_sense(self, said: Any, stuck: Run, words: tuple[str, ...], says: str) -> None:
        with pytest.raises(CommandError, match=says):
            said("saga_triage", *words)
        assert Run.objects.get(pk=stuck.pk).status == "STUCK"

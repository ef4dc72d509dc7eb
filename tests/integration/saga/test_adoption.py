"""Adoption: a transaction that another system began goes on here, from a step on, and only once."""

import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.utils import timezone

from apps.common.errors import InvalidRequest
from apps.saga import adoption_rows
from apps.saga.adoption import Adopted, KeyTaken, adopt
from apps.saga.attributes import Attribute
from apps.saga.definition import PIVOT, RETRIABLE, Definition
from apps.saga.models import Audit, Run, Step
from apps.saga.pauses import UnknownStep, UseCasePaused, pause
from apps.saga.values import InvalidValues
from tests.integration.messaging.world import together
from tests.integration.saga.test_engine import Refusal, Story, ask, local
from tests.integration.saga.world import REASON, TOY, begin, registered, toy
from tests.saga_driver import finish

pytestmark = pytest.mark.django_db(transaction=True)
SUBJECT = uuid4()


@pytest.fixture(name="story")
def a_story() -> Story:
    return Story()


def journey(story: Story) -> Definition:
    return toy(local(story, "a"), ask(story, "b"), local(story, "c", PIVOT), local(story, "d", RETRIABLE), story=story)


def take_over(made: Definition, **changes: Any) -> Adopted:
    given: dict[str, Any] = {
        "at_step": "c",
        "subject_id": SUBJECT,
        "business_key": "legacy 1",
        "data": {"customer": "ana", "amount": "10.50"},
        "outputs": {"a": {"by": "them"}, "b": {"ok": True}},
        "reason": REASON,
        "by": "tests",
        "now": timezone.now(),
    }
    with transaction.atomic():
        return adopt(made, **{**given, **changes})


class TestAdopt:
    def test_goes_on_where_the_other_system_stopped(self, story: Story) -> None:
        with registered(made := journey(story)):
            found = take_over(made)
            run = finish(found.run_id)
        assert not found.known
        assert (run.status, run.business_key, run.data["amount"]) == ("COMPLETED", "legacy 1", "10.50")
        assert story.told == ["do c", "do d"]
        steps = list(Step.objects.order_by("position").values_list("name", "status", "attempts", "output"))
        assert steps[:2] == [("a", "DONE", 0, {"by": "them"}), ("b", "DONE", 0, {"ok": True})]
        assert run.attributes == {"customer": "ana", "amount": "10.50"}, "it is found like any other"

    def test_is_undone_with_what_the_other_system_left(self, story: Story) -> None:
        story.plan["do c"] = [Refusal("no")]
        with registered(made := journey(story)):
            assert finish(take_over(made).run_id).status == "COMPENSATED"
        assert story.told == ["do c", "undo b", "undo a", "compensated because c: R999"]

    def test_may_begin_at_the_first_step(self, story: Story) -> None:
        with registered(made := journey(story)):
            run_id = take_over(made, at_step="a", outputs={}).run_id
            assert Run.objects.get(pk=run_id).cursor == 0

    def test_writes_down_who_and_why(self, story: Story) -> None:
        with registered(made := journey(story)):
            run_id = take_over(made).run_id
        (row,) = Audit.objects.filter(action="adopt")
        assert (row.run_id, row.step, row.actor, row.reason) == (run_id, "c", "tests", REASON)
        assert row.detail["done_by_others"] == ["a", "b"]

    def test_keeps_amounts_as_text(self, story: Story) -> None:
        with registered(made := journey(story)):
            run_id = take_over(made, data={"amount": Decimal("10.50"), "lines": [{"price": Decimal(3)}]}).run_id
        assert Run.objects.get(pk=run_id).data == {"amount": "10.50", "lines": [{"price": "3"}]}


class TestOnce:
    def test_the_same_again_answers_the_same_run(self, story: Story) -> None:
        with registered(made := journey(story)):
            first = take_over(made)
            assert take_over(made) == Adopted(run_id=first.run_id, known=True)
            finish(first.run_id)
            assert take_over(made).run_id == first.run_id, "also when it is over"
        assert Run.objects.count() == 1

    @pytest.mark.parametrize(
        "changes",
        [
            {"data": {"amount": "11.00"}},
            {"outputs": {}},
            {"at_step": "d"},
            {"subject_id": uuid4()},
            {"idempotency_key": "other"},
        ],
    )
    def test_another_body_under_a_known_key_is_refused(self, story: Story, changes: dict[str, Any]) -> None:
        with registered(made := journey(story)):
            run_id = take_over(made).run_id
            with pytest.raises(KeyTaken, match=str(run_id)):
                take_over(made, **changes)
        assert Run.objects.count() == 1

    def test_by_idempotency_key_too(self, story: Story) -> None:
        with registered(made := journey(story)):
            first = take_over(made, idempotency_key="once")
            assert take_over(made, idempotency_key="once") == Adopted(run_id=first.run_id, known=True)
            with pytest.raises(KeyTaken):
                take_over(made, idempotency_key="once", business_key="legacy 2")

    def test_an_idempotency_key_is_its_merchants_own(self, story: Story) -> None:
        accounts: list[dict[str, Any]] = [{"account_id": "acc_a"}, {"account_id": "acc_b"}, {}]
        with registered(made := replace(journey(story), attributes=(Attribute("account_id", str),))):
            found = [
                take_over(made, data=data, idempotency_key="1", business_key=f"legacy {place}")
                for place, data in enumerate(accounts)
            ]
            for data in accounts:
                with pytest.raises(KeyTaken):
                    take_over(made, data=data, idempotency_key="1", business_key="legacy 9")
        assert [each.known for each in found] == [False] * 3
        assert len({each.run_id for each in found}) == 3

    def test_not_what_we_have_begun_ourselves(self, story: Story) -> None:
        with registered(made := journey(story)):
            begin(made, key="legacy 1")
            with pytest.raises(KeyTaken):
                take_over(made)

    def test_when_several_ask_at_once(self, story: Story) -> None:
        found: list[Adopted] = []
        with registered(made := journey(story)):
            together(*[partial(self._add, found, made)] * 6)
        assert len({each.run_id for each in found}) == 1
        assert sorted(each.known for each in found) == [False] + [True] * 5
        assert Run.objects.count() == 1

    @staticmethod
    def _add(found: list[Adopted], made: Definition) -> None:
        found.append(take_over(made))


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"at_step": "z"}, UnknownStep),
            ({"outputs": {"c": {}}}, InvalidValues),
            ({"outputs": {"a": "done"}}, InvalidValues),
            ({"outputs": ["a"]}, InvalidValues),
            ({"data": {"amount": "much"}}, InvalidValues),
            ({"data": {"amount": 1.5}}, InvalidValues),
            ({"data": []}, InvalidValues),
            ({"business_key": ""}, InvalidValues),
            ({"business_key": "x" * 201}, InvalidValues),
            ({"business_key": "a\x00b"}, InvalidValues),
            ({"reason": "no"}, InvalidRequest),
        ],
    )
    def test_what_makes_no_sense(self, story: Story, changes: dict[str, Any], error: type[Exception]) -> None:
        with registered(made := journey(story)), pytest.raises(error):
            take_over(made, **changes)
        assert not Run.objects.exists()
        assert not Audit.objects.exists()

    def test_while_the_use_case_is_paused(self, story: Story) -> None:
        with registered(made := journey(story)):
            pause(TOY, reason=REASON, refuses=True, by="tests", now=timezone.now())
            with pytest.raises(UseCasePaused):
                take_over(made)

    def test_it_waits_when_new_runs_wait(self, story: Story) -> None:
        with registered(made := journey(story)):
            pause(TOY, reason=REASON, by="tests", now=timezone.now())
            run = Run.objects.get(pk=take_over(made).run_id)
        assert (run.status, run.cursor, run.due_at) == ("RUNNING", 2, None)
        assert run.held_by is not None


# --- The command ------------------------------------------------------------------------------------------------------
def row(number: int, **changes: Any) -> dict[str, Any]:
    subject = str(UUID(int=number))
    given = {"use_case": TOY, "at_step": "c", "subject_id": subject, "business_key": f"legacy {number}"}
    return {**given, "input": {"amount": "10.50"}, "outputs": {"a": {"by": "them"}}, **changes}


def adopted(path: Path, *words: str) -> tuple[str, str]:
    """What the command printed, and what it ended with."""
    told = StringIO()
    try:
        call_command("saga_adopt", str(path), "--reason", REASON, *words, stdout=told)
    except CommandError as error:
        return told.getvalue(), str(error)
    return told.getvalue(), ""


@pytest.fixture(name="write")
def a_file(tmp_path: Path) -> Callable[..., Path]:
    def write(*rows: Any, name: str = "legacy.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in rows))
        return path

    return write


class TestCommand:
    def test_takes_over_each_row_and_tells_of_each(self, story: Story, write: Callable[..., Path]) -> None:
        path = write(row(1), row(2), "", row(3, at_step="z"), "nonsense", row(1))
        with registered(journey(story)):
            told, ended = adopted(path)
        lines = told.splitlines()
        runs = {run.business_key: run.pk for run in Run.objects.all()}
        assert lines[0] == f"1  legacy 1  adopted  {runs['legacy 1']}"
        assert lines[1] == f"2  legacy 2  adopted  {runs['legacy 2']}"
        assert lines[2] == f"3  legacy 3  refused  R512 {TOY} v1 has no step z."
        assert lines[3] == "4  -  refused  R559 the line is no JSON."
        assert lines[4] == f"5  legacy 1  known  {runs['legacy 1']}"
        assert lines[5] == "2 adopted, 1 known, 2 refused."
        assert ended == "2 of 5 rows were refused."

    def test_may_be_repeated(self, story: Story, write: Callable[..., Path]) -> None:
        path = write(row(1), row(2))
        with registered(journey(story)):
            adopted(path)
            told, ended = adopted(path)
        assert told.splitlines()[-1] == "0 adopted, 2 known, 0 refused."
        assert ended == ""
        assert Run.objects.count() == 2

    def test_only_looks_in_a_dry_run(self, story: Story, write: Callable[..., Path]) -> None:
        path = write(row(1), row(2, input={"amount": "much"}))
        with registered(journey(story)):
            told, ended = adopted(path, "--dry-run")
        assert told.splitlines()[0] == "1  legacy 1  adopted  would be a new run"
        assert "2  legacy 2  refused  R559" in told
        assert told.splitlines()[-1] == "dry run: 1 adopted, 0 known, 1 refused."
        assert ended == "1 of 2 rows were refused."
        assert not Run.objects.exists()
        assert not Audit.objects.exists()

    def test_reads_csv(self, story: Story, write: Callable[..., Path]) -> None:
        head = "subject_id,business_key,input.amount,input.customer,outputs"
        outputs = '"{""a"": {""by"": ""them""}}"'
        path = write(head, f"{SUBJECT},legacy 1,10.50,,{outputs}", f"{SUBJECT},legacy 2,10.50", name="legacy.CSV")
        with registered(journey(story)):
            told, ended = adopted(path, "--use-case", TOY, "--at-step", "c")
        assert "2  -  refused  R559 The row has more or fewer columns than the head." in told
        assert ended == "1 of 2 rows were refused."
        run = Run.objects.get()
        assert (run.business_key, run.data, run.subject_id) == ("legacy 1", {"amount": "10.50"}, SUBJECT)
        assert Step.objects.get(run=run, position=0).output == {"by": "them"}

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"use_case": "test.lottery"}, "R511"),
            ({"use_case": 7}, "use_case is a text"),
            ({"version": 9}, "R516"),
            ({"version": "1"}, "version is a whole number"),
            ({"subject_id": "order 7"}, "subject_id is a UUID"),
            ({"business_key": None}, "business_key is a text"),
            ({"input": "amount"}, "input is an object"),
            ({"status": "done"}, "status is no field"),
            ({"input": {"amount": float("nan")}}, "the line is no JSON"),
        ],
    )
    def test_refuses_a_row_and_goes_on(
        self, story: Story, write: Callable[..., Path], changes: dict[str, Any], said: str
    ) -> None:
        path = write(row(1, **changes), row(2))
        with registered(journey(story)):
            told, _ = adopted(path)
        assert said in told.splitlines()[0]
        assert told.splitlines()[-1] == "1 adopted, 0 known, 1 refused."

    def test_says_what_is_wrong_with_a_file(self, tmp_path: Path, write: Callable[..., Path]) -> None:
        assert "No such file" in adopted(tmp_path / "none.jsonl")[1]
        (tmp_path / "latin.jsonl").write_bytes(b'{"use_case": "\xe7"}')
        assert "decode" in adopted(tmp_path / "latin.jsonl")[1]

    def test_reads_no_more_than_it_can_hold(
        self, story: Story, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(adoption_rows, "FILE_ROWS_MAX", 1)
        monkeypatch.setattr(adoption_rows, "LINE_CHARACTERS_MAX", 500)
        with registered(journey(story)):
            assert "more than 1 rows" in adopted(write(row(1), row(2)))[0]
            assert "more than 500 characters" in adopted(write(row(3, business_key="x" * 600)))[0]
        assert Run.objects.count() == 1

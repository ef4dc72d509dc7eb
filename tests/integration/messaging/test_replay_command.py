"""manage.py replay_dead_letters: shows by default, sends when told to, and says what it did."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from apps.messaging import replay
from apps.messaging.management.commands import replay_dead_letters
from apps.messaging.models import DeadLetterReplay, Message
from tests.integration.messaging.letters import Refusal, bury, give, record
from tests.integration.messaging.world import TOPIC, Reader

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def readers() -> Iterator[None]:
    made = [Reader("g"), Reader("h")]
    yield
    for one in made:
        one.close()


def run(*arguments: str, out: Any = None) -> str:
    """What it wrote; both streams."""
    stream = out or io.StringIO()
    call_command("replay_dead_letters", *arguments, stdout=stream, stderr=stream, no_color=True)
    return str(stream.getvalue())


def apply(*arguments: str, out: Any = None) -> str:
    return run("--apply", "--reason", "mended", *arguments, out=out)


def sent() -> list[int]:
    rows = Message.objects.filter(topic=TOPIC, pk__in=DeadLetterReplay.objects.values("pk")).order_by("seq")
    return [row.body["n"] for row in rows]


class TestShow:
    def test_sends_nothing_unless_told_to(self) -> None:
        letter = bury(1, error=Refusal("sold out"))
        for arguments in ((), ("--dry-run",)):
            shown = run(*arguments)
            assert "1 dead letters match." in shown
            for words in (str(letter), "g", TOPIC, "tests.note.v1", "R999", "Refusal: sold out"):
                assert words in shown
            assert "Nothing was sent. With --apply --reason TEXT, 1 of 1 would be." in shown
        assert sent() == []

    def test_none(self) -> None:
        assert run() == "0 dead letters match.\n"
        assert apply() == "0 dead letters match.\n"

    def test_counts_exactly_up_to_a_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replay_dead_letters, "COUNT_MAX", 2)
        bury(1)
        bury(2)
        assert run().startswith("2 dead letters match.\n")
        bury(3)
        assert "more than 2 dead letters match; the 1 oldest are taken (--limit)." in run("--limit", "1")

    def test_shows_a_page_of_them_and_every_refused_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replay_dead_letters, "TABLE_ROWS_MAX", 2)
        letters = [bury(n) for n in range(4)]
        give(record(9, value=b"nonsense"))
        shown = io.StringIO()
        with pytest.raises(CommandError, match="1 of 5 cannot be sent as they are"):
            run(out=shown)
        assert [str(letter) in shown.getvalue() for letter in letters] == [True, True, False, False]
        assert "CANNOT BE SENT: R602 meta.schema" in shown.getvalue()
        assert "… and 2 more" in shown.getvalue()

    def test_shows_no_card_number(self) -> None:
        bury(1, error=RuntimeError("card 4242424242424242 is broken\nand more"))
        shown = run()
        assert "4242424242424242" not in shown
        assert "****4242 is broken and more" in shown


class TestChoose:
    @pytest.mark.parametrize(
        ("arguments", "numbers"),
        [
            (["--group", "h"], [2]),
            (["--topic", TOPIC], [1, 2]),
            (["--topic", "tests.post.office.error"], [1, 2]),
            (["--topic", "another.post.office.event"], []),
            (["--schema", "tests.note.v1"], [1, 2]),
            (["--schema", "tests.note.v2"], []),
            (["--code", "R999"], [1]),
            (["--code", ""], [2]),
            (["--reason-contains", "NOPE"], [2]),
            (["--global-id", "run-1"], [1]),
            (["--limit", "1"], [1]),
            (["--since", "2026-01-01"], [1, 2]),
            (["--until", "2026-01-01T00:00:00-03:00"], []),
        ],
        ids=lambda value: " ".join(map(str, value)),
    )
    def test_by_what_they_are(self, arguments: list[str], numbers: list[int]) -> None:
        bury(record(1, global_id="run-1"))
        bury(2, group="h", error=RuntimeError("nope"))
        apply(*arguments)
        assert sent() == numbers

    def test_by_ids(self) -> None:
        one, _two, three = (bury(n) for n in (1, 2, 3))
        apply("--message-id", str(three), "--message-id", str(one))
        assert sent() == [1, 3]

    def test_by_the_time(self) -> None:
        letter = bury(1)
        at = datetime.fromtimestamp((letter.int >> 80) / 1000, UTC)
        apply("--until", at.isoformat())
        apply("--since", (at + timedelta(milliseconds=1)).isoformat())
        assert sent() == []
        apply("--since", at.strftime("%Y-%m-%dT%H:%M:%S.%f"), "--until", (at + timedelta(seconds=1)).isoformat())
        assert sent() == [1], "without an offset it is UTC"

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--since", "yesterday"],
            ["--limit", "0"],
            ["--limit", "10001"],
            ["--limit", "many"],
            ["--message-id", "x"],
            ["--apply", "--dry-run", "--reason", "x"],
            ["--apply", "--json", "--reason", "x"],
        ],
        ids=" ".join,
    )
    def test_refuses_what_it_does_not_understand(self, arguments: list[str]) -> None:
        with pytest.raises(CommandError):
            run(*arguments)


class TestApply:
    @pytest.mark.parametrize("reason", ["", "   ", "x" * 501])
    def test_needs_a_reason(self, reason: str) -> None:
        bury(1)
        with pytest.raises(CommandError, match="--reason"):
            run("--apply", "--reason", reason)
        assert sent() == []

    def test_sends_and_keeps_who_and_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replay, "BATCH_ROWS", 2)
        for n in range(3):
            bury(n)
        shown = apply("--by", "ana")
        assert "sent 2 of 3\nsent 3 of 3\n" in shown
        assert sent() == [0, 1, 2]
        assert set(DeadLetterReplay.objects.values_list("replayed_by", "reason")) == {("ana", "mended")}
        assert apply() == "0 dead letters match.\n"

    def test_knows_who_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOGNAME", "maria")
        bury(1)
        apply()
        assert DeadLetterReplay.objects.get().replayed_by == "maria"

    def test_sends_what_can_be_sent_and_tells_of_the_rest(self) -> None:
        bury(1)
        give(record(9, value=b"nonsense"))
        bury(2)
        with pytest.raises(CommandError, match="1 of 3 cannot be sent") as refusal:
            apply()
        assert refusal.value.returncode == 1
        assert sent() == [1, 2]

    def test_again(self) -> None:
        letter = bury(1)
        apply()
        apply("--message-id", str(letter))
        assert sent() == [1]
        apply("--again")
        assert sent() == [1, 1]
        apply("--again", (timezone.now() - timedelta(minutes=1)).isoformat())
        assert sent() == [1, 1]

    def test_interrupted_says_how_to_go_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replay, "BATCH_ROWS", 2)

        class CtrlC(io.StringIO):
            def write(self, text: str) -> int:
                if text.startswith("sent 2"):
                    raise KeyboardInterrupt
                return super().write(text)

        for n in range(5):
            bury(n)
        with pytest.raises(CommandError, match="2 are on their way; the same command goes on") as refusal:
            apply(out=CtrlC())
        assert refusal.value.returncode == 130
        apply()
        assert sent() == list(range(5))
        with pytest.raises(CommandError, match="--again 20") as refusal:
            apply("--again", out=CtrlC())
        moment = str(refusal.value).rsplit("--again ")[1].rstrip(".")
        apply("--again", moment)
        assert sent() == [*range(5), *range(5)]


class TestCorrect:
    def test_sets_a_value_on_all(self) -> None:
        bury(1)
        bury(2)
        shown = run("--set", "body.n=7")
        assert shown.count("corrects body.n") == 2
        apply("--set", "body.n=7")
        assert sent() == [7, 7]

    def test_one_that_does_not_fit_stops_all_of_them_before_anything_is_sent(self, tmp_path: Path) -> None:
        one, two = bury(1), bury(2)
        file = tmp_path / "edit.json"
        file.write_text(json.dumps({str(one): {"body": {"n": 5}}, str(two): {"body": {"n": "six"}}}))
        with pytest.raises(CommandError, match=rf"Nothing was sent. R601 body.n: .* \(letter {two}\)"):
            apply("--edit", str(file))
        assert sent() == []

    def test_edits_what_json_wrote(self, tmp_path: Path) -> None:
        for n in (1, 2, 3):
            bury(n)
        out = io.StringIO()
        call_command("replay_dead_letters", "--json", stdout=out, stderr=io.StringIO())
        found: dict[str, Any] = json.loads(out.getvalue())
        assert [parts["body"]["n"] for parts in found.values()] == [1, 2, 3]
        first, second, third = found
        found[second]["body"]["n"] = 20
        del found[third]
        file = tmp_path / "edit.json"
        file.write_text(json.dumps(found))
        apply("--edit", str(file))
        assert sent() == [1, 20]
        corrected = dict(DeadLetterReplay.objects.values_list("dead_letter_id", "corrected"))
        assert corrected == {UUID(first): [], UUID(second): ["body.n"]}
        with pytest.raises(CommandError, match="not among the letters"):
            apply("--edit", str(file))

    def test_finds_the_letters_of_an_edit_whatever_the_limit(self, tmp_path: Path) -> None:
        letters = [bury(n) for n in range(3)]
        file = tmp_path / "edit.json"
        file.write_text(json.dumps({str(letters[2]): {"body": {"n": 20}}}))
        apply("--edit", str(file), "--limit", "1")
        assert sent() == [20]

    def test_json_of_nothing_is_an_object(self) -> None:
        out = io.StringIO()
        call_command("replay_dead_letters", "--json", stdout=out, stderr=io.StringIO())
        assert json.loads(out.getvalue()) == {}

    def test_reads_an_edit_from_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        give(record(9, value=b"nonsense"))
        text = b'{"meta": {"schema": "tests.note.v1"}, "body": {"n": 1}}'
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text)))
        apply("--edit", "-")
        assert sent() == [1]

    def test_sets_values_of_an_edit(self, tmp_path: Path) -> None:
        bury(1)
        file = tmp_path / "edit.json"
        file.write_text('{"body": {"n": 2}}')
        apply("--edit", str(file), "--set", 'body.key="kk"')
        assert Message.objects.get(pk=DeadLetterReplay.objects.get().pk).body == {"n": 2, "key": "kk"}

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--set", "body.n"], "R603 body.n"),
            (["--set", "body.m=1"], "R603 body.m"),
            (["--set", "body.n=one"], "double quotes"),
            (["--edit", "no/such/file"], "--edit: "),
        ],
        ids=str,
    )
    def test_refusals_name_the_place(self, arguments: list[str], words: str) -> None:
        bury(1)
        with pytest.raises(CommandError, match=words):
            apply(*arguments)
        assert sent() == []

    def test_needs_one_letter_for_an_edit_without_ids(self, tmp_path: Path) -> None:
        bury(1)
        bury(2)
        file = tmp_path / "edit.json"
        file.write_text('{"body": {"n": 2}}')
        with pytest.raises(CommandError, match="R603: The file corrects one letter, and 2 are selected"):
            apply("--edit", str(file))

"""Contracts as files: what is released never changes, and every version can read every other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from apps.messaging.contracts.base import Message
from apps.messaging.contracts.releases import Files, fingerprint, incompatibilities, topic_problems

Field = dict[str, Any]
AMOUNT = {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 2}
TEXT: Field = {"name": "text", "type": "string"}
PAID: Field = {"name": "paid", "type": AMOUNT}


def record(*fields: Field, doc: str = "A note.", name: str = "Note") -> dict[str, Any]:
    return {"type": "record", "name": name, "namespace": "lastro.tests", "doc": doc, "fields": list(fields)}


def only(problems: list[str]) -> str:
    assert len(problems) == 1, problems
    return problems[0]


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., Files]:
    """The folder of a project that declares these schemas."""

    def make(**found: Any) -> Files:
        return Files(tmp_path, {f"tests.note.{version}": avro for version, avro in found.items()})

    return make


class TestFiles:
    def test_are_written_once_and_then_agree(self, files: Callable[..., Files]) -> None:
        project = files(v1=record(TEXT))
        assert "Run: manage.py verify_contracts --write" in only(project.problems())
        assert project.write() == ["tests.note.v1"]
        assert project.write() == []
        assert project.problems() == []

    def test_follow_the_class_until_it_is_released(self, files: Callable[..., Files]) -> None:
        files(v1=record(TEXT)).write()
        project = files(v1=record(TEXT, PAID))
        assert "is not what the code declares" in only(project.problems())
        assert project.write() == ["tests.note.v1"]
        assert project.problems() == []

    def test_tell_what_is_not_released(self, files: Callable[..., Files]) -> None:
        project = files(v1=record(TEXT))
        project.write()
        assert project.unreleased() == ["tests.note.v1"]
        assert project.release() == ["tests.note.v1"]
        assert project.unreleased() == []

    def test_of_what_is_on_the_wire_are_released(self) -> None:
        """Seven were not, and a change of them would have been told by nobody."""
        assert Files().unreleased() == []

    def test_of_a_class_that_is_gone_and_was_never_released_go_too(self, files: Callable[..., Files]) -> None:
        files(v1=record(TEXT)).write()
        assert "Delete its file" in only(files().problems())


class TestReleased:
    @pytest.fixture
    def released(self, files: Callable[..., Files]) -> Callable[..., Files]:
        project = files(v1=record(TEXT))
        project.write()
        assert project.release() == ["tests.note.v1"]
        assert project.release() == []
        return files

    def test_is_known_by_its_fingerprint(self, released: Callable[..., Files]) -> None:
        assert released().released() == {"tests.note.v1": fingerprint(record(TEXT))}

    @pytest.mark.parametrize(
        "changed",
        [
            record(TEXT, {"name": "more", "type": "string", "default": ""}),
            record(),
            record({"name": "text", "type": "string", "default": ""}),
            record({"name": "text", "type": "long"}),
            record(TEXT) | {"topic": "tests.other.topic.event"},
        ],
        ids=["more", "less", "default", "type", "topic"],
    )
    def test_never_changes(self, released: Callable[..., Files], changed: Any) -> None:
        project = released(v1=changed)
        said = only(project.problems())
        assert "is released, and its class has changed" in said
        assert "a new class with the schema tests.note.v2" in said
        assert project.write() == [], "not even when told to"

    def test_may_get_better_docs(self, released: Callable[..., Files]) -> None:
        project = released(v1=record({**TEXT, "doc": "What it says."}, doc="A numbered note."))
        assert "--write" in only(project.problems())
        assert project.write() == ["tests.note.v1"]
        assert project.problems() == []
        assert released().released() == {"tests.note.v1": fingerprint(record(TEXT))}

    def test_keeps_its_file(self, released: Callable[..., Files], tmp_path: Path) -> None:
        path = tmp_path / "tests.note.v1.avsc"
        kept = path.read_text()
        path.write_text(kept.replace('"text"', '"words"'))
        assert any("its file was edited. Restore" in said for said in released(v1=record(TEXT)).problems())
        path.unlink()
        assert any("its file is gone. Restore" in said for said in released(v1=record(TEXT)).problems())
        path.write_text(kept)
        assert released(v1=record(TEXT)).problems() == []

    def test_keeps_its_class(self, released: Callable[..., Files]) -> None:
        assert "no class declares it" in only(released().problems())

    def test_gets_a_newer_version_beside_it(self, released: Callable[..., Files]) -> None:
        newer = record(TEXT, {"name": "more", "type": "string", "default": ""})
        project = released(v1=record(TEXT), v2=newer)
        assert project.write() == ["tests.note.v2"]
        assert project.problems() == []
        assert project.release() == ["tests.note.v2"]
        assert json.loads(json.dumps(project.released())).keys() == {"tests.note.v1", "tests.note.v2"}


class TestVersions:
    def test_are_compared_each_with_each(self, files: Callable[..., Files]) -> None:
        # v3 reads v2, and v2 reads v1, but v3 does not read v1.
        optional, required = {"name": "more", "type": "string", "default": ""}, {"name": "more", "type": "string"}
        project = files(v1=record(TEXT), v2=record(TEXT, optional), v10=record(TEXT, required))
        project.write()
        said = only(project.problems())
        assert said.startswith("tests.note.v10 is not compatible with tests.note.v1: the newer cannot read the older")
        assert "A new field needs a default" in said

    @pytest.mark.parametrize(
        ("older", "newer"),
        [
            (record(TEXT), record(TEXT, {"name": "more", "type": ["null", AMOUNT], "default": None})),
            (record(TEXT, {"name": "more", "type": "string", "default": ""}), record(TEXT)),
            (record(TEXT, PAID), record(PAID, TEXT)),
            (record(TEXT), record(TEXT, doc="Other words.")),
            (
                record({"name": "lines", "type": {"type": "array", "items": record(TEXT, name="Line")}}),
                record(
                    {
                        "name": "lines",
                        "type": {
                            "type": "array",
                            "items": record(TEXT, {"name": "n", "type": "long", "default": 0}, name="Line"),
                        },
                    }
                ),
            ),
        ],
        ids=["an optional field more", "one less", "another order", "other docs", "a part's optional field more"],
    )
    def test_that_can_read_each_other(self, older: Any, newer: Any) -> None:
        assert incompatibilities(older, newer) == []
        assert incompatibilities(newer, older) == []

    @pytest.mark.parametrize(
        ("older", "newer", "says"),
        [
            (record(TEXT), record(TEXT, PAID), "newer cannot read the older"),
            (record(TEXT, PAID), record(TEXT), "older not the newer"),
            (record(TEXT), record({"name": "text", "type": "long"}), "cannot read"),
            (record({"name": "n", "type": "int"}), record({"name": "n", "type": "long"}), "older not the newer"),
            (record(TEXT), record({"name": "text", "type": ["null", "string"], "default": None}), "older not the newer"),
            (record(TEXT), record({"name": "text", "type": AMOUNT}), "text was"),
            (record(PAID), record({"name": "paid", "type": {**AMOUNT, "scale": 4}}), "paid was"),
            (record(TEXT), record({"name": "text", "type": {"type": "string", "logicalType": "uuid"}}), "text was"),
            (record(TEXT), record(TEXT, name="Memo"), "cannot read"),
            (
                record({"name": "lines", "type": {"type": "array", "items": record(PAID, name="Line")}}),
                record(
                    {
                        "name": "lines",
                        "type": {"type": "array", "items": record({"name": "paid", "type": "bytes"}, name="Line")},
                    }
                ),
                r"lines\[\]\.paid was",
            ),
        ],
        ids=[
            "a required field more",
            "a required field less",
            "another type",
            "a wider number",
            "maybe null",
            "text to amount",
            "another scale",
            "text to id",
            "another name",
            "a part's type",
        ],
    )
    def test_that_cannot(self, older: Any, newer: Any, says: str) -> None:
        reasons = incompatibilities(older, newer)
        assert reasons
        with pytest.raises(AssertionError, match=says):
            raise AssertionError("; ".join(reasons))


class _Topics:
    """Message classes that are declared here and forgotten after the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("apps.messaging.contracts.base._registry", {})

    def declare(self, schema: str, topic: str) -> type[Message]:
        made: type[Message] = type(schema.title().replace(".", ""), (Message,), {"topic": topic, "schema": schema})
        return made


class TestTopics:
    EVENT: ClassVar[str] = "tests.some.topic.event"

    @pytest.fixture
    def topics(self, monkeypatch: pytest.MonkeyPatch) -> _Topics:
        return _Topics(monkeypatch)

    def test_of_events_have_one_record_that_evolves(self, topics: _Topics) -> None:
        versions = [topics.declare(f"tests.one.v{n}", self.EVENT) for n in (1, 2)]
        assert topic_problems(versions) == []
        said = only(topic_problems([*versions, topics.declare("tests.other.v1", self.EVENT)]))
        assert "Give each a topic of its own" in said
        assert "tests.one, tests.other" in said

    def test_of_requests_may_have_several(self, topics: _Topics) -> None:
        kinds = [topics.declare(f"tests.{name}.v1", "tests.some.topic.in") for name in ("one", "other")]
        assert topic_problems(kinds) == []

    def test_keep_all_versions_of_a_message(self, topics: _Topics) -> None:
        kinds = [topics.declare("tests.one.v1", self.EVENT), topics.declare("tests.one.v2", "tests.new.topic.event")]
        assert "Keep all its versions on one" in only(topic_problems(kinds))

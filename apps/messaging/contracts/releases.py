"""Contracts as files: ``schemas/<schema>.avsc`` for each version of each message, and which of them are released.

The dataclass is what an engineer writes; the file is made from it, and shows a reviewer what changes on the bus. Once a
version is released (``schemas/released.json``) it stays as it is, its topic too, except for its docs. A new version is a
new class of the same family: the same name, a higher number, the same topic.

Note [Full compatibility]
Every two versions of a family can read each other (FULL_TRANSITIVE). Backward, because topics keep messages for weeks and
the log keeps them as events: the newest code must read the oldest. Forward, because processes are deployed one after the
other, and consumers that are not ours later still: old code must read what new code sends. So a version may add and remove
fields that have a default, and nothing else. What cannot keep to that is another message, on a topic of its own.
"""

import hashlib
import importlib
import itertools
import json
import pkgutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apps.messaging import contracts
from apps.messaging.contracts.avro import META, META_SCHEMA, identity
from apps.messaging.contracts.base import Message, message_classes
from apps.messaging.contracts.codec import family_of, version_of

FOLDER = Path(__file__).resolve().parent / "schemas"
COMMAND = "manage.py verify_contracts"
ADVICE = (
    "A new field needs a default, a field that goes away must have had one, and a field that stays keeps its type. "
    "What cannot keep to that is another message: give it a name and a topic of its own."
)


def declared_classes() -> list[type[Message]]:
    """The message classes of this package, all modules imported, by schema."""
    for module in pkgutil.iter_modules(contracts.__path__, f"{contracts.__name__}."):
        importlib.import_module(module.name)
    ours = [kind for kind in message_classes() if kind.__module__.startswith(f"{contracts.__name__}.")]
    return sorted(ours, key=lambda kind: (family_of(kind.schema), version_of(kind.schema)))


def declared() -> dict[str, Any]:
    """The Avro schema of every version that the code knows, with its topic, and that of the meta."""
    return {META_SCHEMA: META} | {kind.schema: {**kind.codec().avro, "topic": kind.topic} for kind in declared_classes()}


def fingerprint(avro: Any) -> str:
    """What a released schema is known by. Its docs do not count."""
    return hashlib.sha256(identity(avro).encode()).hexdigest()


class Files:
    """The folder of schemas. ``found`` is what the code declares."""

    def __init__(self, folder: Path = FOLDER, found: dict[str, Any] | None = None) -> None:
        self._folder, self._found = folder, declared() if found is None else found
        self._released_path = folder / "released.json"

    def _path(self, schema: str) -> Path:
        return self._folder / f"{schema}.avsc"

    def _read(self, schema: str) -> Any:
        path = self._path(schema)
        return json.loads(path.read_text()) if path.exists() else None

    def released(self) -> dict[str, str]:
        """The fingerprint of every released version."""
        found: dict[str, str] = json.loads(self._released_path.read_text()) if self._released_path.exists() else {}
        return found

    def write(self) -> list[str]:
        """Write the files of versions that are new, not yet released, or differ in their docs alone. Safe to repeat."""
        released = self.released()
        written = []
        for schema, avro in self._found.items():
            may_differ = schema not in released or released[schema] == fingerprint(avro)
            if may_differ and self._read(schema) != avro:
                self._path(schema).write_text(json.dumps(avro, indent=2) + "\n")
                written.append(schema)
        return written

    def unreleased(self) -> list[str]:
        """The versions that may still change: whoever sends them already has to release them."""
        released = self.released()
        return [schema for schema in self._found if schema not in released]

    def release(self) -> list[str]:
        """Mark every version as released: from now on none of them changes. Only when there is no problem."""
        released, fresh = self.released(), self.unreleased()
        made = released | {schema: fingerprint(self._found[schema]) for schema in fresh}
        self._released_path.write_text(json.dumps(dict(sorted(made.items())), indent=2) + "\n")
        return fresh

    def problems(self) -> list[str]:
        """What does not agree, and what to do, a sentence each."""
        return [*self._of_classes(), *self._of_files(), *_of_versions(self._all())]

    def _all(self) -> dict[str, Any]:
        kept = {path.stem: json.loads(path.read_text()) for path in self._folder.glob("*.avsc")}
        return kept | self._found

    def _of_classes(self) -> Iterator[str]:
        released = self.released()
        for schema, avro in self._found.items():
            if schema in released and released[schema] != fingerprint(avro):
                newer = f"{family_of(schema)}.v{version_of(schema) + 1}"
                yield (
                    f"{schema} is released, and its class has changed. Undo that, and write the change as a new class "
                    f"with the schema {newer} (or the next free number) on the same topic."
                )
            elif self._read(schema) != avro:
                yield f"The file of {schema} is not what the code declares. Run: {COMMAND} --write"

    def _of_files(self) -> Iterator[str]:
        released = self.released()
        for schema, known in released.items():
            kept = self._read(schema)
            if kept is None:
                yield f"{schema} is released, and its file is gone. Restore {schema}.avsc from the history."
            elif fingerprint(kept) != known:
                yield f"{schema} is released, and its file was edited. Restore {schema}.avsc from the history."
        for path in sorted(self._folder.glob("*.avsc")):
            if path.stem in self._found:
                continue
            if path.stem in released:
                yield (
                    f"{path.stem} is released, and no class declares it: its messages could not be read any more. Keep the "
                    "class for as long as a topic, or the log, keeps such messages; then delete it, its file and its line "
                    "in released.json together."
                )
            else:
                yield f"No class declares {path.stem}, which was never released. Delete its file."


def _of_versions(schemas: dict[str, Any]) -> Iterator[str]:
    """See Note [Full compatibility]."""
    families = defaultdict(list)
    for schema in schemas:
        families[family_of(schema)].append(schema)
    for versions in families.values():
        for older, newer in itertools.combinations(sorted(versions, key=version_of), 2):
            for reason in incompatibilities(schemas[older], schemas[newer]):
                yield f"{newer} is not compatible with {older}: {reason}. {ADVICE}"


def incompatibilities(older: Any, newer: Any) -> list[str]:
    """Why the two versions cannot read each other, by Apache Avro's own checker and by _types_that_changed."""
    # Only whoever verifies contracts needs it; it is not among the run-time dependencies.
    from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
    from avro.schema import parse

    one, two = parse(json.dumps(older)), parse(json.dumps(newer))
    reasons = []
    for reader, writer, says in ((two, one, "the newer cannot read the older"), (one, two, "the older not the newer")):
        checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
        result = checker.get_compatibility(reader, writer)
        if result.compatibility is not SchemaCompatibilityType.compatible:
            reasons.append(f"{says} ({'; '.join(sorted(result.messages))})")
    return reasons + _types_that_changed(older, newer)


def _types_that_changed(older: Any, newer: Any) -> list[str]:
    """Avro lets text become an amount, and 10.50 become 0.1050: it promotes string to bytes and overlooks logical types."""
    before, after = dict(_leaves(older, "", {})), dict(_leaves(newer, "", {}))
    changed = [path for path in before if path in after and before[path] != after[path]]
    return [f"{path} was {before[path]} and is {after[path]}" for path in changed]


def _leaves(avro: Any, path: str, named: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The path and type of every field that has no parts."""
    if isinstance(avro, str) and avro in named:
        avro = named[avro]
    if isinstance(avro, list):
        for branch in avro:
            if branch != "null":
                yield from _leaves(branch, path, named)
    elif isinstance(avro, dict) and avro["type"] == "record":
        named[f"{avro['namespace']}.{avro['name']}"] = avro
        for field in avro["fields"]:
            yield from _leaves(field["type"], f"{path}.{field['name']}".lstrip("."), named)
    elif isinstance(avro, dict) and avro["type"] == "array":
        yield from _leaves(avro["items"], f"{path}[]", named)
    else:
        yield path, identity(avro)


def topic_problems(kinds: list[type[Message]] | None = None) -> list[str]:
    """Is each family on one topic, and one family alone on each ``.event`` topic?

    There the subject ``<topic>-value`` holds the versions of one record, which is what Connect, ksqlDB and Flink take for
    granted: a table has one schema.
    """
    topics, families = defaultdict(set), defaultdict(set)
    for kind in declared_classes() if kinds is None else kinds:
        topics[family_of(kind.schema)].add(kind.topic)
        families[kind.topic].add(family_of(kind.schema))
    split = [
        f"{family} is on several topics ({', '.join(sorted(names))}). Keep all its versions on one: readers of the old "
        "one would miss the newer messages."
        for family, names in topics.items()
        if len(names) > 1
    ]
    shared = [
        f"{topic} carries several messages ({', '.join(sorted(names))}). An event topic has one record type, because its "
        "schema's subject is the topic's. Give each a topic of its own."
        for topic, names in families.items()
        if topic.endswith(".event") and len(names) > 1
    ]
    return split + shared

"""The steps of every version, as files: what a run that began with a version will do must not change under it.

``apps/<app>/sagas/snapshots/<use case>.v<version>.json``; the app is the first word of the use case's name. A snapshot is
written once, when its version is made, and shows a reviewer what changes. It holds what a running run depends on: names,
kinds and shapes of the steps, in order, with the sagas that are branches of them, and the steps that a run may have
besides. Code may be corrected, and patience, owner and SLA may change, without a new
version.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from django.apps import apps

from apps.saga.definition import Definition, Step, registered

COMMAND = "manage.py saga_snapshots --write"
Folders = dict[str, Path]  # by app


def folders() -> Folders:
    """Where each of our apps keeps its snapshots."""
    ours = [config for config in apps.get_app_configs() if config.name.startswith("apps.")]
    return {config.label: Path(config.path) / "sagas" / "snapshots" for config in ours}


def snapshot_of(definition: Definition) -> dict[str, Any]:
    """What is written of a definition."""
    told: dict[str, Any] = {
        "use_case": definition.use_case,
        "version": definition.version,
        "steps": [_step(step) for step in definition.steps],
    }
    if definition.optional_steps:
        told["optional_steps"] = [_step(step) for step in definition.optional_steps]
    return told


def _step(step: Step) -> dict[str, Any]:
    return {"name": step.name, "kind": step.kind.value, "shape": step.shape, **step.written()}


class Snapshots:
    """The files, beside what the code declares."""

    def __init__(self, definitions: Iterable[Definition] | None = None, at: Folders | None = None) -> None:
        self._definitions = list(registered() if definitions is None else definitions)
        self._folders = folders() if at is None else at

    def write(self) -> list[Path]:
        """Write the files of versions that have none. A file that differs is never overwritten. Safe to repeat."""
        written = []
        for definition in self._definitions:
            path = self._path(definition.use_case, definition.version)
            if path is not None and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(snapshot_of(definition), indent=2) + "\n")
                written.append(path)
        return written

    def steps(self, use_case: str, version: int) -> list[dict[str, Any]] | None:
        """The steps of a version as they were written down; None when nobody did."""
        path = self._path(use_case, version)
        found: list[dict[str, Any]] | None = self._read(path).get("steps") if path and path.exists() else None
        return found

    def problems(self) -> Iterator[str]:
        """What does not agree, and what to do, a sentence each."""
        for definition in self._definitions:
            yield from self._of(definition)
        yield from self._of_files()

    def _of(self, definition: Definition) -> Iterator[str]:
        name = f"{definition.use_case} v{definition.version}"
        path = self._path(definition.use_case, definition.version)
        if path is None:
            yield f"{name} belongs to no app: its name begins with the label of the app that registers it"
        elif not path.exists():
            yield f"{name} has no snapshot. Write it and commit it: {COMMAND}"
        elif self._read(path) != snapshot_of(definition):
            yield (
                f"the steps of {name} have changed, and runs that began with it would go on with steps they never knew. "
                f"Keep it as it was, and register the change as version {self._next(definition.use_case)}. (A version "
                f"that has run nowhere yet: delete {path.name}, then {COMMAND})"
            )

    def _of_files(self) -> Iterator[str]:
        known = {self._path(each.use_case, each.version) for each in self._definitions}
        for folder in self._folders.values():
            for path in sorted(folder.glob("*.json")):
                if path not in known:
                    yield (
                        f"{path.stem} has a snapshot, and nobody registers it: its runs could not finish. Keep its "
                        "definition until no run of it is live; then delete both"
                    )

    def _next(self, use_case: str) -> int:
        return 1 + max(each.version for each in self._definitions if each.use_case == use_case)

    def _path(self, use_case: str, version: int) -> Path | None:
        folder = self._folders.get(use_case.partition(".")[0])
        return folder / f"{use_case}.v{version}.json" if folder else None

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            found = json.loads(path.read_text())
        except ValueError:
            return {}  # differs from every definition
        return found if isinstance(found, dict) else {}

"""Statements that change or lock rows and name a partitioned table: each was looked at. See decision 33."""

import ast
import re
from pathlib import Path

from tests.process import ROOT

TABLES = re.compile(r"\b(saga_run|saga_step|saga_attempt|messaging_message|ledger_transaction)\b")
CHANGES = re.compile(r"\b(UPDATE|DELETE|FOR SHARE|FOR KEY SHARE|MERGE|ON CONFLICT)\b")

# They choose partitions by values that are given, before they run, or choose none.
LOOKED_AT = {
    ("saga/choreography/store.py", "_ATTEMPTS"),
    ("saga/endings.py", "_PARENT"),
    ("saga/endings.py", "_LOCK_NEXT"),
    ("saga/endings.py", "_NEXT"),
    ("saga/locks.py", "_ORPHAN"),
    ("saga/pauses.py", "_LOCK_HELD"),
    ("saga/pauses.py", "_RELEASE"),
    ("saga/storage.py", "_LOCK"),
    ("saga/storage.py", "replace_steps"),
    ("saga/storage.py", "_update"),
    ("saga/sweeper.py", "_LOCK"),
    ("saga/sweeper.py", "_TAKE"),
}


def statements(path: Path) -> set[str]:
    """The names of the constants and functions with such a statement."""
    source = path.read_text()
    lines = source.splitlines()
    found = set()
    for node in ast.parse(source).body:
        for part in ast.walk(node):
            if isinstance(part, ast.JoinedStr):
                text = "\n".join(lines[part.lineno - 1 : part.end_lineno])  # whole lines: ast would split the file for each
            elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                text = part.value
            else:
                continue
            if TABLES.search(text) and CHANGES.search(text):
                found.add(_name(node))
    return found


def _name(node: ast.stmt) -> str:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return str(getattr(node, "name", ""))


def test_each_was_looked_at() -> None:
    """Whoever adds one: does it lock or change a row that others may change, and choose partitions while it runs?"""
    apps = ROOT / "apps"
    found = {
        (str(path.relative_to(apps)), name)
        for path in sorted(apps.rglob("*.py"))
        if "migrations" not in path.parts
        for name in statements(path)
    }
    assert found == LOOKED_AT

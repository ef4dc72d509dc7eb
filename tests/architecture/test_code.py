"""The size and the words of the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
TEXTS = ("py", "md", "toml", "html", "css", "js", "sql", "yaml", "yml")

# Words for work that was left undone, in two halves so that this file does not find itself.
FORBIDDEN = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")) + r")\b")
_SLEEP = "time" + ".sleep"


def files(*folders: str, suffixes: tuple[str, ...] = ("py",)) -> list[Path]:
    found = [path for folder in folders for suffix in suffixes for path in (ROOT / folder).rglob(f"*.{suffix}")]
    return sorted(path for path in found if not {"__pycache__", "node_modules"} & set(path.parts))


def ours() -> list[Path]:
    """Our source, without generated migrations."""
    return [path for path in files("apps", "config") if path.parent.name != "migrations"]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


class TestSize:
    def test_of_a_file_ends_at_400_lines(self) -> None:
        lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in ours()}
        assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES_MAX} == {}

    def test_of_a_function_ends_at_70_lines(self) -> None:
        long = [
            f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
            for path in ours()
            for node in functions(path)
            if (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
        ]
        assert long == []


class TestWords:
    def test_promise_no_work_for_later(self) -> None:
        texts = files("apps", "config", "tests", "docs", "benchmarks", "deploy", suffixes=TEXTS)
        found = [
            f"{path.relative_to(ROOT)}:{number}"
            for path in [*texts, *ROOT.glob("*.md"), ROOT / "Makefile"]
            for number, line in enumerate(path.read_text().splitlines(), start=1)
            if FORBIDDEN.search(line)
        ]
        assert found == []

    def test_no_test_sleeps_to_hide_a_race(self) -> None:
        assert [str(path) for path in files("tests") if _SLEEP in path.read_text()] == []

    def test_there_is_no_room_called_utils(self) -> None:
        names = {"utils", "util", "helpers", "misc"}
        assert [str(path) for path in files("apps", "config") if path.stem in names or path.parent.name in names] == []

    def test_no_file_names_the_machine_it_was_written_on(self) -> None:
        home = str(ROOT) + "/"
        texts = files("apps", "config", "tests", "docs", suffixes=TEXTS)
        assert [str(path) for path in texts if home in path.read_text()] == []


class TestMoney:
    def test_is_never_a_float(self) -> None:
        money = ("money", "postings", "holds", "balances", "vault", "rules")
        wrong = [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for path in ours()
            if path.stem in money
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Name) and node.id == "float"
        ]
        assert wrong == []

    def test_no_column_is_a_float(self) -> None:
        from django.apps import apps
        from django.db import models

        wrong = [
            f"{model.__name__}.{field.name}"
            for model in apps.get_models()
            if model.__module__.startswith("apps.")
            for field in model._meta.get_fields()
            if isinstance(field, models.FloatField)
        ]
        assert wrong == []


class TestTables:
    def test_of_two_apps_share_no_foreign_key(self) -> None:
        from django.apps import apps

        wrong = [
            f"{model.__name__}.{field.name}"
            for model in apps.get_models()
            if model.__module__.startswith("apps.")
            for field in model._meta.get_fields()
            if field.is_relation and field.related_model is not None and not isinstance(field.related_model, str)
            if field.related_model._meta.app_label != model._meta.app_label
        ]
        assert wrong == []


@pytest.mark.parametrize("name", ["unit", "integration"])
class TestLayout:
    def test_every_folder_of_tests_is_named_after_an_app(self, name: str) -> None:
        apps = {path.parent.name for path in ROOT.glob("apps/*/__init__.py")} | {"config"}
        folders = {path.name for path in (ROOT / "tests" / name).iterdir() if path.is_dir() and path.name[0] != "_"}
        assert folders <= apps

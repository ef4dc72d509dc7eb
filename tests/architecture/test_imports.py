"""Doors and floors: who may import what. The contracts of import-linter are in pyproject.toml."""

import functools
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[2]
FOUNDATION = {"common", "observability"}
NEIGHBOURS = {"payments", "ledger", "fiscal_docs", "customers", "analytics"}

# What passes a door without being the door: (importer, imported) with the reason. Keep it short.
EXCEPTIONS: dict[tuple[str, str], str] = {}


@functools.cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("apps", exclude_type_checking_imports=False, cache_dir=None)


def app_of(module: str) -> str:
    return module.split(".")[1]


def is_door(module: str) -> bool:
    contracts = "apps.messaging.contracts"
    return module == f"apps.{app_of(module)}.public" or module == contracts or module.startswith(f"{contracts}.")


def crossings() -> list[tuple[str, str]]:
    """Every import from one app into another, the foundation left out."""
    return [
        (module, imported)
        for module in sorted(graph().modules)
        for imported in sorted(graph().find_modules_directly_imported_by(module))
        if module.count(".") and imported.count(".") and app_of(module) != app_of(imported)
        if app_of(imported) not in FOUNDATION
    ]


class TestDoors:
    def test_are_the_only_way_into_another_app(self) -> None:
        wrong = [pair for pair in crossings() if not is_door(pair[1]) and pair not in EXCEPTIONS]
        assert wrong == []

    def test_have_no_exception_that_nobody_needs(self) -> None:
        assert set(EXCEPTIONS) <= set(crossings())

    def test_are_used_at_all(self) -> None:
        assert len(crossings()) > 20, "the graph is not empty"

    def test_stay_shut_between_neighbours(self) -> None:
        met = [(a, b) for a, b in crossings() if app_of(a) in NEIGHBOURS and app_of(b) in NEIGHBOURS]
        assert met == []

    def test_are_lists_of_imports(self) -> None:
        import ast

        for door in ROOT.glob("apps/*/public.py"):
            for node in ast.parse(door.read_text()).body:
                listing = isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == ["__all__"]
                docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
                assert listing or docstring or isinstance(node, ast.ImportFrom | ast.Import), f"{door}:{node.lineno}"

    def test_hand_out_neither_models_nor_querysets(self) -> None:
        import importlib

        from django.db import models

        for door in ROOT.glob("apps/*/public.py"):
            module = importlib.import_module(f"apps.{door.parent.name}.public")
            assert sorted(module.__all__) == sorted(set(module.__all__)), door
            for name in module.__all__:
                value = getattr(module, name)
                kinds = models.Model | models.QuerySet | models.Manager
                assert not isinstance(value, kinds), f"{door}: {name}"
                assert not (isinstance(value, type) and issubclass(value, kinds)), f"{door}: {name}"


class TestContracts:
    def test_are_kept(self) -> None:
        # In a process of its own: its command line configures logging, and that disables every logger of this one.
        command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
        done = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_give_every_package_a_floor(self) -> None:
        settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
        floors = next(contract for contract in settings["contracts"] if contract["type"] == "layers")
        assert floors["exhaustive"]
        named = {name.strip() for layer in floors["layers"] for name in layer.split("|")}
        assert named == {path.parent.name for path in ROOT.glob("apps/*/__init__.py")}

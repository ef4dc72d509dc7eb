"""Migrations: the tables are what the models say, and each migration does one thing."""

import importlib
from pathlib import Path

import pytest
from django.apps import apps
from django.contrib.postgres.operations import AddIndexConcurrently
from django.core.management import call_command
from django.db import migrations
from django.db.migrations.operations.base import Operation

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for path in ROOT.glob("apps/*/migrations/0*.py"))
# Older ones, that databases may have applied: an index of a column that the same migration adds, or of few rows.
BLOCKING = {"customers-0002_account", "payments-0002_card_testing", "saga-0005_governance", "saga-0007_shapes"}
RAW = (migrations.RunSQL, migrations.RunPython)


def operations(path: Path) -> list[Operation]:
    module = importlib.import_module(f"apps.{path.parents[1].name}.migrations.{path.stem}")
    return list(module.Migration.operations)


class TestMigrations:
    @pytest.mark.django_db
    def test_hold_every_change_of_a_model(self) -> None:
        call_command("makemigrations", check=True, dry_run=True, verbosity=0)

    @pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
    def test_have_one_purpose(self, path: Path) -> None:
        kinds = {isinstance(operation, RAW) for operation in operations(path)}
        assert len(kinds) == 1, "tables in one migration, SQL and data in another: each can be undone by itself"
        assert sum(isinstance(operation, migrations.RunPython) for operation in operations(path)) <= 1

    @pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
    def test_can_be_undone(self, path: Path) -> None:
        assert all(operation.reversible for operation in operations(path))

    @pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
    def test_build_an_index_of_a_table_that_is_in_use_beside_its_writers(self, path: Path) -> None:
        made = {operation.name.lower() for operation in operations(path) if isinstance(operation, migrations.CreateModel)}
        blocking = {
            operation.index.name
            for operation in operations(path)
            if isinstance(operation, migrations.AddIndex) and not isinstance(operation, AddIndexConcurrently)
            if operation.model_name.lower() not in made
        }
        assert not blocking or f"{path.parents[1].name}-{path.stem}" in BLOCKING

    def test_are_there_for_every_app_with_tables(self) -> None:
        with_tables = {config.name.split(".")[1] for config in apps.get_app_configs() if config.name.startswith("apps.")}
        with_tables = {name for name in with_tables if list(apps.get_app_config(name).get_models())}
        assert with_tables == {path.parents[1].name for path in FILES}

    def test_names_no_function_that_postgresql_16_lacks(self) -> None:
        assert [str(path) for path in FILES if "uuidv7(" in path.read_text()] == []

"""An index that is built beside its writers: once, and again after it was broken off."""

import pytest
from django.apps import apps
from django.db import connection
from django.db.migrations.state import ProjectState

from apps.common.online import AddIndexOnline
from apps.fiscal_docs.models import Document

pytestmark = pytest.mark.django_db(transaction=True, available_apps=["apps.fiscal_docs"])  # what it empties afterwards

(INDEX,) = [index for index in Document._meta.indexes if index.name == "fiscal_document_list"]


def sql(statement: str) -> list[tuple[bool, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def is_valid() -> list[tuple[bool, ...]]:
    return sql(f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{INDEX.name}')")


def build() -> list[str]:
    """The statements that change something."""
    done: list[str] = []

    def note(execute, statement, params, many, context):  # type: ignore[no-untyped-def]
        done.extend([statement.split(" ON ")[0]] if not statement.startswith("SELECT") else [])
        return execute(statement, params, many, context)

    state = ProjectState.from_apps(apps)
    with connection.execute_wrapper(note), connection.schema_editor(atomic=False) as editor:
        AddIndexOnline("document", INDEX).database_forwards("fiscal_docs", editor, state, state)
    return done


class TestAddIndexOnline:
    def test_leaves_one_that_is_there(self) -> None:
        assert build() == []

    def test_builds_one_that_is_not(self) -> None:
        sql(f"DROP INDEX {INDEX.name}")
        assert build() == ["SET lock_timeout TO 0", f'CREATE INDEX CONCURRENTLY "{INDEX.name}"', "RESET lock_timeout"]
        assert is_valid() == [(True,)]

    def test_begins_anew_with_one_that_was_broken_off(self) -> None:
        sql(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass('{INDEX.name}')")
        assert build()[1:3] == [f'DROP INDEX CONCURRENTLY "{INDEX.name}"', f'CREATE INDEX CONCURRENTLY "{INDEX.name}"']
        assert is_valid() == [(True,)]

"""The world a test starts from: a real PostgreSQL, and a database made from a template that is migrated once."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import pytest_django
from django.conf import settings
from django.db import connections
from django.test import TransactionTestCase
from psycopg import sql

if TYPE_CHECKING:
    from apps.fiscal_docs.public import RunningSandbox

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE_LOCK = 7_241_115  # any fixed number: builders of the template wait for each other on it


def _migrations_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(ROOT.glob("apps/*/migrations/*.py")):
        digest.update(path.read_bytes())
    digest.update((ROOT / "requirements.txt").read_bytes())
    return digest.hexdigest()[:12]


def _admin_connection() -> psycopg.Connection:
    database = settings.DATABASES["default"]
    return psycopg.connect(
        host=database["HOST"],
        port=database.get("PORT") or None,
        user=database["USER"],
        password=database.get("PASSWORD") or None,
        dbname="postgres",
        autocommit=True,
    )


def _build_template() -> str:
    """Migrate one database; every test database is a copy of it (a copy costs 0.1 s, the migrations several)."""
    from django.core.management import call_command

    name = f"lastro_template_{_migrations_digest()}"
    with _admin_connection() as admin:
        admin.execute("SELECT pg_advisory_lock(%s)", [TEMPLATE_LOCK])
        if admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            return name
        # Crash safety is not what most tests test, and it costs them half their time; tests/failures start their own.
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            if settings.EMBEDDED:
                admin.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(setting)))
        admin.execute("SELECT pg_reload_conf()")
        building = f"{name}_building"
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(building)))
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(building)))
        original = connections["default"].settings_dict["NAME"]
        connections["default"].settings_dict["NAME"] = building
        try:
            call_command("migrate", verbosity=0, interactive=False)
        finally:
            connections["default"].close()
            connections["default"].settings_dict["NAME"] = original
        admin.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(building), sql.Identifier(name)))
    return name


@pytest.fixture(scope="session")
def running_sandbox() -> "Iterator[RunningSandbox]":
    """The tax authority of this session: a real server behind mutual TLS. One, because a process talks to the latest."""
    from apps.fiscal_docs.public import start_sandbox

    running = start_sandbox(announce=False)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_blocker: pytest_django.DjangoDbBlocker) -> None:
    """Several sessions may share the server, so the database is named after the session as well as the worker."""
    database = settings.DATABASES["default"]
    database["OPTIONS"] = {key: value for key, value in database["OPTIONS"].items() if key != "pool"}
    connections["default"].settings_dict["OPTIONS"] = database["OPTIONS"]
    test = connections["default"].settings_dict["TEST"]
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))[:8]
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    test["NAME"] = f"test_lastro_{session}_{worker}"
    with django_db_blocker.unblock():
        test["TEMPLATE"] = _build_template()
    test["MIGRATE"] = False


# Django's own way truncates every table, each partition of it, and writes permissions anew: a quarter second for a test.
# A table that never had a row has no page, and to ask for that is much cheaper than to look.
_EMPTY = """
DO $$
DECLARE
    part text;
    has_rows boolean;
BEGIN
    SET LOCAL session_replication_role = replica;  -- foreign keys do not matter when everything goes
    FOR part IN
        SELECT oid::regclass FROM pg_class
        WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
          AND relname NOT IN ('django_migrations', 'django_content_type', 'auth_permission')
          AND pg_relation_size(oid) > 0
    LOOP
        EXECUTE 'SELECT EXISTS (SELECT FROM ' || part || ')' INTO has_rows;
        IF has_rows THEN
            EXECUTE 'DELETE FROM ' || part;
        END IF;
    END LOOP;
END $$
"""


@pytest.fixture(scope="session", autouse=True)
def _quick_flush() -> Iterator[None]:
    """What a test committed goes away quickly. Needs a superuser, as the embedded server's is; else Django's own way."""
    with _admin_connection() as admin:
        found = admin.execute("SELECT usesuper FROM pg_user WHERE usename = current_user").fetchone()
    if not found or not found[0]:
        yield
        return

    def empty(case: TransactionTestCase) -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute(_EMPTY)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TransactionTestCase, "_fixture_teardown", empty)
        yield


@pytest.fixture(autouse=True)
def _forget_pauses() -> None:
    """What this process remembers of the test before: its rows are gone."""
    from apps.saga import pauses

    pauses.forget()

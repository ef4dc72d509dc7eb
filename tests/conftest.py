"""The world a test starts from: a real PostgreSQL, and a database made from a template that is migrated once."""

import asyncio
import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import pytest_django
from django.conf import settings
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import TransactionTestCase
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from psycopg import sql
from whitenoise.middleware import WhiteNoiseMiddleware

if TYPE_CHECKING:
    from apps.fiscal_docs.public import RunningSandbox

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE_LOCK = 7_241_115  # any fixed number: builders of the template wait for each other on it

# Hypothesis takes an example of more than 200 ms for a failure: it is one nowhere but on a machine with much else to do.
hypothesis_settings.register_profile(
    "lastro", hypothesis_settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("lastro")


def _month() -> str:
    return datetime.now(UTC).strftime("%Y%m")


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

    name = f"lastro_template_{_migrations_digest()}_{_month()}"
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


_AHEAD = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE c.relname ~ '^(saga_[a-z]+|ledger_transaction)_[0-9]{6}$' AND right(c.relname, 6) > to_char(%(now)s, 'YYYYMM')
   OR c.relname ~ '^messaging_message_[0-9]{8}$' AND right(c.relname, 8) > to_char(%(now)s + interval '1 day', 'YYYYMMDD')
"""


def _close_ahead() -> None:
    """Drop the partitions of months and days to which no test comes: every statement on these tables opens each of them."""
    with connections["default"].cursor() as cursor:
        cursor.execute(_AHEAD, {"now": datetime.now(UTC).replace(tzinfo=None)})
        for (name,) in cursor.fetchall():
            cursor.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the groups of xdist 3.8 together: it writes them into an attribute that pytest 9.2 does not read any more.

    Without it tests of one group meet on a server, and each worker starts a browser and a deployment of its own.
    """
    for item in items:
        with_group = getattr(item, "_nodeid", item.nodeid)
        if with_group != item.nodeid:
            item._id = type(item._id).parse(with_group)


def pytest_collection_finish() -> None:
    """Everything is imported: as in every process of ours, the garbage collector need not walk it again and again."""
    from apps.common.processes import settle_down

    settle_down()


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


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: pytest_django.DjangoDbBlocker) -> None:
    """Django migrates the copy once more, without migrations; what follows that opens the partitions ahead."""
    with django_db_blocker.unblock():
        _close_ahead()
        connections["default"].close()


# Django's own way truncates every table, each partition of it, and writes permissions anew: a quarter second for a test.
# A table that never had a row has no page, and to ask for that is much cheaper than to look.
_EMPTY = """
DO $$
DECLARE
    part text;
BEGIN
    SET LOCAL session_replication_role = replica;  -- foreign keys do not matter when everything goes
    FOR part IN
        SELECT oid::regclass FROM pg_class
        WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
          AND relname NOT IN ('django_migrations', 'django_content_type', 'auth_permission')
          AND pg_relation_size(oid) > 0
    LOOP
        EXECUTE 'DELETE FROM ' || part;
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
        patched.setattr(TransactionTestCase, "_should_reload_connections", _closes_connections)
        yield


def _closes_connections(_case: TransactionTestCase) -> bool:
    """Django would close them: a new one makes the server learn every table again, which costs it more than most tests.

    So the next test begins with the same one, as it was made. One that a test has left in disorder goes all the same.
    """
    for connection in connections.all(initialized_only=True):
        if connection.alias != "default" or connection.connection is None or not _is_at_rest(connection):
            connection.close()
            continue
        with connection.cursor() as cursor:
            cursor.execute("RESET ALL; RESET SESSION AUTHORIZATION; UNLISTEN *; SELECT pg_advisory_unlock_all()")
        connection.ensure_timezone()
    return False


def _is_at_rest(connection: BaseDatabaseWrapper) -> bool:
    # Beside a browser an event loop runs in this thread, and who ends the session would not find its connection.
    return (
        asyncio._get_running_loop() is None
        and bool(connection.get_autocommit())
        and not connection.in_atomic_block
        and connection.is_usable()
    )


@pytest.fixture(scope="session", autouse=True)
def _static_files_found_once() -> Iterator[None]:
    """Each test's client builds the middleware anew, which then looks at a thousand files that do not change."""

    def find(middleware: WhiteNoiseMiddleware) -> None:
        if not found:
            original(middleware)
            found.update(middleware.files)
        middleware.files.update(found)

    found: dict[str, Any] = {}
    original = WhiteNoiseMiddleware.add_files_from_finders
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(WhiteNoiseMiddleware, "add_files_from_finders", find)
        yield


@pytest.fixture(autouse=True)
def _forget_pauses() -> None:
    """What this process remembers of the test before: its rows are gone."""
    from apps.saga import pauses
    from apps.webhooks import listening

    pauses.forget()
    listening.forget()

"""``manage.py check``: is the replica another server? With ``--database replica``: is it a replica of ours?"""

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Tags, register
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections

from apps.ledger.replica import REPLICA, is_configured

_SAME = "DATABASE_REPLICA_URL names the primary: questions would be put to it twice."


@register()
def check_replica_is_another(**_options: Any) -> list[CheckMessage]:
    """The settings alone; nothing is contacted."""
    if not is_configured():
        return []
    primary, replica = (connections.databases[name] for name in (DEFAULT_DB_ALIAS, REPLICA))
    places = [(database["HOST"], str(database.get("PORT") or 5432)) for database in (primary, replica)]
    return [Error(_SAME, id="ledger.E001")] if places[0] == places[1] else []


@register(Tags.database)
def check_replica_is_ours(*, databases: Sequence[str] | None = None, **_options: Any) -> list[CheckMessage]:
    """Ask both servers who they are."""
    if not databases or REPLICA not in databases or not is_configured():
        return []
    try:
        with connections[REPLICA].cursor() as cursor:
            cursor.execute("SELECT pg_is_in_recovery(), system_identifier FROM pg_control_system()")
            is_replica, theirs = cursor.fetchone()
        with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
            cursor.execute("SELECT system_identifier FROM pg_control_system()")
            (ours,) = cursor.fetchone()
    except DatabaseError as error:
        return [Error(f"The replica cannot be asked: {error}", id="ledger.E002")]
    if not is_replica or theirs != ours:
        return [Error("DATABASE_REPLICA_URL names a server that is no replica of DATABASE_URL's.", id="ledger.E003")]
    return []

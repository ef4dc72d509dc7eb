"""Where a step remembers: SQLite on one node, PostgreSQL for several, or a class of one's own."""

from typing import TYPE_CHECKING

from lastro_pipes.errors import Misconfigured

if TYPE_CHECKING:
    from lastro_pipes.settings import Settings
    from lastro_pipes.stores.base import Store

SQLITE = "sqlite:///"


def make(settings: "Settings") -> "Store":
    """The store of PIPES_STORE. Raises Misconfigured."""
    if settings.store.startswith(SQLITE):
        from lastro_pipes.stores.sqlite import SqliteStore

        return SqliteStore(settings.store.removeprefix(SQLITE))
    try:
        from lastro_pipes.stores.postgres import PostgresStore
    except ImportError as error:
        raise Misconfigured(
            f"PIPES_STORE is PostgreSQL, and psycopg is not installed: pip install 'lastro-pipes[postgres]'. ({error})"
        ) from error
    return PostgresStore(settings.store)

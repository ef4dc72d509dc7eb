"""Operations of migrations beside which a deployment goes on writing, and that may be repeated after they were broken off.

Note [Built beside the writers]
    CREATE INDEX keeps every writer of its table out until it is built: minutes for millions of rows. CONCURRENTLY does not,
    but needs to be outside a transaction (``atomic = False``), so what is done before it stays when it fails, and what it
    had begun stays as an invalid index of its name. So each operation of such a migration finds out what is left to do.
"""

from typing import Any

from django.contrib.postgres.operations import AddIndexConcurrently


class AddIndexOnline(AddIndexConcurrently):
    """Build an index, unless it is there. See Note [Built beside the writers]. (RemoveIndexConcurrently is alike.)"""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        with schema_editor.connection.cursor() as cursor:
            cursor.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [f'"{self.index.name}"'])
            is_valid = cursor.fetchone()
        if is_valid == (True,):
            return
        # It waits for every transaction that is older, a backup for example, and nobody waits for it.
        schema_editor.execute("SET lock_timeout TO 0")
        try:
            if is_valid == (False,):
                schema_editor.execute(f'DROP INDEX CONCURRENTLY "{self.index.name}"')
            super().database_forwards(app_label, schema_editor, from_state, to_state)
        finally:
            schema_editor.execute("RESET lock_timeout")

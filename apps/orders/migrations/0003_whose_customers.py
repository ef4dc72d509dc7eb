"""Customers whose orders are all of one merchant are that merchant's. The others stay nobody's (docs/decisions/0034)."""

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

BATCH = 1_000  # customers looked at in one commit: their rows are locked for milliseconds

# By primary key from behind the last batch; a customer who was given to somebody meanwhile is left alone.
_GIVE = """
WITH looked_at AS MATERIALIZED (
    SELECT id FROM customers_customer WHERE id > %(after)s ORDER BY id LIMIT %(rows)s
), whose AS (
    SELECT o.customer_id, min(o.account_id) AS account_id FROM looked_at l JOIN orders_order o ON o.customer_id = l.id
    WHERE o.account_id <> '' GROUP BY o.customer_id HAVING count(DISTINCT o.account_id) = 1
), given AS (
    UPDATE customers_customer c SET account_id = w.account_id FROM whose w
    WHERE c.id = w.customer_id AND c.account_id = ''
)
SELECT id FROM looked_at ORDER BY id DESC LIMIT 1
"""


def give(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Batch after batch; each is a commit of its own, and all of it may be repeated."""
    after = "00000000-0000-0000-0000-000000000000"
    with schema_editor.connection.cursor() as cursor:
        while True:
            cursor.execute(_GIVE, {"after": after, "rows": BATCH})
            found = cursor.fetchone()
            if found is None:
                return
            after = found[0]


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("orders", "0002_returns"), ("customers", "0002_account")]

    operations = [migrations.RunPython(give, migrations.RunPython.noop)]

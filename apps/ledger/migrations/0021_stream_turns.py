"""Whose turn it is among streams that post to the same accounts. Not logged: nothing depends on it, and it is written often."""

from django.db import migrations

FORWARD = """
CREATE UNLOGGED TABLE ledger_stream_turn (
    branch text COLLATE "C" PRIMARY KEY, holder uuid NOT NULL, endsat timestamptz NOT NULL
);
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0020_key_rule_after")]
    operations = [migrations.RunSQL(FORWARD, "DROP TABLE ledger_stream_turn")]

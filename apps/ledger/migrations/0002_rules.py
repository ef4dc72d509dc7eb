"""What Django's models can't say: the sequence of lines, foreign keys of several columns, and two rules as triggers."""

from django.db import migrations

FORWARD = """
-- The order of insertion. A default, not an identity column: PostgreSQL 16 has no identity on partitions.
CREATE SEQUENCE ledger_transaction_seq AS bigint;
ALTER TABLE ledger_transaction ALTER COLUMN seq SET DEFAULT nextval('ledger_transaction_seq');
ALTER SEQUENCE ledger_transaction_seq OWNED BY ledger_transaction.seq;

-- Room for updates within the page: no column that changes is indexed.
ALTER TABLE ledger_account SET (fillfactor = 70);
ALTER TABLE ledger_balance SET (fillfactor = 70);

-- Lines have no foreign key: it would cost a lookup for each, and a line is written together with its day, which has one.
ALTER TABLE ledger_balance ADD CONSTRAINT ledger_balance_account FOREIGN KEY (branch, account, currency)
    REFERENCES ledger_account (branch, account, currency);
ALTER TABLE ledger_hold ADD CONSTRAINT ledger_hold_account FOREIGN KEY (branch, account, currency)
    REFERENCES ledger_account (branch, account, currency);
ALTER TABLE ledger_hold ADD CONSTRAINT ledger_hold_credit FOREIGN KEY (creditbranch, creditaccount, currency)
    REFERENCES ledger_account (branch, account, currency);

CREATE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'ledger_transaction is append-only: correct a line by reversing its entry'
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER ledger_transaction_append_only BEFORE UPDATE OR DELETE ON ledger_transaction
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();

-- The legs of an entry are written by one statement, so one look at the statement's rows proves it.
CREATE FUNCTION ledger_check_balanced() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM written WHERE balanced GROUP BY tracekey, currency
        HAVING sum(CASE debitcredit WHEN 'C' THEN amount ELSE -amount END) <> 0
    ) THEN
        RAISE EXCEPTION 'an entry''s debits and credits differ' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER ledger_transaction_balanced AFTER INSERT ON ledger_transaction
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_balanced();
"""

BACKWARD = """
DROP TRIGGER ledger_transaction_balanced ON ledger_transaction;
DROP FUNCTION ledger_check_balanced();
DROP TRIGGER ledger_transaction_append_only ON ledger_transaction;
DROP FUNCTION ledger_refuse_change();
ALTER TABLE ledger_hold DROP CONSTRAINT ledger_hold_credit;
ALTER TABLE ledger_hold DROP CONSTRAINT ledger_hold_account;
ALTER TABLE ledger_balance DROP CONSTRAINT ledger_balance_account;
ALTER TABLE ledger_transaction ALTER COLUMN seq DROP DEFAULT;
DROP SEQUENCE ledger_transaction_seq;
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0001_initial")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]

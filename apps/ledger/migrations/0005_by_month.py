"""Lines by month of dateref, an index less for keys, currencies as a table, and balanced entries proved at the commit.

What is there already is not copied: the old table becomes the partition of all months up to the one after its last line.
The months ahead are opened after every migrate (apps/ledger/apps.py).
"""

from django.db import migrations

FORWARD = """
SET LOCAL lock_timeout = '10s';
DROP TRIGGER ledger_transaction_balanced ON ledger_transaction;
DROP TRIGGER ledger_transaction_append_only ON ledger_transaction;
DROP FUNCTION ledger_check_balanced();
ALTER SEQUENCE ledger_transaction_seq OWNED BY NONE;
ALTER TABLE ledger_transaction RENAME TO ledger_transaction_before;
ALTER TABLE ledger_transaction_before DROP CONSTRAINT ledger_transaction_pkey;
DROP INDEX ledger_transaction_statement;
DO $$
DECLARE
    old text;
BEGIN
    SELECT indexname INTO old FROM pg_indexes
    WHERE tablename = 'ledger_transaction_before' AND indexdef LIKE '%(tracekey)%';
    EXECUTE format('DROP INDEX %I', old);
END $$;

CREATE TABLE ledger_transaction (LIKE ledger_transaction_before INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
    PARTITION BY RANGE (dateref);
ALTER TABLE ledger_transaction ADD CONSTRAINT ledger_transaction_pkey PRIMARY KEY (id, dateref);
CREATE INDEX ledger_transaction_statement ON ledger_transaction (branch, account, currency, dateref, seq);
CREATE INDEX ledger_transaction_tracekey ON ledger_transaction (tracekey);
-- A line whose month has no partition is still taken: a forgotten maintenance task must not stop the business.
CREATE TABLE ledger_transaction_default PARTITION OF ledger_transaction DEFAULT;
ALTER SEQUENCE ledger_transaction_seq OWNED BY ledger_transaction.seq;
DO $$
DECLARE
    last date;
    suffix text;
BEGIN
    SELECT max(dateref) INTO last FROM ledger_transaction_before;
    IF last IS NULL THEN
        DROP TABLE ledger_transaction_before;
        RETURN;
    END IF;
    suffix := to_char(last, 'YYYYMM');
    EXECUTE format('ALTER TABLE ledger_transaction_before RENAME TO %I', 'ledger_transaction_' || suffix);
    EXECUTE format('ALTER TABLE ledger_transaction ATTACH PARTITION %I FOR VALUES FROM (MINVALUE) TO (%L)',
                   'ledger_transaction_' || suffix, (date_trunc('month', last) + interval '1 month')::date);
END $$;

-- For statements on the whole table, which is how everybody writes; opening a month moves rows between partitions.
CREATE TRIGGER ledger_transaction_append_only BEFORE UPDATE OR DELETE ON ledger_transaction
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();

-- The legs of an entry may be written by several statements (one that is deferred waits in the work table), so they are
-- counted at the commit. Single lines do not even queue the check.
CREATE FUNCTION ledger_check_balanced() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM (
            SELECT currency, debitcredit, amount FROM ledger_transaction
            WHERE tracekey = NEW.tracekey AND dateref = NEW.dateref
            UNION ALL
            SELECT currency, debitcredit, amount FROM ledger_deferred WHERE tracekey = NEW.tracekey
        ) leg
        GROUP BY currency HAVING sum(CASE debitcredit WHEN 'C' THEN amount ELSE -amount END) <> 0
    ) THEN
        RAISE EXCEPTION 'an entry''s debits and credits differ' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER ledger_transaction_balanced AFTER INSERT ON ledger_transaction
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.balanced) EXECUTE FUNCTION ledger_check_balanced();
CREATE CONSTRAINT TRIGGER ledger_deferred_balanced AFTER INSERT ON ledger_deferred
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.balanced) EXECUTE FUNCTION ledger_check_balanced();

-- A CHECK would be evaluated with every posting; this only when the key is written.
CREATE FUNCTION ledger_refuse_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'an account''s key is alphanumeric (ledger_account_alphanumeric)'
        USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_account_alphanumeric';
END $$;
CREATE TRIGGER ledger_account_alphanumeric BEFORE INSERT OR UPDATE OF account ON ledger_account
    FOR EACH ROW WHEN (NEW.account !~ '^[0-9A-Za-z][0-9A-Za-z-]{0,39}$') EXECUTE FUNCTION ledger_refuse_key();

-- Emptied all the time.
ALTER TABLE ledger_deferred SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
ALTER TABLE ledger_deferred ADD CONSTRAINT ledger_deferred_of FOREIGN KEY (branch, account, currency)
    REFERENCES ledger_account (branch, account, currency);

INSERT INTO ledger_currency (code, active, description, createdat)
SELECT currency, true, '', now() FROM ledger_account GROUP BY currency;
ALTER TABLE ledger_account ADD CONSTRAINT ledger_account_in_currency FOREIGN KEY (currency)
    REFERENCES ledger_currency (code);
"""

# Copies: nobody goes back with years of history.
BACKWARD = """
SET LOCAL lock_timeout = '10s';
DROP TRIGGER ledger_account_alphanumeric ON ledger_account;
DROP FUNCTION ledger_refuse_key();
ALTER TABLE ledger_account DROP CONSTRAINT ledger_account_in_currency;
DELETE FROM ledger_currency;
ALTER TABLE ledger_deferred DROP CONSTRAINT ledger_deferred_of;
DROP TRIGGER ledger_deferred_balanced ON ledger_deferred;
CREATE TABLE ledger_transaction_plain (LIKE ledger_transaction INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
INSERT INTO ledger_transaction_plain SELECT * FROM ledger_transaction ORDER BY seq;
ALTER SEQUENCE ledger_transaction_seq OWNED BY NONE;
DROP TABLE ledger_transaction;
DROP FUNCTION ledger_check_balanced();
ALTER TABLE ledger_transaction_plain RENAME TO ledger_transaction;
ALTER SEQUENCE ledger_transaction_seq OWNED BY ledger_transaction.seq;
ALTER TABLE ledger_transaction ADD CONSTRAINT ledger_transaction_pkey PRIMARY KEY (id);
CREATE INDEX ledger_transaction_statement ON ledger_transaction (branch, account, currency, dateref, seq);
CREATE INDEX ledger_transaction_tracekey ON ledger_transaction (tracekey);
CREATE TRIGGER ledger_transaction_append_only BEFORE UPDATE OR DELETE ON ledger_transaction
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
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


class Migration(migrations.Migration):
    dependencies = [("ledger", "0004_in_full")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]

"""What is chained and sealed is never changed; and lines are found by their seq. See docs/decisions/0027-ledger-chain.md."""

from django.db import migrations

FORWARD = """
SET LOCAL lock_timeout = '10s';
-- The chain reads ranges of seq. Lines come in its order, so an index of a few entries a megabyte finds them, and a new
-- line rarely changes one.
CREATE INDEX ledger_transaction_seq_brin ON ledger_transaction USING brin (seq);

CREATE FUNCTION ledger_refuse_rewrite() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: the hashes that follow would not match any more', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER ledger_block_append_only BEFORE UPDATE OR DELETE ON ledger_block
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_rewrite();
CREATE TRIGGER ledger_block_part_append_only BEFORE UPDATE OR DELETE ON ledger_block_part
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_rewrite();
CREATE TRIGGER ledger_closing_append_only BEFORE UPDATE OR DELETE ON ledger_closing
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_rewrite();

-- What the lines of an account came to that are in the archive: up to which day, and no line of them above which seq. What
-- proves sums begins here. Quals on an account reach the index of ledger_closing.
DROP VIEW IF EXISTS ledger_opening;
CREATE VIEW ledger_opening AS
SELECT DISTINCT ON (c.branch, c.account, c.currency) c.branch, c.account, c.currency, d.dateref,
    c.accumulateddebit AS debit, c.accumulatedcredit AS credit, d.seq
FROM ledger_closing c
JOIN (SELECT max(month) AS month, (max(month) + interval '1 month - 1 day')::date AS dateref, max(seqlast) AS seq
      FROM ledger_month WHERE state = 'DETACHED') d ON c.month <= d.month
ORDER BY c.branch, c.account, c.currency, c.month DESC;

-- Stands on the partitions of sealed months only, so no other line meets it.
CREATE FUNCTION ledger_refuse_sealed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is sealed: its lines stay as they are', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
"""

BACKWARD = """
SET LOCAL lock_timeout = '10s';
DROP VIEW IF EXISTS ledger_opening;
CREATE VIEW ledger_opening AS
SELECT branch, account, currency, NULL::date AS dateref, posteddebit AS debit, postedcredit AS credit, NULL::bigint AS seq
FROM ledger_account WHERE false;
DROP FUNCTION ledger_refuse_sealed() CASCADE;
DROP FUNCTION ledger_refuse_rewrite() CASCADE;
DROP INDEX ledger_transaction_seq_brin;
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0012_chain")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]

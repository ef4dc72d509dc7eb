"""What is chained and sealed is never changed; and lines are found by their seq. See docs/decisions/0026-ledger-chain.md."""

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

-- Stands on the partitions of sealed months only, so no other line meets it.
CREATE FUNCTION ledger_refuse_sealed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is sealed: its lines stay as they are', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
"""

BACKWARD = """
SET LOCAL lock_timeout = '10s';
DROP FUNCTION ledger_refuse_sealed() CASCADE;
DROP FUNCTION ledger_refuse_rewrite() CASCADE;
DROP INDEX ledger_transaction_seq_brin;
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0008_chain")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]

"""Writers wait for a suspension's end; what is archived has a view. See Note [Suspended] in apps/ledger/suspensions.py."""

from django.db import migrations

FORWARD = """
-- Each look is a statement with a snapshot of its own, and sees who lifted a suspension meanwhile. The time goes on, too.
CREATE FUNCTION ledger_await_resume(p_ids uuid[], p_now timestamptz, p_seconds float8) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_begin timestamptz := clock_timestamp();
BEGIN
    LOOP
        IF NOT EXISTS (SELECT FROM ledger_suspension s WHERE s.id = ANY(p_ids) AND s.liftedat IS NULL
                       AND s.until > p_now + (clock_timestamp() - v_begin)) THEN
            RETURN true;
        END IF;
        IF clock_timestamp() >= v_begin + make_interval(secs => p_seconds) THEN
            RETURN false;
        END IF;
        PERFORM pg_sleep(0.05);
    END LOOP;
END $$;

-- What the lines of an account came to that are no longer in ledger_transaction: up to which day, and their last seq. Empty:
-- nothing is archived. See Note [Increments] in apps/ledger/increments.py.
CREATE VIEW ledger_opening AS
SELECT branch, account, currency, NULL::date AS dateref, posteddebit AS debit, postedcredit AS credit, NULL::bigint AS seq
FROM ledger_account WHERE false;
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0007_care")]
    operations = [migrations.RunSQL(FORWARD, "DROP VIEW ledger_opening; DROP FUNCTION ledger_await_resume;")]

"""Posting obeys suspensions. See Note [Suspended] in apps/ledger/suspensions.py.

``ledger_post_line`` is as in 0006, and looks at suspensions behind the account's lock.
"""

import importlib

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

CREATE OR REPLACE FUNCTION ledger_post_line(
    p_id uuid, p_tracekey uuid, p_bodyhash bytea, p_branch text, p_account text, p_currency text, p_amount numeric,
    p_debitcredit text, p_eventcode int, p_description text, p_details jsonb, p_dateref date, p_today date,
    p_first date, p_now timestamptz, p_sum_max numeric,
    OUT posted numeric, OUT pending numeric, OUT day numeric
) RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
    v_debit numeric := CASE p_debitcredit WHEN 'D' THEN p_amount ELSE 0.00 END;
    v_credit numeric := CASE p_debitcredit WHEN 'D' THEN 0.00 ELSE p_amount END;
    v_account record;
    v_days record;
    v_own numeric;
BEGIN
    INSERT INTO ledger_posting_key (tracekey, bodyhash, state, dateref, createdat)
    VALUES (p_tracekey, p_bodyhash, 'POSTED', p_dateref, p_now) ON CONFLICT (tracekey) DO NOTHING;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT a.id, a.status, a.minbalance, a.posteddebit, a.postedcredit, a.pendingdebit INTO v_account
    FROM ledger_account a
    WHERE a.branch = p_branch AND a.account = p_account AND a.currency = p_currency
        AND a.maxbalance IS NULL AND NOT a.deferred
    FOR NO KEY UPDATE OF a;
    IF NOT FOUND THEN
        DELETE FROM ledger_posting_key WHERE tracekey = p_tracekey;
        RETURN;
    END IF;
    -- A new snapshot, taken with the lock held.
    SELECT min(b.accumulatedcredit - b.accumulateddebit) AS least, coalesce(sum(b.totaldebit), 0.00) AS debits,
        coalesce(sum(b.totalcredit), 0.00) AS credits,
        max(b.totalcredit - b.totaldebit) FILTER (WHERE b.dateref = p_dateref) AS own,
        (SELECT e.active AND CASE p_debitcredit WHEN 'D' THEN e.allowdebit ELSE e.allowcredit END
         FROM ledger_event e WHERE e.code = p_eventcode) AS allowed,
        (SELECT c.closeduntil FROM ledger_branch c WHERE c.branch = p_branch) AS closed,
        EXISTS (SELECT FROM ledger_suspension s WHERE s.liftedat IS NULL AND s.until > p_now
                AND (s.branch IS NULL OR s.branch = p_branch
                     AND (s.account IS NULL OR s.account = p_account AND s.currency = p_currency))) AS suspended
    INTO v_days FROM ledger_balance b
    WHERE b.branch = p_branch AND b.account = p_account AND b.currency = p_currency AND b.dateref >= p_dateref;
    v_own := coalesce(v_days.own, 0.00);
    posted := v_account.postedcredit - v_account.posteddebit;
    pending := v_account.pendingdebit;
    day := posted - v_days.credits + v_days.debits + v_own;
    IF v_days.suspended OR v_account.status <> 'ACTIVE' OR v_days.allowed IS NOT TRUE OR v_days.closed >= p_dateref
        OR p_dateref NOT BETWEEN p_first AND p_today OR (p_dateref < p_today AND pending > 0)
        OR greatest(v_account.posteddebit, v_account.postedcredit) + p_amount > p_sum_max
        OR (p_debitcredit = 'D' AND least(day, v_days.least, posted) - pending - p_amount < v_account.minbalance)
    THEN
        DELETE FROM ledger_posting_key WHERE tracekey = p_tracekey;
        RETURN;
    END IF;
    posted := posted + v_credit - v_debit;
    day := day + v_credit - v_debit;
    WITH account AS (
        UPDATE ledger_account a SET posteddebit = a.posteddebit + v_debit, postedcredit = a.postedcredit + v_credit,
            updatedat = p_now WHERE a.id = v_account.id
    ), stored_day AS (
        UPDATE ledger_balance b SET
            totaldebit = b.totaldebit + CASE b.dateref WHEN p_dateref THEN v_debit ELSE 0.00 END,
            totalcredit = b.totalcredit + CASE b.dateref WHEN p_dateref THEN v_credit ELSE 0.00 END,
            accumulateddebit = b.accumulateddebit + v_debit, accumulatedcredit = b.accumulatedcredit + v_credit,
            updatedtracekey = p_tracekey, updatedat = p_now
        WHERE b.branch = p_branch AND b.account = p_account AND b.currency = p_currency AND b.dateref >= p_dateref
    ), new_day AS (
        INSERT INTO ledger_balance (id, branch, account, currency, dateref, totaldebit, totalcredit, accumulateddebit,
            accumulatedcredit, createdtracekey, updatedtracekey, createdat, updatedat)
        SELECT gen_random_uuid(), p_branch, p_account, p_currency, p_dateref, v_debit, v_credit,
            v_account.posteddebit - v_days.debits + v_debit, v_account.postedcredit - v_days.credits + v_credit,
            p_tracekey, p_tracekey, p_now, p_now
        WHERE v_days.own IS NULL
    )
    INSERT INTO ledger_transaction (id, branch, account, currency, amount, debitcredit, eventcode, description, tracekey,
        details, dateref, balanced, balanceafter, pendingafter, dayafter, daynet, deferred, createdat)
    VALUES (p_id, p_branch, p_account, p_currency, p_amount, p_debitcredit, p_eventcode, p_description, p_tracekey,
        p_details, p_dateref, false, posted, pending, day, v_own + v_credit - v_debit, false, p_now);
    RETURN NEXT;
END $$;
"""

BEFORE = importlib.import_module("apps.ledger.migrations.0006_post_line").FORWARD
BACKWARD = "DROP VIEW ledger_opening; DROP FUNCTION ledger_await_resume;" + BEFORE.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")


class Migration(migrations.Migration):
    dependencies = [("ledger", "0007_care")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]

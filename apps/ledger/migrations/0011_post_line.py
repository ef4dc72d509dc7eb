"""One line posted by fewer statements. See Note [One line] in apps/ledger/singles.py."""

from importlib import import_module

from django.db import migrations

post_line = import_module("apps.ledger.migrations.0006_post_line")

# Simple statements: PostgreSQL prepares each of them faster than one statement that does as much. The fences are those of
# Note [Fences] in apps/ledger/rows.py: key, then account. The account is locked by its own update, whose conditions are
# looked at again on the row that its former owner left; what is read of days and branch is read by later statements.
POST_LINE = """
CREATE OR REPLACE FUNCTION ledger_post_line(
    p_id uuid, p_tracekey uuid, p_bodyhash bytea, p_branch text, p_account text, p_currency text, p_amount numeric,
    p_debitcredit text, p_eventcode int, p_description text, p_details jsonb, p_dateref date, p_today date,
    p_first date, p_now timestamptz, p_sum_max numeric,
    OUT posted numeric, OUT pending numeric, OUT day numeric
) RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
    v_debit numeric := 0.00;
    v_credit numeric := 0.00;
    v_account record;
    v_day record;
    v_own numeric;
    v_later_debits numeric := 0.00;
    v_later_credits numeric := 0.00;
BEGIN
    IF p_debitcredit = 'D' THEN
        v_debit := p_amount;
    ELSE
        v_credit := p_amount;
    END IF;
    INSERT INTO ledger_posting_key (tracekey, bodyhash, state, dateref, createdat)
    VALUES (p_tracekey, p_bodyhash, 'POSTED', p_dateref, p_now) ON CONFLICT (tracekey) DO NOTHING;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF p_dateref < p_today THEN
        IF p_dateref < p_first OR (v_debit > 0 AND NOT ledger_days_bear(p_branch, p_account, p_currency, p_dateref, v_debit))
        THEN
            DELETE FROM ledger_posting_key WHERE tracekey = p_tracekey;
            RETURN;
        END IF;
    END IF;
    UPDATE ledger_account a SET posteddebit = a.posteddebit + v_debit, postedcredit = a.postedcredit + v_credit,
        updatedat = p_now
    WHERE a.branch = p_branch AND a.account = p_account AND a.currency = p_currency
        AND a.status = 'ACTIVE' AND a.maxbalance IS NULL AND NOT a.deferred
        AND (p_dateref = p_today OR (p_dateref < p_today AND a.pendingdebit = 0))
        AND greatest(a.posteddebit, a.postedcredit) + p_amount <= p_sum_max
        AND (v_debit = 0 OR a.minbalance IS NULL
             OR a.postedcredit - a.posteddebit - a.pendingdebit - v_debit >= a.minbalance)
        AND EXISTS (SELECT FROM ledger_event e WHERE e.code = p_eventcode AND e.active
                    AND CASE p_debitcredit WHEN 'D' THEN e.allowdebit ELSE e.allowcredit END)
    RETURNING a.id, a.posteddebit, a.postedcredit, a.pendingdebit INTO v_account;
    IF NOT FOUND THEN
        DELETE FROM ledger_posting_key WHERE tracekey = p_tracekey;
        RETURN;
    END IF;
    IF ledger_is_shut(p_branch, p_account, p_currency, p_dateref, p_now) THEN
        UPDATE ledger_account a SET posteddebit = a.posteddebit - v_debit, postedcredit = a.postedcredit - v_credit
        WHERE a.id = v_account.id;
        DELETE FROM ledger_posting_key WHERE tracekey = p_tracekey;
        RETURN;
    END IF;
    FOR v_day IN
        UPDATE ledger_balance b SET
            totaldebit = b.totaldebit + CASE b.dateref WHEN p_dateref THEN v_debit ELSE 0.00 END,
            totalcredit = b.totalcredit + CASE b.dateref WHEN p_dateref THEN v_credit ELSE 0.00 END,
            accumulateddebit = b.accumulateddebit + v_debit, accumulatedcredit = b.accumulatedcredit + v_credit,
            updatedtracekey = p_tracekey, updatedat = p_now
        WHERE b.branch = p_branch AND b.account = p_account AND b.currency = p_currency AND b.dateref >= p_dateref
        RETURNING b.dateref, b.totaldebit, b.totalcredit
    LOOP
        IF v_day.dateref = p_dateref THEN
            v_own := v_day.totalcredit - v_day.totaldebit;
        ELSE
            v_later_debits := v_later_debits + v_day.totaldebit;
            v_later_credits := v_later_credits + v_day.totalcredit;
        END IF;
    END LOOP;
    IF v_own IS NULL THEN
        INSERT INTO ledger_balance (id, branch, account, currency, dateref, totaldebit, totalcredit, accumulateddebit,
            accumulatedcredit, createdtracekey, updatedtracekey, createdat, updatedat)
        VALUES (gen_random_uuid(), p_branch, p_account, p_currency, p_dateref, v_debit, v_credit,
            v_account.posteddebit - v_later_debits, v_account.postedcredit - v_later_credits,
            p_tracekey, p_tracekey, p_now, p_now);
        v_own := v_credit - v_debit;
    END IF;
    posted := v_account.postedcredit - v_account.posteddebit;
    pending := v_account.pendingdebit;
    day := posted + v_later_debits - v_later_credits;
    INSERT INTO ledger_transaction (id, branch, account, currency, amount, debitcredit, eventcode, description, tracekey,
        details, dateref, balanced, balanceafter, pendingafter, dayafter, daynet, deferred, createdat)
    VALUES (p_id, p_branch, p_account, p_currency, p_amount, p_debitcredit, p_eventcode, p_description, p_tracekey,
        p_details, p_dateref, false, posted, pending, day, v_own, false, p_now);
    RETURN NEXT;
END $$;
"""

# What only somebody who holds the account's lock may ask: whoever closes a day or suspends takes those locks, too.
IS_SHUT = """
CREATE FUNCTION ledger_is_shut(p_branch text, p_account text, p_currency text, p_dateref date, p_now timestamptz)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN EXISTS (SELECT FROM ledger_branch c WHERE c.branch = p_branch AND c.closeduntil >= p_dateref)
        OR EXISTS (SELECT FROM ledger_suspension s WHERE s.liftedat IS NULL AND s.until > p_now
                   AND (s.branch IS NULL OR s.branch = p_branch
                        AND (s.account IS NULL OR s.account = p_account AND s.currency = p_currency))
                   FOR KEY SHARE);
END $$;
"""

# Locks the account before it looks at its days. An account that is not there, or has no floor, bears anything.
DAYS_BEAR = """
CREATE FUNCTION ledger_days_bear(p_branch text, p_account text, p_currency text, p_since date, p_debit numeric)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v record;
BEGIN
    SELECT a.minbalance, a.postedcredit - a.posteddebit AS posted INTO v FROM ledger_account a
    WHERE a.branch = p_branch AND a.account = p_account AND a.currency = p_currency FOR NO KEY UPDATE OF a;
    IF v.minbalance IS NULL THEN
        RETURN true;
    END IF;
    -- The first day of all may have no row: it ends with what was posted, less what later days brought.
    RETURN (
        SELECT least(min(b.accumulatedcredit - b.accumulateddebit), v.posted
            - coalesce(sum(b.totalcredit - b.totaldebit) FILTER (WHERE b.dateref > p_since), 0)) - p_debit >= v.minbalance
        FROM ledger_balance b
        WHERE b.branch = p_branch AND b.account = p_account AND b.currency = p_currency AND b.dateref >= p_since
    );
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0010_one_check")]
    operations = [
        migrations.RunSQL(IS_SHUT, "DROP FUNCTION ledger_is_shut"),
        migrations.RunSQL(DAYS_BEAR, "DROP FUNCTION ledger_days_bear"),
        migrations.RunSQL(POST_LINE, post_line.FORWARD.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")),
    ]

"""A single line in one round trip. See Note [One line] in apps/ledger/singles.py."""

from django.db import migrations

FORWARD = """
CREATE FUNCTION ledger_post_line(
    p_id uuid, p_tracekey uuid, p_bodyhash bytea, p_branch text, p_account text, p_currency text, p_amount numeric,
    p_debitcredit text, p_eventcode int, p_description text, p_details jsonb, p_dateref date, p_today date,
    p_first date, p_now timestamptz, p_sum_max numeric,
    OUT posted numeric, OUT pending numeric, OUT day numeric
) RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
    v_debit numeric := CASE p_debitcredit WHEN 'D' THEN p_amount ELSE 0.00 END;
    v_credit numeric := CASE p_debitcredit WHEN 'D' THEN 0.00 ELSE p_amount END;
    v_account ledger_account;
    v_allowed boolean;
    v_least numeric;
    v_debits numeric;
    v_credits numeric;
    v_own numeric;
    v_before numeric;
BEGIN
    INSERT INTO ledger_posting_key (tracekey, bodyhash, state, dateref, createdat)
    VALUES (p_tracekey, p_bodyhash, 'POSTED', p_dateref, p_now) ON CONFLICT (tracekey) DO NOTHING;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT * INTO v_account FROM ledger_account a
    WHERE a.branch = p_branch AND a.account = p_account AND a.currency = p_currency FOR NO KEY UPDATE;
    -- Every statement from here on has a snapshot of its own, taken with the lock held.
    SELECT e.active AND CASE p_debitcredit WHEN 'D' THEN e.allowdebit ELSE e.allowcredit END
        AND NOT EXISTS (SELECT FROM ledger_branch b WHERE b.branch = p_branch AND b.closeduntil >= p_dateref)
    INTO v_allowed FROM ledger_event e WHERE e.code = p_eventcode;
    IF v_account.id IS NULL OR v_account.status <> 'ACTIVE' OR v_account.deferred OR v_account.maxbalance IS NOT NULL
        OR v_allowed IS NOT TRUE OR p_dateref NOT BETWEEN p_first AND p_today
        OR (p_dateref < p_today AND v_account.pendingdebit > 0)
        OR greatest(v_account.posteddebit, v_account.postedcredit) + p_amount > p_sum_max
    THEN
        DELETE FROM ledger_posting_key WHERE tracekey = p_tracekey;
        RETURN;
    END IF;
    SELECT min(b.accumulatedcredit - b.accumulateddebit), coalesce(sum(b.totaldebit), 0.00), coalesce(sum(b.totalcredit), 0.00),
        max(b.totalcredit - b.totaldebit) FILTER (WHERE b.dateref = p_dateref)
    INTO v_least, v_debits, v_credits, v_own FROM ledger_balance b
    WHERE b.branch = p_branch AND b.account = p_account AND b.currency = p_currency AND b.dateref >= p_dateref;
    posted := v_account.postedcredit - v_account.posteddebit;
    pending := v_account.pendingdebit;
    v_before := posted - v_credits + v_debits;
    day := v_before + coalesce(v_own, 0.00);
    IF p_debitcredit = 'D' AND least(day, v_least, posted) - pending - p_amount < v_account.minbalance THEN
        DELETE FROM ledger_posting_key WHERE tracekey = p_tracekey;
        RETURN;
    END IF;
    posted := posted + v_credit - v_debit;
    day := day + v_credit - v_debit;
    INSERT INTO ledger_transaction (id, branch, account, currency, amount, debitcredit, eventcode, description, tracekey,
        details, dateref, balanced, balanceafter, pendingafter, dayafter, daynet, deferred, createdat)
    VALUES (p_id, p_branch, p_account, p_currency, p_amount, p_debitcredit, p_eventcode, p_description, p_tracekey,
        p_details, p_dateref, false, posted, pending, day, coalesce(v_own, 0.00) + v_credit - v_debit, false, p_now);
    UPDATE ledger_account a SET posteddebit = a.posteddebit + v_debit, postedcredit = a.postedcredit + v_credit,
        updatedat = p_now WHERE a.id = v_account.id;
    UPDATE ledger_balance b SET
        totaldebit = b.totaldebit + CASE b.dateref WHEN p_dateref THEN v_debit ELSE 0.00 END,
        totalcredit = b.totalcredit + CASE b.dateref WHEN p_dateref THEN v_credit ELSE 0.00 END,
        accumulateddebit = b.accumulateddebit + v_debit, accumulatedcredit = b.accumulatedcredit + v_credit,
        updatedtracekey = p_tracekey, updatedat = p_now
    WHERE b.branch = p_branch AND b.account = p_account AND b.currency = p_currency AND b.dateref >= p_dateref;
    IF v_own IS NULL THEN
        INSERT INTO ledger_balance (id, branch, account, currency, dateref, totaldebit, totalcredit, accumulateddebit,
            accumulatedcredit, createdtracekey, updatedtracekey, createdat, updatedat)
        VALUES (gen_random_uuid(), p_branch, p_account, p_currency, p_dateref, v_debit, v_credit,
            v_account.posteddebit - v_debits + v_debit, v_account.postedcredit - v_credits + v_credit,
            p_tracekey, p_tracekey, p_now, p_now);
    END IF;
    RETURN NEXT;
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0005_by_month")]
    operations = [migrations.RunSQL(FORWARD, "DROP FUNCTION ledger_post_line")]

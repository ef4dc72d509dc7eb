"""One line posted with less work for each statement. See Note [One line] in apps/ledger/singles.py.

The functions of these names with other arguments (0016) stay for processes that still run the release before.
"""

from django.db import migrations

# A statement costs its preparation, node by node, and a variable of a record costs more than a plain one. So: the event is
# read by the claim; the own day is updated by itself, the later ones only when there are any, which the sums say; and the
# answer is one value. The fences are those of Note [Fences] in apps/ledger/rows.py: key, then account, which is locked by
# its own update, whose conditions are looked at again on the row that its former owner left. What is read of days, branch
# and suspensions is read by later statements. Sums end where numeric(20, 2) does: SUM_MAX in apps/ledger/rules.py.
POST_LINE = """
CREATE FUNCTION ledger_post_line(
    p_id uuid, p_tracekey uuid, p_bodyhash bytea, p_branch text, p_account text, p_currency text, p_amount numeric,
    p_debitcredit text, p_eventcode int, p_description text, p_details jsonb, p_dateref date, p_today date, p_now timestamptz
) RETURNS numeric[] LANGUAGE plpgsql AS $$
DECLARE
    v_debit numeric := 0.00;
    v_credit numeric := 0.00;
    v_debits numeric;
    v_credits numeric;
    v_pending numeric;
    v_floor numeric;
    v_day_debits numeric;
    v_day_credits numeric;
    v_own numeric;
    v_last boolean;
    v_left boolean;
BEGIN
    IF p_debitcredit = 'D' THEN
        v_debit := p_amount;
    ELSE
        v_credit := p_amount;
    END IF;
    INSERT INTO ledger_posting_key (tracekey, bodyhash, state, dateref, createdat)
    SELECT p_tracekey, p_bodyhash, 'POSTED', p_dateref, p_now FROM ledger_event e
    WHERE e.code = p_eventcode AND e.active AND CASE p_debitcredit WHEN 'D' THEN e.allowdebit ELSE e.allowcredit END
    ON CONFLICT (tracekey) DO NOTHING;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    UPDATE ledger_account a SET posteddebit = a.posteddebit + v_debit, postedcredit = a.postedcredit + v_credit,
        updatedat = p_now
    WHERE a.branch = p_branch AND a.account = p_account AND a.currency = p_currency
        AND a.status = 'ACTIVE' AND a.maxbalance IS NULL AND NOT a.deferred
        AND (p_dateref = p_today OR a.pendingdebit = 0)
        AND greatest(a.posteddebit, a.postedcredit) + p_amount <= 999999999999999999.99
        AND (v_debit = 0 OR a.minbalance IS NULL
             OR a.postedcredit - a.posteddebit - a.pendingdebit - v_debit >= a.minbalance)
    RETURNING a.posteddebit, a.postedcredit, a.pendingdebit, a.minbalance,
        p_dateref = p_today AND v_debit > 0 AND a.minbalance IS NOT NULL
    INTO v_debits, v_credits, v_pending, v_floor, v_last;
    IF NOT FOUND THEN
        DELETE FROM ledger_posting_key WHERE tracekey = p_tracekey;
        RETURN NULL;
    END IF;
    -- Only an owner of the account's lock may ask: whoever closes a day or suspends takes these locks, too.
    v_left := EXISTS (SELECT FROM ledger_branch c WHERE c.branch = p_branch AND c.closeduntil >= p_dateref)
        OR EXISTS (SELECT FROM ledger_suspension s WHERE s.liftedat IS NULL AND s.until > p_now
                   AND (s.branch IS NULL OR s.branch = p_branch
                        AND (s.account IS NULL OR s.account = p_account AND s.currency = p_currency))
                   FOR KEY SHARE)
        OR (p_dateref < p_today AND v_debit > 0
            AND NOT ledger_days_bear(p_branch, p_account, p_currency, p_dateref, v_credits - v_debits, v_debit, v_floor));
    IF NOT v_left THEN
        -- Where a floor is, a debit of today has to be on the account's last day: then the day's sums are the account's.
        UPDATE ledger_balance b SET totaldebit = b.totaldebit + v_debit, totalcredit = b.totalcredit + v_credit,
            accumulateddebit = b.accumulateddebit + v_debit, accumulatedcredit = b.accumulatedcredit + v_credit,
            updatedtracekey = p_tracekey, updatedat = p_now
        WHERE b.branch = p_branch AND b.account = p_account AND b.currency = p_currency AND b.dateref = p_dateref
            AND (NOT v_last OR (b.accumulateddebit = v_debits - v_debit AND b.accumulatedcredit = v_credits))
        RETURNING b.totalcredit - b.totaldebit, b.accumulateddebit, b.accumulatedcredit
        INTO v_own, v_day_debits, v_day_credits;
        IF NOT FOUND THEN
            SELECT v_debits - coalesce(sum(b.totaldebit), 0.00), v_credits - coalesce(sum(b.totalcredit), 0.00),
                v_last AND count(*) > 0
            INTO v_day_debits, v_day_credits, v_left FROM ledger_balance b
            WHERE b.branch = p_branch AND b.account = p_account AND b.currency = p_currency AND b.dateref >= p_dateref;
            IF NOT v_left THEN
                v_own := v_credit - v_debit;
                INSERT INTO ledger_balance (id, branch, account, currency, dateref, totaldebit, totalcredit,
                    accumulateddebit, accumulatedcredit, createdtracekey, updatedtracekey, createdat, updatedat)
                VALUES (gen_random_uuid(), p_branch, p_account, p_currency, p_dateref, v_debit, v_credit, v_day_debits,
                    v_day_credits, p_tracekey, p_tracekey, p_now, p_now);
            END IF;
        END IF;
    END IF;
    IF v_left THEN
        UPDATE ledger_account a SET posteddebit = a.posteddebit - v_debit, postedcredit = a.postedcredit - v_credit
        WHERE a.branch = p_branch AND a.account = p_account AND a.currency = p_currency;
        DELETE FROM ledger_posting_key WHERE tracekey = p_tracekey;
        RETURN NULL;
    END IF;
    IF v_day_debits <> v_debits OR v_day_credits <> v_credits THEN
        UPDATE ledger_balance b SET
            accumulateddebit = b.accumulateddebit + v_debit, accumulatedcredit = b.accumulatedcredit + v_credit,
            updatedtracekey = p_tracekey, updatedat = p_now
        WHERE b.branch = p_branch AND b.account = p_account AND b.currency = p_currency AND b.dateref > p_dateref;
    END IF;
    INSERT INTO ledger_transaction (id, branch, account, currency, amount, debitcredit, eventcode, description, tracekey,
        details, dateref, balanced, balanceafter, pendingafter, dayafter, daynet, deferred, createdat)
    VALUES (p_id, p_branch, p_account, p_currency, p_amount, p_debitcredit, p_eventcode, p_description, p_tracekey,
        p_details, p_dateref, false, v_credits - v_debits, v_pending, v_day_credits - v_day_debits, v_own, false, p_now);
    RETURN ARRAY[v_credits - v_debits, v_pending, v_day_credits - v_day_debits];
END $$;
"""

# Does no day from p_since on end below the floor? p_posted is the account's balance with the debit, which its days have not
# yet. The first day of all may have no row: it ends with what was posted, less what later days brought.
DAYS_BEAR = """
CREATE FUNCTION ledger_days_bear(p_branch text, p_account text, p_currency text, p_since date, p_posted numeric,
    p_debit numeric, p_floor numeric)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN p_floor IS NULL OR (
        SELECT least(min(b.accumulatedcredit - b.accumulateddebit) - p_debit, p_posted
            - coalesce(sum(b.totalcredit - b.totaldebit) FILTER (WHERE b.dateref > p_since), 0)) >= p_floor
        FROM ledger_balance b
        WHERE b.branch = p_branch AND b.account = p_account AND b.currency = p_currency AND b.dateref >= p_since
    );
END $$;
"""

_DAYS_BEAR = "ledger_days_bear(text, text, text, date, numeric, numeric, numeric)"
_POST_LINE = (
    "ledger_post_line(uuid, uuid, bytea, text, text, text, numeric, text, int, text, jsonb, date, date, timestamptz)"
)


class Migration(migrations.Migration):
    dependencies = [("ledger", "0017_checked_by_type")]
    operations = [
        migrations.RunSQL(DAYS_BEAR, f"DROP FUNCTION {_DAYS_BEAR}"),
        migrations.RunSQL(POST_LINE, f"DROP FUNCTION {_POST_LINE}"),
    ]

"""The peers of ``ledger.py``: the seed's engine (one CTE per transaction, as published) and a bare COPY."""

# The seed's tables as described: no index but the keys, and the one that its ON CONFLICT needs.
SEED_TABLES = """
CREATE SCHEMA flow;
CREATE TABLE flow.transaction (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), branch text NOT NULL, account text NOT NULL, amount numeric(15,2)
    NOT NULL, debitcredit varchar(1) NOT NULL CHECK (debitcredit IN ('D', 'C')), eventcode int4 NOT NULL, description text,
    tracekey uuid, details json, dateref date NOT NULL, createdat timestamptz DEFAULT now());
CREATE TABLE flow.balance (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), branch text NOT NULL, account text NOT NULL, dateref date NOT NULL,
    totaldebit numeric(15,2), totalcredit numeric(15,2), createdat timestamptz DEFAULT now(), tracekey uuid,
    acumulateddebit numeric(15,2), acumulatedcredit numeric(15,2), UNIQUE (branch, account, dateref));
"""

SEED_ENGINE = """
with ins_trans as (
    insert into flow.transaction (branch, account, amount, debitcredit, eventcode, description, tracekey, details, dateref)
    select %s, %s, %s, %s, %s, %s, %s::uuid, %s::json, %s
    returning *
), block_day as (
    select * from flow.balance where (branch, account, dateref) in (
        select balance.branch, balance.account, balance.dateref from ins_trans inner join flow.balance on
        ins_trans.branch = balance.branch and ins_trans.account = balance.account
        and ins_trans.dateref <= balance.dateref) for update
), acum as (
    select balance.branch, balance.account, balance.dateref, balance.acumulateddebit, balance.acumulatedcredit
    from flow.balance inner join ins_trans on balance.branch = ins_trans.branch and balance.account = ins_trans.account
        and balance.dateref < ins_trans.dateref
    order by balance.dateref desc limit 1
), total as (
    select branch, account, case when debitcredit = 'D' then amount else 0 end totaldebit,
        case when debitcredit = 'C' then amount else 0 end totalcredit
    from ins_trans
), ins_balance as (
    insert into flow.balance (branch, account, dateref, totaldebit, totalcredit, acumulateddebit, acumulatedcredit,
        tracekey)
    select ins_trans.branch, ins_trans.account, ins_trans.dateref, total.totaldebit, total.totalcredit,
        coalesce(acum.acumulateddebit, 0) + total.totaldebit, coalesce(acum.acumulatedcredit, 0) + total.totalcredit,
        tracekey
    from ins_trans
    left join acum on ins_trans.branch = acum.branch and ins_trans.account = acum.account
    join total on ins_trans.branch = total.branch and ins_trans.account = total.account
    on conflict (branch, account, dateref) do update set
        totaldebit = balance.totaldebit + coalesce(excluded.totaldebit, 0),
        totalcredit = balance.totalcredit + coalesce(excluded.totalcredit, 0),
        acumulateddebit = balance.acumulateddebit + coalesce(excluded.totaldebit, 0),
        acumulatedcredit = balance.acumulatedcredit + coalesce(excluded.totalcredit, 0)
    returning *
), update_next_balances as (
    update flow.balance set acumulateddebit = acumulateddebit + total.totaldebit,
        acumulatedcredit = acumulatedcredit + total.totalcredit
    from ins_trans, total
    where balance.dateref > ins_trans.dateref and balance.branch = ins_trans.branch
        and balance.account = ins_trans.account
)
select id::text, tracekey::text from ins_trans
"""

SEED_WRONG = """
SELECT count(*) FROM (
    SELECT b.acumulateddebit AS d, b.acumulatedcredit AS c,
        sum(t.d) OVER w AS proven_d, sum(t.c) OVER w AS proven_c, b.totaldebit AS own_d,
        b.totalcredit AS own_c, t.d AS td, t.c AS tc
    FROM flow.balance b
    FULL JOIN (SELECT branch, account, dateref, coalesce(sum(amount) FILTER (WHERE debitcredit = 'D'), 0) AS d,
        coalesce(sum(amount) FILTER (WHERE debitcredit = 'C'), 0) AS c FROM flow.transaction GROUP BY 1, 2, 3) t
        USING (branch, account, dateref)
    WINDOW w AS (PARTITION BY branch, account ORDER BY dateref)
) x WHERE d IS DISTINCT FROM proven_d OR c IS DISTINCT FROM proven_c OR own_d IS DISTINCT FROM td
    OR own_c IS DISTINCT FROM tc
"""

OURS_WRONG = """
SELECT count(*) FROM (
    SELECT b.accumulateddebit AS d, b.accumulatedcredit AS c,
        sum(t.d) OVER w AS proven_d, sum(t.c) OVER w AS proven_c, b.totaldebit AS own_d,
        b.totalcredit AS own_c, t.d AS td, t.c AS tc
    FROM ledger_balance b
    FULL JOIN (SELECT branch, account, currency, dateref, coalesce(sum(amount) FILTER (WHERE debitcredit = 'D'), 0) AS d,
        coalesce(sum(amount) FILTER (WHERE debitcredit = 'C'), 0) AS c FROM ledger_transaction GROUP BY 1, 2, 3, 4) t
        USING (branch, account, currency, dateref)
    WINDOW w AS (PARTITION BY branch, account, currency ORDER BY dateref)
) x WHERE d IS DISTINCT FROM proven_d OR c IS DISTINCT FROM proven_c OR own_d IS DISTINCT FROM td
    OR own_c IS DISTINCT FROM tc
"""

# The same columns, indexes, constraints, trigger and months, without the engine.
COPY_TABLE = """
CREATE TABLE bench_copy (LIKE ledger_transaction INCLUDING ALL) PARTITION BY RANGE (dateref);
DO $$
DECLARE
    month record;
BEGIN
    FOR month IN
        SELECT replace(c.relname, 'ledger_transaction', 'bench_copy') AS name, pg_get_expr(c.relpartbound, c.oid) AS bound
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'ledger_transaction'::regclass
    LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF bench_copy %s', month.name, month.bound);
    END LOOP;
END $$;
CREATE CONSTRAINT TRIGGER bench_copy_balanced AFTER INSERT ON bench_copy
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.balanced) EXECUTE FUNCTION ledger_check_balanced();
"""
COPY = """COPY bench_copy (id, branch, account, currency, amount, debitcredit, eventcode, description, tracekey, details,
dateref, balanced, balanceafter, pendingafter, dayafter, daynet, deferred, createdat) FROM STDIN"""

# A day of history: lines, their keys, and the day's balances. The ids go up, as they did when it happened; tracekeys are
# what callers chose. Indexes by tracekey are made afterwards, and the foreign key is not asked 720,000 times.
HISTORY_BEGIN = """
SET synchronous_commit = off;
SET session_replication_role = replica;
DROP INDEX ledger_transaction_tracekey;
ALTER TABLE ledger_posting_key DROP CONSTRAINT ledger_posting_key_pkey;
"""
HISTORY_DAY = """
INSERT INTO ledger_transaction (id, branch, account, currency, amount, debitcredit, eventcode, description, tracekey,
    dateref, createdat, balanced, balanceafter, pendingafter, dayafter, daynet)
SELECT (lpad(to_hex(%(first)s + n), 12, '0') || substr(gen_random_uuid()::text, 15))::uuid, '0001',
    lpad((n %% 1000)::text, 9, '0'), 'BRL', 1, 'C', 1, 'history', gen_random_uuid(), %(day)s, %(day)s, false,
    %(sum)s - %(each)s + (n + 999) / 1000, 0, %(sum)s - %(each)s + (n + 999) / 1000, (n + 999) / 1000
FROM generate_series(1, %(each)s * 1000) n;
INSERT INTO ledger_posting_key (tracekey, bodyhash, state, dateref, createdat)
SELECT tracekey, sha256(tracekey::text::bytea), 'POSTED', dateref, createdat FROM ledger_transaction
WHERE dateref = %(day)s;
INSERT INTO ledger_balance (id, branch, account, currency, dateref, totaldebit, totalcredit, accumulateddebit,
    accumulatedcredit, createdtracekey, updatedtracekey, createdat, updatedat)
SELECT gen_random_uuid(), '0001', lpad(n::text, 9, '0'), 'BRL', %(day)s, 0, %(each)s, 0, %(sum)s, gen_random_uuid(),
    gen_random_uuid(), %(day)s, %(day)s FROM generate_series(0, 999) n;
"""
HISTORY_END = """
UPDATE ledger_account SET postedcredit = postedcredit + %(total)s WHERE account ~ '^0';
ALTER TABLE ledger_posting_key ADD CONSTRAINT ledger_posting_key_pkey PRIMARY KEY (tracekey);
CREATE INDEX ledger_transaction_tracekey ON ledger_transaction (tracekey);
RESET session_replication_role;
RESET synchronous_commit;
"""

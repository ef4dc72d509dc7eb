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

# The same columns, indexes and constraints, without the engine.
COPY_TABLE = """
CREATE TABLE bench_copy (LIKE ledger_transaction INCLUDING ALL) PARTITION BY RANGE (dateref);
CREATE TABLE bench_copy_all PARTITION OF bench_copy DEFAULT;
"""
COPY = """COPY bench_copy (id, branch, account, currency, amount, debitcredit, eventcode, description, tracekey, details,
dateref, balanced, balanceafter, pendingafter, dayafter, daynet, deferred, createdat) FROM STDIN"""

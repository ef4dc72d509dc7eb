"""The database says each rule again, to whoever writes without the engine."""

import pytest
from django.db import IntegrityError, connection, transaction

from apps.common.clock import uuid7
from tests.integration.ledger.conftest import ANA, BOB, fund, move, post

pytestmark = pytest.mark.usefixtures("bank")

LINE = (
    "INSERT INTO ledger_transaction (id, branch, account, currency, amount, debitcredit, eventcode, description, tracekey,"
    " dateref, createdat, balanced, balanceafter, pendingafter, dayafter, daynet) SELECT gen_random_uuid(), '0001',"
    " '000000001', 'BRL', {amount}, '{side}', 1, '', '00000000-0000-0000-0000-000000000001', '2026-03-18', now(),"
    " {balanced}, 0, 0, 0, 0 FROM generate_series(1, 2) n"
)


def refused(sql: str) -> str:
    with pytest.raises(IntegrityError) as caught, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"{sql}; SET CONSTRAINTS ALL IMMEDIATE")  # what else the commit would check
    return str(caught.value)


class TestTables:
    @pytest.mark.parametrize(
        ("constraint", "sql"),
        [
            ("ledger_transaction_amount_positive", LINE.format(amount=0, side="C", balanced=False)),
            ("ledger_transaction_side", LINE.format(amount=1, side="X", balanced=False)),
            ("ledger_posting_key_state", "UPDATE ledger_posting_key SET state = 'GONE'"),
            ("debits and credits differ", LINE.format(amount=1, side="C", balanced=True)),
            ("append-only", "UPDATE ledger_transaction SET amount = 1"),
            ("append-only", "DELETE FROM ledger_transaction"),
            ("ledger_account_above_floor", "UPDATE ledger_account SET posteddebit = 1000"),
            ("ledger_account_above_floor", "UPDATE ledger_account SET pendingdebit = 101 WHERE account = '000000001'"),
            ("ledger_account_floor_not_positive", "UPDATE ledger_account SET minbalance = 1 WHERE account = '000000001'"),
            ("ledger_account_sums_not_negative", "UPDATE ledger_account SET pendingdebit = -1 WHERE account = 'CLEARING'"),
            ("ledger_account_status", "UPDATE ledger_account SET status = 'GONE' WHERE account = 'CLEARING'"),
            ("ledger_account_below_ceiling", "UPDATE ledger_account SET maxbalance = 98 WHERE account = '000000001'"),
            ("ledger_account_ceiling_not_negative", "UPDATE ledger_account SET maxbalance = -1 WHERE account = 'LIMITED'"),
            ("ledger_account_deferred_unguarded", "UPDATE ledger_account SET deferred = true WHERE account = 'LIMITED'"),
            ("ledger_account_closed_empty", "UPDATE ledger_account SET status = 'CLOSED' WHERE account = '000000001'"),
            ("ledger_account_key", "UPDATE ledger_account SET account = 'same'"),
            ("ledger_account_alphanumeric", "UPDATE ledger_account SET account = 'a b' WHERE account = 'CLEARING'"),
            ("ledger_branch_alphanumeric", "INSERT INTO ledger_branch VALUES ('a b', '', now())"),
            ("ledger_event_code_positive", "INSERT INTO ledger_event VALUES (0, true, '', true, true, now())"),
            ("ledger_balance_sums", "UPDATE ledger_balance SET accumulatedcredit = totalcredit - 1"),
            ("ledger_balance_day", "UPDATE ledger_balance SET account = '000000001'"),
            ("ledger_balance_account", "UPDATE ledger_balance SET account = 'nobody' WHERE account = '000000001'"),
            (
                "ledger_hold_whole_or_tombstone",
                "INSERT INTO ledger_hold (id, key, status, dateref, createdat) "
                "VALUES (gen_random_uuid(), 'k', 'OPEN', '2026-03-18', now())",
            ),
            (
                "ledger_hold_ended",
                "INSERT INTO ledger_hold (id, key, status, dateref, createdat) "
                "VALUES (gen_random_uuid(), 'k', 'VOIDED', '2026-03-18', now())",
            ),
            (
                "ledger_hold_posted",
                "INSERT INTO ledger_hold (id, key, status, branch, account, currency, amount, dateref, createdat, endedat) "
                "VALUES (gen_random_uuid(), 'k', 'POSTED', '0001', '000000001', 'BRL', 1, '2026-03-18', now(), now())",
            ),
        ],
    )
    def test_refuse(self, constraint: str, sql: str) -> None:
        fund(ANA, 100)
        post(move(ANA, BOB, 1))
        assert constraint in refused(sql)

    def test_an_entry_is_reversed_by_one_other_at_most(self) -> None:
        insert = (
            "INSERT INTO ledger_posting_key (tracekey, bodyhash, state, reverses, createdat) "
            f"SELECT gen_random_uuid(), '', 'POSTED', '{uuid7()}', now() FROM generate_series(1, 2)"
        )
        assert "reverses" in refused(insert)

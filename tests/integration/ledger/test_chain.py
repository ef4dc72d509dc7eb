"""Lines are hashed block after block, and whatever is done to them or to the blocks afterwards is found."""

import hashlib
import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, OperationalError, connection, transaction

from apps.ledger import chain
from apps.ledger.chain_models import Block, BlockPart, Horizon
from apps.ledger.chain_proof import DAMAGES_MAX, verify_chain
from apps.ledger.models import Transaction
from apps.ledger.tasks import chain as chain_task
from apps.ledger.tasks import tell_head
from tests.integration.ledger.chained import FEBRUARY, JANUARY, MARCH, chain_all, damage, restart_numbers, two_months
from tests.integration.ledger.conftest import ANA, NOW, fund, post_batch

pytestmark = pytest.mark.usefixtures("bank")

LINES = 9


@pytest.fixture
def chained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three blocks of four numbers each, the last one of one line."""
    monkeypatch.setattr(chain, "BLOCK_NUMBERS_MAX", 4)
    two_months()
    assert chain_all() == 3


class TestChain:
    def test_covers_every_number_with_blocks_that_follow_each_other(self, chained: None) -> None:
        blocks = list(Block.objects.order_by("number"))
        assert [(block.number, block.seq_from, block.seq_to, block.lines) for block in blocks] == [
            (1, 1, 4, 4),
            (2, 5, 8, 4),
            (3, 9, 9, 1),
        ]
        assert [bytes(block.previous) for block in blocks] == [bytes(32), bytes(blocks[0].hash), bytes(blocks[1].hash)]

    def test_has_a_part_for_each_month_of_a_block(self, chained: None) -> None:
        parts = BlockPart.objects.order_by("number", "month").values_list("number", "month", "lines", "debits", "credits")
        assert list(parts) == [
            (1, JANUARY, 4, 30.5, 110.5),
            (2, JANUARY, 2, 0, 23),
            (2, FEBRUARY, 2, 0, 8),
            (3, MARCH, 1, 0, 5),
        ]

    def test_hashes_exactly_the_bytes_that_are_documented(self, chained: None) -> None:
        row = Transaction.objects.get(seq=1)
        line = [
            1,
            str(row.id),
            "0001",
            ANA.account,
            "BRL",
            "100.00",
            "C",
            1,
            "",
            "00000000-0000-0000-0000-000000000001",
            '{"name": "Zoë \u2028 \\t", "rate": "1.10"}',
            "2026-01-20",
            int(row.created_at.timestamp()) * 1_000_000,
            False,
            False,
            "100.00",
            "0.00",
            "100.00",
            "100.00",
        ]
        text = json.dumps(line, separators=(",", ":")) + "\n"
        (own,) = chain.lines_between(1, 1)
        assert json.dumps(own, separators=(",", ":")) + "\n" == text
        damage("DELETE FROM ledger_block", "DELETE FROM ledger_block_part", "DELETE FROM ledger_transaction WHERE seq > 1")
        chain_all()
        assert bytes(BlockPart.objects.get().hash) == hashlib.sha256(text.encode()).digest()

    def test_makes_nothing_when_nothing_was_posted_since(self, chained: None) -> None:
        assert chain_all() == 0
        fund(ANA, 1)
        assert chain_all() == 1

    def test_leaves_what_is_too_much_for_a_call_to_the_next_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(chain, "BLOCK_NUMBERS_MAX", 1)
        two_months()
        assert chain.chain(now=NOW, blocks_max=2) == 2
        assert chain_all() == LINES - 2
        assert chain.chain(now=NOW) == 0

    def test_covers_numbers_that_nobody_used(self) -> None:
        restart_numbers()
        with transaction.atomic():
            fund(ANA, 1)
            transaction.set_rollback(True)
        chain_all()
        assert Block.objects.get().lines == 0
        assert not verify_chain().damages

    def test_refuses_a_sequence_whose_numbers_are_kept_for_later(self) -> None:
        fund(ANA, 1)
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute("ALTER SEQUENCE ledger_transaction_seq CACHE 10")
        with pytest.raises(RuntimeError, match="CACHE"):
            chain.chain(now=NOW)

    def test_is_done_by_its_task_and_its_head_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        tell_head(newer=True)  # before there is one
        two_months()
        with caplog.at_level("INFO", logger="apps.ledger.tasks"):
            chain_task(newer=True)
            tell_head(newer=True)
        assert str(Block.objects.get()) in caplog.text

    @pytest.mark.parametrize("table", ["ledger_block", "ledger_block_part", "ledger_closing"])
    def test_is_append_only(self, chained: None, table: str) -> None:
        for statement in (
            f"DELETE FROM {table}",
            f"UPDATE {table} SET id = id".replace("block SET id = id", "block SET lines = 0"),
        ):
            with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(statement)

    def test_tells_how_much_is_not_chained(self, chained: None) -> None:
        assert chain.waiting() == (0, None)
        fund(ANA, 1)
        assert chain.waiting() == (1, NOW)

    def test_tells_of_lines_behind_a_batch_that_hangs(self, chained: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(chain, "BLOCK_NUMBERS_MAX", 10)
        with connection.cursor() as cursor:  # as many numbers as a batch draws, and no line that is committed
            cursor.execute("SELECT nextval('ledger_transaction_seq') FROM generate_series(1, 25)")
        fund(ANA, 1)
        assert chain.waiting() == (26, NOW)

    def test_a_note_of_an_earlier_server_does_not_hold_it_up(self, chained: None) -> None:
        # Virtual ids of transactions that nobody has any more.
        fund(ANA, 1)
        Horizon.objects.update(seq=10, writers=["3/4711", "99/1"])
        assert chain_all() == 1


INSERTED = (
    "INSERT INTO ledger_transaction (seq, id, branch, account, currency, amount, debitcredit, eventcode, description,"
    " tracekey, dateref, createdat, balanced, balanceafter, pendingafter, dayafter, daynet)"
    " SELECT {seq}, gen_random_uuid(), branch, account, currency, amount, debitcredit, eventcode, description,"
    " gen_random_uuid(), '{day}', createdat,"
    " balanced, balanceafter, pendingafter, dayafter, daynet FROM ledger_transaction WHERE seq = 7"
)
DAMAGE = {
    "an amount": (
        ["UPDATE ledger_transaction SET amount = amount + 1 WHERE seq = 7"],
        "block 2, month 2026-01: credits: 23.00",
    ),
    "a description": (["UPDATE ledger_transaction SET description = 'x' WHERE seq = 2"], "block 1, month 2026-01: as many"),
    "details": (["UPDATE ledger_transaction SET details = '{}' WHERE seq = 1"], "block 1, month 2026-01: as many"),
    "a day": (["UPDATE ledger_transaction SET dateref = dateref + 1 WHERE seq = 7"], "block 2, month 2026-01"),
    "a time": (["UPDATE ledger_transaction SET createdat = createdat + interval '1 microsecond' WHERE seq = 7"], "block 2"),
    "a line taken out": (
        ["DELETE FROM ledger_transaction WHERE seq = 7"],
        "seq without a line (some may never have had one): 7",
    ),
    "a line put in": ([INSERTED.format(seq=3, day="2026-01-20")], "block 1, month 2026-01: lines: 4 chained, 5 there"),
    "a line of another month put in": (
        [INSERTED.format(seq=3, day="2026-02-20")],
        "block 1, month 2026-02: lines: 0 chained",
    ),
    "a line before the first one": (
        [INSERTED.format(seq=-1, day="2026-01-20")],
        "block 1, month 2026-01: lines: 4 chained",
    ),
    "two lines swapped": (
        [
            "UPDATE ledger_transaction SET seq = 100 WHERE seq = 2",
            "UPDATE ledger_transaction SET seq = 2 WHERE seq = 3",
            "UPDATE ledger_transaction SET seq = 3 WHERE seq = 100",
        ],
        "another content or order",
    ),
    "a block's range": (
        ["UPDATE ledger_block SET seqto = 5 WHERE number = 1"],
        "block 1: its row or its parts were changed",
    ),
    "a block's time": (["UPDATE ledger_block SET createdat = now() WHERE number = 2"], "block 2: its row or its parts"),
    "a block's hash": (["UPDATE ledger_block SET hash = previous WHERE number = 2"], "block 2: its row or its parts"),
    "a hash and the next one's": (
        ["UPDATE ledger_block SET previous = hash WHERE number = 2"],
        "block 2: it does not follow the block before",
    ),
    "a block taken out": (["DELETE FROM ledger_block WHERE number = 2"], "block 2: it is missing: the next one is 3"),
    "the first block taken out": (["DELETE FROM ledger_block WHERE number = 1"], "block 1: it is missing"),
    "a part's sum": (["UPDATE ledger_block_part SET credits = 1 WHERE number = 1"], "block 1: its row or its parts"),
    "a part taken out": (["DELETE FROM ledger_block_part WHERE number = 3"], "block 3: its row or its parts"),
    "a part put in": (
        ["UPDATE ledger_block_part SET month = '2026-04-01' WHERE number = 3"],
        "block 3, month 2026-04: lines: 1 chained, 0 there",
    ),
}


class TestVerifyChain:
    def test_proves_lines_that_nobody_touched(self, chained: None) -> None:
        proof = verify_chain()
        assert (proof.blocks, proof.lines, proof.damages) == (3, LINES, [])
        assert proof.head == Block.objects.get(number=3)

    def test_proves_an_empty_chain_and_lines_that_are_not_chained_yet(self) -> None:
        fund(ANA, 1)
        assert verify_chain().blocks == 0

    @pytest.mark.parametrize("what", DAMAGE)
    def test_finds(self, chained: None, what: str) -> None:
        statements, words = DAMAGE[what]
        damage(*statements)
        assert words in "\n".join(map(str, verify_chain().damages))

    def test_proves_what_comes_after_a_block_that_is_trusted(self, chained: None) -> None:
        damage("UPDATE ledger_transaction SET amount = 1 WHERE seq = 1")
        assert verify_chain().damages
        proof = verify_chain(first=2)
        assert (proof.blocks, proof.lines, proof.damages) == (2, LINES - 4, [])
        assert [str(found) for found in verify_chain(first=9).damages] == [
            "block 8: it is missing, so what follows can't be proved"
        ]

    def test_needs_a_noted_head_to_find_an_end_that_was_cut_off(self, chained: None) -> None:
        noted = {block.number: bytes(block.hash) for block in Block.objects.all()}
        damage(
            "DELETE FROM ledger_block WHERE number > 1",
            "DELETE FROM ledger_block_part WHERE number > 1",
            "DELETE FROM ledger_transaction WHERE seq > 4",
        )
        assert not verify_chain().damages
        assert [str(found) for found in verify_chain(heads={3: noted[3]}).damages] == [
            "block 3: it was noted elsewhere and is missing: the end of the chain was cut off"
        ]
        chain_all()  # and made anew
        (found,) = verify_chain(heads={1: noted[1], 2: noted[2]}).damages
        assert f"{noted[2].hex()} was noted elsewhere" in str(found)

    def test_stops_when_the_list_is_long(self, chained: None, monkeypatch: pytest.MonkeyPatch) -> None:
        damage("UPDATE ledger_block SET createdat = now()", "UPDATE ledger_transaction SET amount = 1")
        monkeypatch.setattr("apps.ledger.chain_proof.BLOCKS_AT_ONCE", 1)
        monkeypatch.setattr("apps.ledger.chain_proof.DAMAGES_MAX", 2)
        assert verify_chain().blocks == 1
        assert DAMAGES_MAX > 2

    @pytest.mark.parametrize("at_once", [1, 2, 5])
    def test_does_not_depend_on_how_much_is_read_at_once(
        self, chained: None, monkeypatch: pytest.MonkeyPatch, at_once: int
    ) -> None:
        monkeypatch.setattr("apps.ledger.chain_proof.BLOCKS_AT_ONCE", at_once)
        monkeypatch.setattr("apps.ledger.chain_proof.NUMBERS_AT_ONCE", at_once)
        seen: list[tuple[int, int]] = []
        proof = verify_chain(progress=lambda done, whole: seen.append((done, whole)))
        assert (proof.blocks, proof.lines, proof.damages) == (3, LINES, [])
        assert seen[-1] == (3, 3)


class TestVerifyChainCommand:
    def run(self, *arguments: str) -> tuple[int, str]:
        output = StringIO()
        try:
            call_command("verify_chain", *arguments, stdout=output, stderr=StringIO())
        except SystemExit as ending:
            return int(str(ending.code)), output.getvalue()
        return 0, output.getvalue()

    def test_prints_the_head_and_takes_it_back(self, chained: None) -> None:
        code, text = self.run()
        assert code == 0
        assert f"3 blocks with {LINES} lines, 0 damages" in text
        head = text.split()[-1]
        assert head == str(Block.objects.get(number=3))
        assert self.run("--head", head)[0] == 0
        assert self.run("--head", head[:-1] + ("0" if head[-1] != "0" else "1"))[0] == 1

    def test_ends_with_one_and_says_what_was_done(self, chained: None) -> None:
        damage("DELETE FROM ledger_transaction WHERE seq = 7")
        code, text = self.run()
        assert code == 1
        assert "block 2, month 2026-01: lines: 2 chained, 1 there" in text
        code, text = self.run("--json", "--from", "2")
        document = json.loads(text)
        assert code == 1
        assert (document["blocks"], document["damages"][0]["block"], document["damages"][0]["month"]) == (2, 2, "2026-01")

    @pytest.mark.parametrize("head", ["", "3", "3:abc", "x:" + "0" * 64, "3:" + "g" * 64])
    def test_refuses_what_is_no_head(self, head: str) -> None:
        with pytest.raises(CommandError, match="is not a head") as refused:
            self.run("--head", head)
        assert refused.value.returncode == 2

    def test_ends_with_two_when_it_could_not_look(self, chained: None, monkeypatch: pytest.MonkeyPatch) -> None:
        def away() -> None:
            raise OperationalError("the server closed the connection unexpectedly")

        monkeypatch.setattr("apps.ledger.chain.head", away)
        with pytest.raises(CommandError, match="broke off") as refused:
            self.run()
        assert refused.value.returncode == 2


class TestReading:
    def test_a_block_reads_few_lines_of_a_month_and_next_to_none_of_the_others(self) -> None:
        rows = 30_000
        restart_numbers()
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            for start in ("2026-01-01", "2026-02-01"):
                part = "ledger_transaction_" + start[:7].replace("-", "")
                cursor.execute(f"CREATE TABLE {part} PARTITION OF ledger_transaction FOR VALUES FROM ('{start}') TO "
                               f"('{start}'::date + interval '1 month')")  # fmt: skip
                cursor.execute(
                    "INSERT INTO ledger_transaction (id, branch, account, currency, amount, debitcredit, eventcode,"
                    " description, tracekey, dateref, createdat, balanced, balanceafter, pendingafter, dayafter, daynet)"
                    " SELECT gen_random_uuid(), '0001', 'x', 'BRL', 1, 'C', 1, '', gen_random_uuid(), %s, now(), false,"
                    " 0, 0, 0, 0 FROM generate_series(1, %s)",
                    [start, rows],
                )
                cursor.execute(f"ANALYZE {part}")
                cursor.execute("SELECT brin_summarize_new_values(%s)", [f"{part}_seq_idx"])
            cursor.execute(
                "EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF, FORMAT JSON) SELECT count(*) FROM ("
                f"{chain._LINES} ORDER BY seq, id) t",
                [1, 1_000],
            )
            plan = json.dumps(cursor.fetchone()[0])
        found = json.loads(plan)[0]["Plan"]

        def scans(node: dict[str, object]) -> list[dict[str, object]]:
            inner = [scan for child in node.get("Plans", []) for scan in scans(child)]  # type: ignore[attr-defined]
            return [node, *inner] if "Relation Name" in node else inner

        read = {
            str(scan["Relation Name"]): int(str(scan["Actual Rows"]).split(".")[0])
            + int(str(scan.get("Rows Removed by Index Recheck", 0)))
            + int(str(scan.get("Rows Removed by Filter", 0)))
            for scan in scans(found)
        }
        assert read["ledger_transaction_202601"] < rows / 3
        assert read["ledger_transaction_202602"] == 0

    def test_counts_lines_that_are_posted_as_a_batch(self) -> None:
        from tests.integration.ledger.conftest import line

        restart_numbers()
        post_batch([line(ANA, "C", 1) for _ in range(150)])  # written by COPY
        chain_all()
        assert Block.objects.get().lines == 150
        assert not verify_chain().damages

"""The chain is proved by itself, some blocks at a time."""

import pytest

from apps.ledger import chain
from apps.ledger.chain_models import Block, Patrol
from apps.ledger.patrol import patrol
from apps.ledger.tasks import patrol as patrol_task
from tests.integration.ledger.chained import chain_all, damage, two_months
from tests.integration.ledger.conftest import NOW

pytestmark = pytest.mark.usefixtures("bank")


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five blocks of two lines, the last one of one."""
    monkeypatch.setattr(chain, "BLOCK_NUMBERS_MAX", 2)
    two_months()
    assert chain_all() == 5


class TestPatrol:
    def test_goes_round_after_round(self, blocks: None) -> None:
        assert [patrol(now=NOW, blocks_max=2).blocks for _ in range(4)] == [2, 2, 1, 2]
        row = Patrol.objects.get()
        assert (row.number, row.ended_at, row.damages, row.damages_before, row.damage) == (2, NOW, 0, 0, "")

    @pytest.mark.parametrize(("numbers", "proved"), [(1, 1), (4, 2), (5, 2), (100, 5)])
    def test_takes_no_more_at_once_than_a_few_seconds_work(
        self, blocks: None, monkeypatch: pytest.MonkeyPatch, numbers: int, proved: int
    ) -> None:
        monkeypatch.setattr("apps.ledger.patrol.NUMBERS_MAX", numbers)
        assert patrol(now=NOW).blocks == proved

    def test_does_nothing_before_there_is_a_chain(self) -> None:
        patrol_task(newer=True)
        assert not Patrol.objects.exists()

    def test_tells_of_a_damage_until_a_round_finds_none(self, blocks: None, caplog: pytest.LogCaptureFixture) -> None:
        damage("UPDATE ledger_transaction SET amount = amount + 1 WHERE seq = 4")

        def found() -> tuple[int, int, bool]:
            patrol(now=NOW, blocks_max=3)
            row = Patrol.objects.get()
            return row.damages, row.damages_before, bool(row.damage)

        assert found() == (1, 0, True)
        assert "the ledger's chain is damaged: block 2, month 2026-01" in caplog.text
        assert found() == (0, 1, True)
        damage("UPDATE ledger_transaction SET amount = amount - 1 WHERE seq = 4")
        assert found() == (0, 1, True)
        assert found() == (0, 0, False)

    def test_begins_anew_when_the_end_was_cut_off(self, blocks: None) -> None:
        patrol(now=NOW, blocks_max=4)
        damage("DELETE FROM ledger_block WHERE number > 2", "DELETE FROM ledger_block_part WHERE number > 2")
        assert patrol(now=NOW, blocks_max=4).damages
        assert patrol(now=NOW, blocks_max=4).blocks == Block.objects.count() == 2

    def test_reads_seals_at_the_end_of_a_round(self, blocks: None) -> None:
        from apps.ledger import seals
        from tests.integration.ledger.chained import JANUARY, close_until, end_of, settle_constraints

        close_until(end_of(JANUARY))
        settle_constraints()
        seals.seal_month(JANUARY, by="ana", now=NOW)
        damage("UPDATE ledger_month SET lines = 7")
        assert [len(patrol(now=NOW, blocks_max=3).damages) for _ in range(2)] == [0, 1]

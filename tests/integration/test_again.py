"""A world that is put back is the world that was made, and is not put where it would not fit."""

import pytest
from django.db import connection

from apps.ledger import public as ledger
from apps.ledger.models import Account
from tests import again
from tests.conftest import _EMPTY
from tests.integration.ledger.chained import restart_numbers
from tests.integration.ledger.conftest import ANA, BOB, fund, open_bank, posted

pytestmark = pytest.mark.django_db(transaction=True)


def empty() -> None:
    with connection.cursor() as cursor:
        cursor.execute(_EMPTY)


@pytest.fixture(autouse=True)
def nothing_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "_made", {})
    empty()  # of what migrations wrote, too, as after every test


class TestAgain:
    def test_is_the_same_to_the_letter_and_can_be_worked_with(self) -> None:
        made: list[str] = []

        def make() -> str:
            made.append("made")
            open_bank()
            fund(ANA, 10)
            return "the bank"

        assert again.again("x", make) == "the bank"
        before = {table: rows for table, rows in again._contents().items() if rows}
        empty()
        assert again.again("x", make) == "the bank"
        assert {table: rows for table, rows in again._contents().items() if rows} == before
        assert made == ["made"]
        fund(BOB, 5)
        assert (posted(ANA), posted(BOB), ledger.check_balances()) == (10, 5, [])

    def test_has_its_numbers_behind_it_though_somebody_began_them_anew(self) -> None:
        def make() -> None:
            open_bank()
            fund(ANA, 10)

        again.again("x", make)
        empty()
        restart_numbers()
        again.again("x", make)
        fund(ANA, 5)
        assert (posted(ANA), ledger.check_balances()) == (15, [])

    def test_is_made_anew_where_somebody_was_before(self) -> None:
        made: list[str] = []

        def make() -> None:
            made.append("made")
            open_bank()

        again.again("x", make)
        empty()
        open_bank()
        Account.objects.exclude(account=ANA.account).delete()
        again.again("x", make)
        assert made == ["made", "made"]
        assert Account.objects.count() == 4

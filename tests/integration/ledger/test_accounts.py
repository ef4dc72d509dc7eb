import pytest
from django.db import transaction

from apps.ledger import public as ledger
from apps.ledger.models import Event
from apps.ledger.public import AccountRef
from tests.integration.ledger.conftest import ANA, ANY, NOW, money

pytestmark = pytest.mark.usefixtures("bank")


class TestOpenAccount:
    def open(self, **changes: object) -> ledger.OpenedAccount:
        values = {"branch": "0001", "account": "NEW", "min_balance": money(-50), "now": NOW, **changes}
        with transaction.atomic():
            return ledger.open_account(**values)

    def test_may_be_repeated(self) -> None:
        first, second = self.open(), self.open()
        assert (first.created, second.created, first.id == second.id) == (True, False, True)

    def test_with_another_floor_is_refused(self) -> None:
        self.open()
        for floor in (None, money(0)):
            with pytest.raises(ledger.AccountExists):
                self.open(min_balance=floor)

    def test_in_an_unknown_branch_is_refused(self) -> None:
        with pytest.raises(ledger.UnknownBranch):
            self.open(branch="0002")

    def test_takes_alphanumeric_keys(self) -> None:
        assert self.open(account="e081ad0f-f83e-4f81-b2d7-23655ac04b8a").created

    @pytest.mark.parametrize(
        "change",
        [{"account": "a b"}, {"account": ""}, {"currency": "real"}, {"min_balance": money(1)}, {"description": "x" * 256}],
    )
    def test_refuses_what_is_malformed(self, change: dict[str, object]) -> None:
        with pytest.raises(ledger.MalformedEntry):
            self.open(**change)

    def test_the_same_name_in_another_currency_is_another_account(self) -> None:
        assert self.open(account=ANA.account, currency="USD").created
        assert ledger.balance(AccountRef("0001", ANA.account, "USD")).posted == 0


class TestEnsure:
    def test_an_event_or_branch_that_is_there_stays_as_it_is(self) -> None:
        with transaction.atomic():
            assert not ledger.ensure_event(code=ANY, description="other", allow_debit=False, now=NOW)
            assert not ledger.open_branch(branch="0001", description="other", now=NOW)
        assert Event.objects.get(code=ANY).allow_debit

    def test_freezing_an_unknown_account_is_refused(self) -> None:
        with transaction.atomic(), pytest.raises(ledger.UnknownAccount):
            ledger.set_frozen(account=AccountRef("0001", "nobody"), frozen=True, now=NOW)

"""The whole play, in its order. Everything in it has a key of its seed, so it may be begun again where it was cut off."""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from apps.common.clock import business_date
from apps.ledger import public as ledger
from apps.saga import public as saga
from config import demo
from config.scenes import listener, people, plan
from config.scenes.office import Office
from config.scenes.people import EVENT_CORRECTION, EVENT_TRANSFER, FROZEN, ref_of
from config.scenes.plan import Customer, Fate
from config.scenes.progress import Progress
from config.scenes.trade import Trade, of_fate, waited_for
from config.scenes.web import Api, Refused

TRANSFERS_MIN, TRANSFERS_SHARE = 8, 7  # one for so many orders
DEPOSITS = 3  # of each customer, over the last days


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What there is now: how many orders in each status, whether the books agree, and some pages that are worth a look."""

    statuses: Counter[str]
    differences: int  # that the ledger's own check has found
    worth: dict[str, str]  # what is to be seen, and the page's path


def was_played(seed: int) -> bool:
    """Did a run of this seed come to its end? Its last posting tells: a trace key is never forgotten."""
    return ledger.entry(_last(seed)) is not None


def _last(seed: int) -> UUID:
    return plan.named(seed, "the end")


def play(*, orders: int, seed: int, port: int, progress: Progress) -> Played:
    """Make it all. Raises NobodyThere when no web server answers, Refused when it is another database's."""
    people.open_shops(now=timezone.now())
    with people.logged_in(port) as apis, listener.listening() as address:
        return _Play(apis, seed, orders, progress).run(address)


class _Play:
    def __init__(self, apis: dict[str, Api], seed: int, count: int, progress: Progress) -> None:
        self.apis, self.seed, self.count, self.progress = apis, seed, count, progress
        self.people = plan.customers(seed, failing=people.FAILING)
        self.buyers = self.people.buyers
        self.orders = plan.orders(seed, count, self.people)
        self.trade = Trade(apis, seed, progress)
        self.chief = apis[demo.ACCOUNT_ID]

    def run(self, address: str) -> Played:
        for api in self.apis.values():
            api.get("/orders", limit=1)  # a secret that it knows: the web server is this database's
        colleagues = people.employ()
        ana, bruno = (colleagues[name] for name in plan.OTHERS)
        self.office = Office(ana, bruno, self.seed)
        people.open_accounts(self.seed, self.people.all, now=timezone.now())
        endpoints = self.trade.register(address)
        try:
            runs = self._live()
            self.trade.hear(endpoints)
        finally:
            self.trade.hang_up(endpoints)
        # From an account without a floor: nothing speaks against it, and was_played asks for it.
        self._post(_last(self.seed), _CASH, ref_of(self.buyers[0]), Decimal("3.50"), days_back=3, event=EVENT_CORRECTION)
        with suppress(ledger.CheckRunning):  # the worker's own, then
            ledger.run_check(kind="INCREMENTAL", now=timezone.now())
        statuses, differences = self.trade.statuses(self.orders), ledger.open_differences()
        return Played(statuses=statuses, differences=differences, worth=self._worth(runs))

    def _live(self) -> dict[str, str]:
        """All that happens; the runs of the returns by their order's key."""
        self._pay_in()
        self._sell()
        self.trade.pay(self.count)
        runs = self._give_back()
        self._see_to_what_is_stuck()
        self._look_after_the_ledger()
        return runs

    # --- Money in -----------------------------------------------------------------------------------------------------
    def _pay_in(self) -> None:
        """Deposits over the last days, dated back; transfers between customers; and two postings that are refused."""
        entries = [entry for person in self.people.all for entry in self._deposits(person)]
        transfers = max(TRANSFERS_MIN, self.count // TRANSFERS_SHARE)
        self.progress.begin("deposits and transfers", len(entries) + transfers)
        self.chief.post("/ledger/transactions/batch", {"transactions": entries})
        for number in range(transfers):
            dice = plan.dice_of(self.seed, "transfer", number)
            debit, credit = map(ref_of, dice.sample(self.buyers, 2))
            self._post(self._transfer(number), debit, credit, Decimal(dice.randrange(5, 60)), days_back=dice.randrange(4))
            self.progress.reach(len(entries) + number + 1)
        one, other = map(ref_of, self.buyers[2:4])
        self._post(plan.named(self.seed, "too much"), one, other, Decimal("99999.00"))
        self._post(plan.named(self.seed, FROZEN), one, people.account_of(self.seed, FROZEN), Decimal("1.00"))
        self.progress.end()

    def _deposits(self, person: Customer) -> list[dict[str, Any]]:
        today, dice = business_date(timezone.now()), plan.dice_of(self.seed, "deposits", person.account)
        part = (person.balance / DEPOSITS).quantize(Decimal("0.01"))
        days = sorted(dice.randrange(max(ledger.BACKDATE_DAYS_MAX, 1)) for _ in range(DEPOSITS))
        return [
            _entry(
                plan.named(self.seed, "deposit", person.account, number),
                debit=_CASH,
                credit=ref_of(person),
                amount=part,
                event=demo.EVENT_DEPOSIT,
                description="Deposit",
                dateref=str(today - timedelta(days=back)),
            )
            for number, back in enumerate(days)
        ]

    def _transfer(self, number: int) -> UUID:
        return plan.named(self.seed, "transfer", number)

    def _post(
        self,
        tracekey: UUID,
        debit: ledger.AccountRef,
        credit: ledger.AccountRef,
        amount: Decimal,
        *,
        days_back: int = 0,
        event: int = EVENT_TRANSFER,
    ) -> None:
        """A transfer over the API. A refusal is an answer, too, and nothing to stop for."""
        day = business_date(timezone.now()) - timedelta(days=min(days_back, ledger.BACKDATE_DAYS_MAX))
        entry = _entry(
            tracekey,
            debit=debit,
            credit=credit,
            amount=amount,
            event=event,
            description=people.EVENTS[event],
            dateref=str(day),
        )
        try:
            self.chief.post("/ledger/transactions", entry)
        except Refused as refusal:
            if refusal.status >= 500:
                raise

    # --- Orders -------------------------------------------------------------------------------------------------------
    def _sell(self) -> None:
        offline = of_fate(self.orders, Fate.OFFLINE)
        if offline:
            with self.office.contingency():
                self.trade.place("orders in contingency", offline)
                self.trade.settle("handed out", offline)
        self.trade.place("orders", [order for order in self.orders if order.fate is not Fate.OFFLINE])
        self.trade.settle("orders that are over", waited_for(self.orders))

    def _give_back(self) -> dict[str, str]:
        runs = self.trade.give_back([order for order in self.orders if order.fate in plan.GIVEN_BACK])
        for order in of_fate(self.orders, Fate.RETURN_APPROVED, Fate.RETURN_DENIED):
            if order.key in runs:
                self.office.decide(runs[order.key], approve=order.fate is Fate.RETURN_APPROVED)
        small = [order for order in of_fate(self.orders, Fate.RETURNED) if order.key in runs]
        self.trade.settle("returns that are over", small, wanted={"RETURNED"})
        return runs

    def _see_to_what_is_stuck(self) -> None:
        for order in of_fate(self.orders, Fate.CORRECTED):
            self.office.act(self.trade.run_of(order), saga.Action.RETRY, "Their clock was ahead, and is right again.")
        for order in of_fate(self.orders, Fate.CLOSED):
            self.office.act(self.trade.run_of(order), saga.Action.HANDLE, "Issued on paper, number 0042.")
        for order in of_fate(self.orders, Fate.REFUSED)[:1]:
            self.office.see_to(self.trade.run_of(order), "Two causes: their clock (retry), and a wrong CPF (asked for it).")
            self.office.fork(self.trade.run_of(order))
        self.trade.settle("sent again", of_fate(self.orders, Fate.CORRECTED), wanted={"COMPLETED", "CANCELLED"})

    def _look_after_the_ledger(self) -> None:
        self.office.hold(self.buyers)
        self.office.take_back(self._transfer(0))
        self.office.ask_to_take_back(plan.named(self.seed, "deposit", self.buyers[0].account, DEPOSITS - 1))
        self.office.count_the_till(self.buyers[4])

    def _worth(self, runs: dict[str, str]) -> dict[str, str]:
        """One of each kind that a newcomer should see."""
        found: dict[str, str] = {}
        for fate, told in WORTH.items():
            for order in of_fate(self.orders, fate)[:1]:
                run_id = runs.get(order.key) if fate in plan.GIVEN_BACK else self.trade.run_of(order)
                if run_id:
                    found[told] = f"/admin/runs/{run_id}/"
        found["an account with deposits, holds and lines dated back"] = (
            f"/admin/accounts/{settings.LEDGER_BRANCH}/{self.buyers[0].account}/BRL/"
        )
        return found


WORTH = {
    Fate.REFUSED_ONCE: "a refused document: Retry sends it again",
    Fate.AWAY: "an authority that is away: tried again and again",
    Fate.CAPTURE_REFUSED: "a refused capture: everything undone in reverse",
    Fate.RETURN_WAITS: "a return that waits for you",
    Fate.REFUND_REFUSED: "a return whose refund was refused",
}


_CASH = ledger.AccountRef(settings.LEDGER_BRANCH, "cash")


def _entry(
    tracekey: UUID,
    *,
    debit: ledger.AccountRef,
    credit: ledger.AccountRef,
    amount: Decimal,
    event: int,
    description: str,
    dateref: str,
) -> dict[str, Any]:
    """An entry of two legs, as the API takes it."""
    legs = [
        {
            "branch": ref.branch,
            "account": ref.account,
            "amount": f"{amount:.2f}",
            "debitcredit": side,
            "eventcode": event,
            "description": description,
        }
        for ref, side in ((debit, "D"), (credit, "C"))
    ]
    return {"tracekey": str(tracekey), "legs": legs, "dateref": dateref}

"""What colleagues do: they decide returns, see to incidents, hand receipts out, and look after the ledger."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from apps.backoffice.pages import entry
from apps.backoffice.pages.approvals import decider
from apps.backoffice.pages.triage import actor_of
from apps.common.errors import DomainError
from apps.fiscal_docs import public as fiscal
from apps.ledger import public as ledger
from apps.orders.public import enter_contingency, leave_contingency
from apps.saga import public as saga
from config.scenes import plan
from config.scenes.people import EVENT_TRANSFER, SUSPENDED, account_of, ref_of
from config.scenes.plan import Customer
from config.scenes.web import until

ASKED_S_MAX = 60  # until the run of a return has put its question
HOLD_LASTS = timedelta(seconds=5)  # of those that expire; the worker ends them every half a minute
HOLD_STAYS = timedelta(days=7)
COUNTED_FOR = timedelta(hours=1)
WHY_COUNTED = "Counting the till of the box office."


@dataclass(frozen=True, slots=True)
class Office:
    """Two colleagues at work. What somebody did before them is left as it is, so all of it may be repeated."""

    ana: User
    bruno: User
    seed: int

    # --- Contingency --------------------------------------------------------------------------------------------------
    @contextmanager
    def contingency(self) -> Iterator[None]:
        """Receipts are handed out meanwhile, and delivered afterwards; not when somebody has switched it on himself."""
        try:
            enter_contingency(reason="The authority announced an hour without service.", by=actor_of(self.ana), now=_now())
        except fiscal.AlreadyInContingency:
            yield
            return
        try:
            yield
        finally:
            leave_contingency(reason="It answers again.", by=actor_of(self.ana), now=_now())

    # --- Returns and incidents ----------------------------------------------------------------------------------------
    def decide(self, run_id: str, *, approve: bool) -> None:
        """Answer a return's question, as soon as it is put."""

        def asked() -> bool:
            return bool(saga.approvals_of(UUID(run_id)))

        if until(asked, timeout_s=ASKED_S_MAX):
            reason = "Bought within seven days." if approve else "The seats were used: the scanner has them."
            (approval, *_) = saga.approvals_of(UUID(run_id))
            with _left_alone():
                saga.decide(approval.id, approve=approve, by=decider(self.ana), reason=reason, now=_now())

    def act(self, run_id: str, action: saga.Action, reason: str) -> None:
        """Act on a stuck run: what has moved on meanwhile is left alone."""
        with _left_alone():
            which = saga.Selection(run_ids=(UUID(run_id),))
            asked = saga.request_action(which, saga.wanted(action), reason=reason, by=actor_of(self.ana), now=_now())
            saga.work_on_action(asked, now=_now())

    def see_to(self, run_id: str, note: str) -> None:
        """Take the incident of a stuck run."""
        state = saga.run_state(UUID(run_id))
        if state is None or state.failed_step is None:
            return
        question = saga.IncidentQuestion(use_case=state.use_case, error_code=state.error_code, status="OPEN")
        for incident in saga.incidents(question, limit=1):
            with _left_alone():
                saga.take_incident(incident.id, by=actor_of(self.bruno), note=note, now=_now())

    def fork(self, run_id: str) -> None:
        """Try in a sandbox what a stuck run would do now; once."""
        if not saga.forks_of(UUID(run_id)):
            with _left_alone():
                saga.fork(UUID(run_id), reason="Would it pass now?", by=actor_of(self.bruno), now=_now())

    # --- The ledger ---------------------------------------------------------------------------------------------------
    def hold(self, people: list[Customer]) -> None:
        """Holds of every kind: two stay open, one is posted in part, one voided, two expire by themselves."""
        kinds: tuple[Callable[[str, Customer, datetime], object], ...] = (
            lambda key, one, now: _hold(key, one, until=now + HOLD_STAYS, now=now),
            lambda key, one, now: _hold(key, one, until=None, now=now),
            self._hold_and_post,
            lambda key, one, now: _hold(key, one, until=None, now=now) and ledger.void_hold(key=key, now=now),
            lambda key, one, now: _hold(key, one, until=now + HOLD_LASTS, now=now),
            lambda key, one, now: _hold(key, one, until=now + HOLD_LASTS, now=now),
        )
        for number, do in enumerate(kinds):
            with _left_alone(), transaction.atomic(durable=True):
                do(f"demo-{self.seed}-hold-{number}", people[number], _now())

    def _hold_and_post(self, key: str, person: Customer, now: datetime) -> None:
        _hold(key, person, until=None, now=now)
        ledger.post_hold(
            key=key,
            tracekey=plan.named(self.seed, "hold"),
            credit=account_of(self.seed, SUSPENDED),
            eventcode=EVENT_TRANSFER,
            description="Deposit of the season ticket",
            amount=Decimal("30.00"),
            now=now,
        )

    def take_back(self, tracekey: UUID) -> None:
        """Reverse an entry by hand."""
        with _left_alone():
            entry.take_back(tracekey, user=self.bruno, reason="Paid to the wrong customer.", now=_now())

    def ask_to_take_back(self, tracekey: UUID) -> None:
        """Ask a second person to agree to a reversal: it waits on the page of approvals."""
        with _left_alone():
            entry.ask_to_take_back(tracekey, user=self.ana, reason="Paid in twice: the bank has it once.", now=_now())

    def count_the_till(self, payer: Customer) -> None:
        """Suspend an account for an hour, and put a posting to it on the queue: it is put aside until then."""
        ref, now = account_of(self.seed, SUSPENDED), _now()
        if any((each.branch, each.account) == ref[:2] for each in ledger.suspended(now=now)):
            return
        with _left_alone(), transaction.atomic(durable=True):
            by, until_when = actor_of(self.bruno), now + COUNTED_FOR
            ledger.suspend(mode="REFUSE", reason=WHY_COUNTED, by=by, account=ref, until=until_when, now=now)
        with _left_alone(), transaction.atomic(durable=True):
            paid_in = ledger.Entry.transfer(
                tracekey=plan.named(self.seed, "counted"),
                debit=ref,
                credit=ref_of(payer),
                amount=Decimal("1.00"),
                eventcode=EVENT_TRANSFER,
                description="Change",
            )
            ledger.request_postings([paid_in])


def _now() -> datetime:
    return timezone.now()


@contextmanager
def _left_alone() -> Iterator[None]:
    """What is refused was done before, or somebody else was faster: then that stands."""
    with suppress(DomainError):
        yield


def _hold(key: str, person: Customer, *, until: datetime | None, now: datetime) -> ledger.HoldResult:
    branch, account, _ = ref_of(person)
    return ledger.hold(key=key, branch=branch, account=account, amount=Decimal("50.00"), expires_at=until, now=now)

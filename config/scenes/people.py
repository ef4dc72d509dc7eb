"""Who is there: merchants with their shops and listeners, customers with their accounts, colleagues of the back office."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.auth.models import Group, Permission, User
from django.db import transaction
from django.utils import timezone

from apps.customers import public as customers
from apps.fiscal_docs.sandbox import buyers
from apps.identity import public as identity
from apps.ledger import public as ledger
from apps.orders.public import stock_tickets
from apps.payments import public as payments
from config import demo
from config.scenes import plan
from config.scenes.plan import Customer, Fate
from config.scenes.web import Api

SECRETS_LIVE = timedelta(hours=1)  # of the demo's own; a run takes minutes
STOCK = 5_000
OPERATORS = "Operators"
MAY = (
    *("saga.view_run", "saga.change_run", "saga.view_approval", "saga.change_approval", "orders.view_order"),
    *("orders.approve_return", "orders.view_orderreturn", "ledger.view_account", "ledger.view_transaction"),
    *("ledger.add_transaction", "fiscal_docs.view_document", "fiscal_docs.change_contingency", "payments.view_payment"),
)
# Whose documents the sandbox authority does not simply authorise.
FAILING = {
    Fate.REFUSED: buyers.REFUSED,
    Fate.CLOSED: buyers.REFUSED,
    Fate.REFUSED_ONCE: buyers.REFUSED_ONCE,
    Fate.CORRECTED: buyers.REFUSED_ONCE,
    Fate.AWAY: buyers.AWAY,
    Fate.AWAY_BY_CARD: buyers.AWAY,
}
EVENT_TRANSFER, EVENT_CORRECTION = 11, 12
EVENTS = {EVENT_TRANSFER: "Transfer between customers", EVENT_CORRECTION: "Correction of a fee"}
FROZEN, SUSPENDED = "frozen", "counted"  # two accounts of a seed that take no postings, each in its own way


def account_of(seed: int, name: str) -> ledger.AccountRef:
    """One of the seed's accounts that are no customer's."""
    return ledger.AccountRef(settings.LEDGER_BRANCH, f"9{seed:05d}-{name}")


def ref_of(person: Customer) -> ledger.AccountRef:
    """A customer's account."""
    return ledger.AccountRef(settings.LEDGER_BRANCH, person.account)


def open_shops(*, now: datetime) -> None:
    """Merchants and what they sell. Safe to repeat."""
    with transaction.atomic(durable=True):
        for code, name in plan.MERCHANTS.items():
            with suppress(identity.AccountExists):
                identity.create_account(name=name, scopes=_scopes(code), code=code, now=now)
        for name, price in plan.TICKETS:
            stock_tickets(ticket_id=plan.ticket_id(name), name=name, price=price, available=STOCK, now=now)
        name, price = plan.SOLD_OUT_TICKET
        stock_tickets(ticket_id=plan.ticket_id(name), name=name, price=price, available=0, now=now)


def _scopes(code: str) -> list[str]:
    """The first one may do all that the demo's merchant may; the others sell."""
    selling = ("orders:", "payments:", "webhooks:", "fiscal:")
    return [scope for scope in demo.SCOPES if code == demo.ACCOUNT_ID or scope.startswith(selling)]


def open_accounts(seed: int, people: Iterable[Customer], *, now: datetime) -> None:
    """Customers with an account each, and two accounts that take nothing. Safe to repeat."""
    with transaction.atomic(durable=True):
        for code, description in EVENTS.items():
            ledger.ensure_event(code=code, description=description, now=now)
        for person in people:
            _open_account(person, now=now)
        for name, description in ((FROZEN, "Under investigation"), (SUSPENDED, "Till of the box office")):
            ref = account_of(seed, name)
            ledger.open_account(branch=ref.branch, account=ref.account, description=description, now=now)
        ledger.set_frozen(account=account_of(seed, FROZEN), frozen=True, now=now)


def _open_account(person: Customer, *, now: datetime) -> None:
    ledger.open_account(branch=settings.LEDGER_BRANCH, account=person.account, description=person.name, now=now)
    with suppress(customers.UnknownCustomer):
        customers.customer(person.id)
        return
    card = payments.CardInput(
        number=person.card, exp_month=12, exp_year=now.year + plan.CARD_YEARS, cvv=plan.cvv_of(person.card)
    )
    customers.create_customer(
        customer_id=person.id,
        account_id=person.merchant,
        name=person.name,
        cpf=person.cpf,
        email=person.email,
        default_method="card" if person.usually_by_card else "balance",
        card_token=payments.save_card(owner_id=str(person.id), card=card, now=now).token,
        ledger_branch=settings.LEDGER_BRANCH,
        ledger_account=person.account,
        now=now,
    )


def employ() -> dict[str, User]:
    """Two colleagues, who may act and have no password: nobody logs in as them. Safe to repeat."""
    with transaction.atomic(durable=True):
        operators, _ = Group.objects.get_or_create(name=OPERATORS)
        for name in MAY:
            app, codename = name.split(".")
            operators.permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
        return {name: _colleague(name, operators) for name in plan.OTHERS}


def _colleague(name: str, operators: Group) -> User:
    found = User.objects.filter(username=name).first()
    if found is None:
        first, last = plan.OTHERS[name]
        email = f"{name}@example.com"
        found = User.objects.create_user(name, email, is_staff=True, first_name=first, last_name=last)  # no password
        found.groups.add(operators)
    return found


@contextmanager
def logged_in(port: int) -> Iterator[dict[str, Api]]:
    """Each merchant with a secret that is revoked at the end, and that ends by itself should this process be killed."""
    now = timezone.now()
    with transaction.atomic(durable=True):
        issued = [identity.issue_secret(account_id=code, now=now, expires_at=now + SECRETS_LIVE) for code in plan.MERCHANTS]
    apis = {one.account_id: Api(port, one.account_id, one.secret) for one in issued}
    try:
        yield apis
    finally:
        for api in apis.values():
            api.close()
        with transaction.atomic(durable=True):
            for one in issued:
                identity.revoke_secret(account_id=one.account_id, prefix=one.prefix, now=timezone.now())

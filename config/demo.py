"""Demo data, loaded once: the seed's customer and tickets, a merchant, a ledger, a fiscal issuer, a login."""

import json
import logging
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from django.conf import settings

from apps.common.clock import uuid7
from apps.common.transactions import transaction
from apps.customers import public as customers
from apps.fiscal_docs import public as fiscal
from apps.identity import public as identity
from apps.ledger import public as ledger
from apps.orders.public import stock_tickets
from apps.orders.sagas import money
from apps.payments import public as payments

logger = logging.getLogger(__name__)

# The seed's own curl (seed 002), so that it works verbatim.
CUSTOMER_ID = UUID("e081ad0f-f83e-4f81-b2d7-23655ac04b8a")
TICKET_ID = UUID("3852cb18-9c19-4326-ac77-a1a0264bd98c")
SOLD_OUT_TICKET_ID = UUID("3852cb18-9c19-4326-ac77-a1a0264bd98d")
BACKOFFICE_USER, BACKOFFICE_PASSWORD = "techlead", "zup@123"  # the seed's demo login; refused outside the embedded mode
ACCOUNT_ID = "acc_demo"
SCOPES = [
    *("orders:write", "orders:read", "payments:write", "payments:read", "ledger:read", "ledger:post", "fiscal:read"),
    *("ledger:admin", "sagas:read", "sagas:operate", "webhooks:read", "webhooks:write"),
]
OPENING_BALANCE = Decimal("1000.00")
EVENT_DEPOSIT = 1
STOCK = 10_000
ISSUER_NAME = "LASTRO INGRESSOS DE TESTE LTDA"
# Published sandbox numbers; see docs/sandbox-cards.md. They are nobody's cards.
SANDBOX_CARDS = {
    "approved": "4242424242424242",
    "refused": "4000000000000002",
    "capture refused": "4000000000000341",
}


@dataclass(frozen=True)
class Demo:
    """What a newcomer needs: printed by ``make run`` and kept, readable by its owner alone, in DATA_DIR/demo.json."""

    account: str
    secret: str
    refused_card_token: str
    capture_refused_card_token: str


def load(*, now: datetime) -> Demo:
    """The demo's data, made at the first start of a database. Safe to repeat."""
    path = Path(settings.DATA_DIR) / "demo.json"
    fresh = _is_fresh()
    if fresh:
        create_shop(now=now)
        create_login()
    _open_merchants(now=now)
    if not fresh and path.exists():
        return Demo(**json.loads(path.read_text()))
    demo = issue_credentials(now=now)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(demo), file)
    return demo


def _is_fresh() -> bool:
    try:
        customers.customer(CUSTOMER_ID)
    except customers.UnknownCustomer:
        return True
    return False


@transaction
def create_shop(*, now: datetime, key: RSAPrivateKey | None = None) -> None:
    """Customer with a saved card and a balance, tickets, ledger, merchant account, fiscal issuer. Once per database.

    ``key`` is the issuer's, and spares making one.
    """
    _open_ledger(now=now)
    customers.create_customer(
        customer_id=CUSTOMER_ID,
        account_id="",  # nobody's: the seed's curl has no credentials
        name="Maria da Silva",
        cpf="529.982.247-25",
        email="maria@example.com",
        default_method="card",
        card_token=_save_card("approved", now=now),
        ledger_branch=settings.LEDGER_BRANCH,
        ledger_account="000000001",
        now=now,
    )
    stock_tickets(ticket_id=TICKET_ID, name="day-one", price=Decimal("200.00"), available=STOCK, now=now)
    stock_tickets(ticket_id=SOLD_OUT_TICKET_ID, name="day-zero", price=Decimal("200.00"), available=0, now=now)
    identity.create_account(name="Demo merchant", scopes=SCOPES, code=ACCOUNT_ID, now=now)
    fiscal.create_issuer_with_test_certificate(cnpj=settings.FISCAL_ISSUER_CNPJ, name=ISSUER_NAME, now=now, key=key)


def _open_ledger(*, now: datetime) -> None:
    branch = settings.LEDGER_BRANCH
    ledger.open_branch(branch=branch, description="Head office", now=now)
    ledger.ensure_event(code=EVENT_DEPOSIT, description="Deposit", now=now)
    for code, description in money.EVENTS.items():
        ledger.ensure_event(code=code, description=description, now=now)
    ledger.open_account(branch=branch, account="cash", min_balance=None, description="Cash at bank", now=now)
    # Every order posts to one of these: deferred, so that no order waits for another's commit.
    for account, description in (
        (settings.LEDGER_SALES_ACCOUNT, "Sales"),
        (settings.LEDGER_CARD_CLEARING_ACCOUNT, "Owed by the acquirer"),
    ):
        ledger.open_account(
            branch=branch, account=account, min_balance=None, description=description, deferred=True, now=now
        )
    ledger.open_account(branch=branch, account="000000001", description="Maria da Silva", now=now)
    deposit = ledger.Entry.transfer(
        tracekey=uuid7(),
        debit=ledger.AccountRef(branch, "cash"),
        credit=ledger.AccountRef(branch, "000000001"),
        amount=OPENING_BALANCE,
        eventcode=EVENT_DEPOSIT,
        description="Opening balance",
    )
    ledger.post(deposit, now=now)


@transaction
def _open_merchants(*, now: datetime) -> None:
    """Where merchants' own payments are posted; also in a database of before there was such an account."""
    merchants = money.merchants_account()
    if merchants is None:
        return
    for code, description in money.MERCHANT_EVENTS.items():
        ledger.ensure_event(code=code, description=description, now=now)
    ledger.open_account(
        branch=merchants.branch,
        account=merchants.account,
        min_balance=None,
        description="Owed to merchants",
        deferred=True,
        now=now,
    )


def _save_card(behaviour: str, *, now: datetime) -> str:
    card = payments.CardInput(number=SANDBOX_CARDS[behaviour], exp_month=12, exp_year=now.year + 3, cvv="123")
    return payments.save_card(owner_id=str(CUSTOMER_ID), card=card, now=now).token


@transaction
def issue_credentials(*, now: datetime) -> Demo:
    """A secret for the merchant and tokens of the sandbox cards that fail. Each call makes new ones."""
    return Demo(
        account=ACCOUNT_ID,
        secret=identity.issue_secret(account_id=ACCOUNT_ID, now=now).secret,
        refused_card_token=_save_card("refused", now=now),
        capture_refused_card_token=_save_card("capture refused", now=now),
    )


def create_login() -> None:
    """The back office's demo login."""
    from django.contrib.auth import get_user_model

    users = get_user_model().objects
    if not users.filter(username=BACKOFFICE_USER).exists():
        users.create_superuser(BACKOFFICE_USER, password=BACKOFFICE_PASSWORD)

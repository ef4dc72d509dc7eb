"""What the tests of payments start from."""

import base64
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.contrib.auth import get_user_model
from django.db import transaction
from django.test import Client
from rest_framework.test import APIClient

from apps.identity import public as identity
from apps.payments import public as payments
from tests.saga_driver import pump_messages

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
GOOD = "4242424242424242"
DECLINED = "4000000000000002"
NO_FUNDS = "4000000000009995"
CAPTURE_REFUSED = "4000000000000341"
ANSWER_LOST = "4000000000001000"
ANSWERED_TWICE = "4000000000002008"
ANSWERED_LATE = "4000000000003006"
REFUND_REFUSED = "4000000000005126"
REFUND_ANSWER_LOST = "4000000000007726"
REFUND_ANSWERED_TWICE = "4000000000008054"
CVV = "973"
STEP = "01990000-0000-7000-8000-000000000001:1"


def card_input(number: str = GOOD, **changes: Any) -> payments.CardInput:
    return payments.CardInput(**{"number": number, "exp_month": 12, "exp_year": 2030, "cvv": CVV, **changes})


def save_card(number: str = GOOD, *, owner_id: str = "acc_shop") -> payments.CardView:
    with transaction.atomic():
        return payments.save_card(owner_id=owner_id, card=card_input(number), now=NOW)


def authorise(number: str = GOOD, *, step_key: str = STEP, amount: str = "10.50", **changes: Any) -> payments.PaymentView:
    token = changes.pop("card_token", None) or save_card(number).token
    values = {"reply_to": step_key, "account_id": "acc_shop", "order_ref": "order-1", "now": NOW, **changes}
    with transaction.atomic():
        return payments.authorise(step_key=step_key, card_token=token, amount=Decimal(amount), **values)


def capture(payment_id: UUID, *, step_key: str = f"{STEP}c") -> payments.PaymentView:
    with transaction.atomic():
        return payments.capture(step_key=step_key, reply_to=step_key, payment_id=payment_id, now=NOW)


def void(*, step_key: str = STEP, reply_to: str = f"{STEP}:undo") -> payments.PaymentView:
    with transaction.atomic():
        return payments.void(step_key=step_key, reply_to=reply_to, now=NOW)


def refund(payment_id: UUID, amount: str, *, step_key: str = f"{STEP}r") -> payments.PaymentView:
    with transaction.atomic():
        return payments.refund(step_key=step_key, reply_to="", payment_id=payment_id, amount=Decimal(amount), now=NOW)


def merchant(*scopes: str, code: str | None = None) -> tuple[APIClient, str]:
    """A client that sends a fresh account and its secret, and the account's code."""
    with transaction.atomic():
        account = identity.create_account(
            name="Shop", scopes=scopes or ("payments:read", "payments:write"), now=NOW, code=code
        )
        issued = identity.issue_secret(account_id=account.account_id, now=NOW)
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=basic(account.account_id, issued.secret))
    return client, account.account_id


def again(client: APIClient) -> APIClient:
    """The same merchant, in another thread."""
    own = APIClient()
    own.credentials(**client._credentials)
    return own


def basic(account_id: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{account_id}:{secret}".encode()).decode()


def staff() -> Client:
    """A browser in which a superuser is logged in to the back office."""
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("ops", password="x"))
    return client


def captured(*, card: str = GOOD, amount: str = "10.50") -> tuple[APIClient, str]:
    """A merchant's client, and the id of a payment of theirs whose money was taken."""
    client, _ = merchant()
    typed = {"number": card, "exp_month": 12, "exp_year": 2030, "cvv": CVV}
    answer = client.post("/payments", {"amount": amount, "card": typed, "reference": "order-7"}, format="json")
    pump_messages()
    return client, answer.json()["id"]

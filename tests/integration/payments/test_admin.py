"""What the back office shows of money and callers: everything to look at, nothing to change, no secret."""

from typing import Any

import pytest
from django.apps import apps
from django.db import transaction
from django.urls import reverse

from apps.customers import public as customers
from apps.idempotency.models import IdempotencyKey
from apps.identity.models import Account, Secret
from apps.payments.models import CardToken, Payment, ProcessorTransaction
from tests.integration.payments import world
from tests.saga_driver import pump_messages

pytestmark = pytest.mark.django_db

PAGES = [
    ("identity", "account"),
    ("customers", "customer"),
    ("idempotency", "idempotencykey"),
    ("payments", "payment"),
    ("payments", "cardtoken"),
    ("payments", "processortransaction"),
]


@pytest.fixture
def shop() -> str:
    """An account with a payment of each kind and a customer; the text is the token of a saved card."""
    client, account = world.merchant()
    token = world.save_card(owner_id=account).token
    body = {"amount": "10.50", "card_token": token, "reference": "order-7"}
    client.post("/payments", body, format="json", HTTP_IDEMPOTENCY_KEY="key-1")  # type: ignore[arg-type]
    pump_messages()
    with transaction.atomic():
        customers.create_customer(
            account_id=account,
            name="Ana",
            cpf="52998224725",
            email="a@example.com",
            default_method="card",
            card_token=token,
            now=world.NOW,
        )
    return token


def row_of(app: str, model: str) -> Any:
    return apps.get_model(app, model).objects.first()


@pytest.mark.parametrize(("app", "model"), PAGES)
class TestEveryPage:
    def test_lists_searches_and_shows_and_changes_nothing(self, shop: str, app: str, model: str) -> None:
        browser, row = world.staff(), row_of(app, model)
        listed = browser.get(reverse(f"admin:{app}_{model}_changelist"))
        searched = browser.get(reverse(f"admin:{app}_{model}_changelist"), {"q": str(row.pk)[:8]})
        shown = browser.get(reverse(f"admin:{app}_{model}_change", args=[row.pk]))
        assert (listed.status_code, searched.status_code, shown.status_code) == (200, 200, 200)
        assert browser.get(reverse(f"admin:{app}_{model}_add")).status_code == 403
        assert browser.post(reverse(f"admin:{app}_{model}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403
        assert browser.post(reverse(f"admin:{app}_{model}_change", args=[row.pk]), {"name": "x"}).status_code == 403

    def test_shows_no_token_digest_cpf_or_ciphertext(self, shop: str, app: str, model: str) -> None:
        browser, row = world.staff(), row_of(app, model)
        pages = [reverse(f"admin:{app}_{model}_changelist"), reverse(f"admin:{app}_{model}_change", args=[row.pk])]
        card, secret = CardToken.objects.get(), Secret.objects.get()
        hidden = [shop, bytes(card.ciphertext).hex(), bytes(secret.digest).hex(), "52998224725", repr(bytes(secret.digest))]
        for page in pages:
            text = browser.get(page).content.decode()
            assert not [one for one in hidden if one in text]


class TestWhatIsShown:
    def test_a_payment_with_its_operations_and_the_processors_side(self, shop: str) -> None:
        browser = world.staff()
        payment, theirs = Payment.objects.get(), ProcessorTransaction.objects.get()
        page = browser.get(reverse("admin:payments_payment_change", args=[payment.pk])).content.decode()
        assert all(word in page for word in ("authorise", "capture", "approved", "psr_", "order-7"))
        page = browser.get(reverse("admin:payments_processortransaction_change", args=[theirs.pk])).content.decode()
        assert "psr_" in page

    def test_a_refund_with_its_reason_while_it_waits_and_when_it_is_done(self) -> None:
        client, payment_id = world.captured()
        client.post(f"/payments/{payment_id}/refunds", {"amount": 4, "reason": "It did not fit."}, format="json")
        browser, address = world.staff(), reverse("admin:payments_payment_change", args=[payment_id])
        page = browser.get(address).content.decode()
        assert "waits for the processor’s answer" in page
        assert "“It did not fit.”" in page
        pump_messages()
        page = browser.get(address).content.decode()
        assert "of it was given back" in page
        assert "waits for the processor" not in page

    def test_a_cpf_as_banks_print_it(self, shop: str) -> None:
        page = world.staff().get(reverse("admin:customers_customer_changelist")).content.decode()
        assert "***.982.247-**" in page

    def test_a_key_with_its_answer(self, shop: str) -> None:
        row = IdempotencyKey.objects.get()
        page = world.staff().get(reverse("admin:idempotency_idempotencykey_change", args=[row.pk])).content.decode()
        assert "key-1" in page
        assert "pending" in page

    def test_an_account_with_its_secrets_prefix(self, shop: str) -> None:
        page = world.staff().get(reverse("admin:identity_account_change", args=[Account.objects.get().pk])).content.decode()
        assert Secret.objects.get().prefix in page

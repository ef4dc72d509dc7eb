"""Somebody with a merchant's key tries stolen cards: after some refusals cards that nobody knows are not asked about."""

import json
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient
from stdnum import luhn

from apps.common.clock import first_uuid7
from apps.messaging.models import Message
from apps.payments import card_testing, metrics
from apps.payments import public as payments
from apps.payments.models import CardToken, Payment
from config import demo
from tests import shop
from tests.integration.payments import world
from tests.saga_driver import finish, pump_messages

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _small_limits(settings: Settings) -> None:
    settings.PAYMENTS_REFUSED_OF_ACCOUNT_MAX = 4
    settings.PAYMENTS_REFUSED_OF_CUSTOMER_MAX = 3
    settings.PAYMENTS_REFUSED_OF_CARD_MAX = 2


def stolen(last4: str = "0002") -> Iterator[str]:
    """Numbers of different cards that the processor refuses."""
    for middle in count(100_000):
        if luhn.is_valid(number := f"400000{middle}{last4}"):
            yield number


def pay(client: APIClient, number: str, **changes: Any) -> Any:
    card = {"number": number, "exp_month": 12, "exp_year": 2030, "cvv": world.CVV}
    answer = client.post("/payments", {"amount": "10.50", "card": card, **changes}, format="json")
    pump_messages()
    return answer


def pay_by(client: APIClient, token: str) -> Any:
    answer = client.post("/payments", {"amount": "10.50", "card_token": token}, format="json")
    pump_messages()
    return answer


def age(**by: int) -> None:
    for row in Payment.objects.all():
        Payment.objects.filter(pk=row.pk).update(created_at=row.created_at - timedelta(**by))


@pytest.fixture
def client() -> APIClient:
    return world.merchant()[0]


@pytest.fixture
def tested(client: APIClient) -> APIClient:
    """Whose last cards were all refused."""
    cards = stolen()
    assert [pay(client, next(cards)).status_code for _ in range(4)] == [202] * 4
    assert set(Payment.objects.values_list("state", flat=True)) == {"REJECTED"}
    return client


class TestAccount:
    def test_tries_no_further_card_after_too_many_refusals(self, tested: APIClient) -> None:
        rows, messages, cards = Payment.objects.count(), Message.objects.count(), CardToken.objects.count()
        answer = pay(tested, world.GOOD)
        assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (429, "R217", True)
        assert 3500 < int(answer["Retry-After"]) <= 3600
        assert (rows, messages, cards) == (Payment.objects.count(), Message.objects.count(), CardToken.objects.count())

    def test_tries_again_when_the_refusals_are_old(self, tested: APIClient) -> None:
        age(minutes=61)
        assert pay(tested, world.GOOD).status_code == 202

    def test_goes_on_with_cards_that_were_good_before(self, client: APIClient) -> None:
        cards, saved = stolen(), world.save_card(owner_id="").token
        CardToken.objects.filter(token=saved).update(owner_id=_account(client, cards))
        assert pay_by(client, saved).status_code == 202
        age(days=30)
        for _ in range(4):
            pay(client, next(cards))
        assert pay(client, world.GOOD).status_code == 202, "the same card, typed again"
        assert pay(client, "5555555555554444").status_code == 429

    def test_does_not_go_on_with_cards_that_were_good_for_others(self, tested: APIClient) -> None:
        assert pay(world.merchant()[0], world.GOOD).status_code == 202
        assert pay(tested, world.GOOD).status_code == 429

    def test_does_not_mind_refusals_among_many_good_payments(self, client: APIClient) -> None:
        cards = stolen()
        for number in [number for _ in range(6) for number in (world.GOOD, next(cards), world.GOOD)]:
            assert pay(client, number).status_code == 202

    def test_is_not_diluted_by_what_costs_nothing(self, client: APIClient) -> None:
        cards = stolen()
        for _ in range(4):
            pay(client, next(cards))
            for _ in range(4):
                assert pay(client, world.GOOD, amount="0.50").status_code == 201
        assert pay(client, world.GOOD).status_code == 429

    def test_makes_no_other_account_wait(self, tested: APIClient) -> None:
        assert pay(world.merchant()[0], world.GOOD).status_code == 202

    def test_looks_at_nothing_that_is_older_whatever_plan_was_made(self) -> None:
        """As for a shop that was quiet for an hour, on a connection that has asked for busy ones before."""
        now, card = timezone.now(), CardToken.objects.get(token=world.save_card().token)
        values = {"card": card, "amount": 1, "updated_at": now}
        made = [(number, now - timedelta(days=1, seconds=number)) for number in range(2_000)]
        Payment.objects.bulk_create(
            Payment(id=first_uuid7(at), step_key=f"k{number}", account_id=f"acc_{number % 5}", created_at=at, **values)
            for number, at in made
        )
        since, statement = now - timedelta(hours=1), card_testing._OF_ACCOUNT
        for number, name in enumerate(("account", "since", "first", "account_most"), start=1):
            statement = statement.replace(f"%({name})s", f"${number}")
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE payments_payment")
            cursor.execute("SET LOCAL plan_cache_mode TO force_generic_plan")
            cursor.execute("SET LOCAL enable_sort TO off")  # as it chooses by itself for some hundred thousand rows
            cursor.execute(f"PREPARE of_account (text, timestamptz, uuid, int) AS {statement}")
            asked = "EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE of_account ('acc_1', %s, %s, 50)"
            cursor.execute(asked, [since, first_uuid7(since)])
            ((told,),) = cursor.fetchall()
            cursor.execute("DEALLOCATE of_account")
        assert "Rows Removed by Filter" not in json.dumps(told).replace('"Rows Removed by Filter": 0', "")

    def test_is_told_in_the_metrics_and_at_home(self, tested: APIClient) -> None:
        account = Payment.objects.values_list("account_id", flat=True)[0]
        now = timezone.now()
        [found] = payments.limited_accounts(now=now)
        assert (found.account_id, found.refused) == (account, 4)
        assert {row.gauge.name: row.value for row in metrics._rows()}["lastro_payments_limited"] == 1
        page = world.staff().get("/admin/").content.decode()
        assert f"4 card payments of {account} were refused" in page
        assert f"q={account}&amp;state__exact=REJECTED" in page
        assert payments.limited_accounts(now=now + timedelta(minutes=61)) == []

    def test_is_not_limited_where_the_limits_are_off(self, tested: APIClient, settings: Settings) -> None:
        for of in ("ACCOUNT", "CUSTOMER", "CARD"):
            setattr(settings, f"PAYMENTS_REFUSED_OF_{of}_MAX", 0)
        assert pay(tested, world.GOOD).status_code == 202
        assert payments.limited_accounts(now=timezone.now()) == []

    def test_gives_the_first_answer_again_for_a_known_key(self, client: APIClient) -> None:
        cards = stolen()
        card = {"number": next(cards), "exp_month": 12, "exp_year": 2030, "cvv": world.CVV}
        body = {"amount": "10.50", "card": card}
        first = client.post("/payments", body, format="json", HTTP_IDEMPOTENCY_KEY="k")  # type: ignore[arg-type]
        pump_messages()
        for _ in range(4):
            pay(client, next(cards))
        again = client.post("/payments", body, format="json", HTTP_IDEMPOTENCY_KEY="k")  # type: ignore[arg-type]
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])

    def test_a_refused_attempt_does_not_use_its_key_up(self, tested: APIClient) -> None:
        def ask() -> Any:
            card = {"number": world.GOOD, "exp_month": 12, "exp_year": 2030, "cvv": world.CVV}
            return tested.post("/payments", {"amount": "10.50", "card": card}, format="json", HTTP_IDEMPOTENCY_KEY="k")  # type: ignore[arg-type]

        assert ask().status_code == 429
        age(minutes=61)
        assert ask().status_code == 202


def _account(client: APIClient, cards: Iterator[str]) -> str:
    """The client's account, from a payment of its."""
    pay(client, next(cards), amount="0.50")
    return Payment.objects.get().account_id


class TestCard:
    def test_is_not_tried_again_and_again_whoever_asks(self, client: APIClient) -> None:
        for asker in (client, world.merchant()[0]):
            assert pay(asker, world.DECLINED).status_code == 202
        answer = pay(client, world.DECLINED)
        assert (answer.status_code, answer.json()["code"]) == (429, "R217")
        assert "4000" not in answer.content.decode()
        assert pay(client, world.GOOD).status_code == 202

    def test_goes_on_where_it_has_paid_before_whoever_tried_it_elsewhere(self, client: APIClient) -> None:
        thief, _ = world.merchant()
        assert pay(client, world.GOOD).status_code == 202
        for asker in (thief, client):
            for _ in range(2):
                assert pay(asker, world.GOOD).status_code == 202
                refuse_the_latest()
            assert pay(asker, world.GOOD).status_code == 429, "refused twice for this one"


def refuse_the_latest() -> None:
    """As the processor would: the sandbox refuses other cards."""
    latest = Payment.objects.latest("pk").pk
    Payment.objects.filter(pk=latest).update(state="REJECTED", captured_amount=0, error_code="card_declined")


class TestSagasStep:
    def test_that_has_asked_may_ask_again(self) -> None:
        first = world.authorise(world.DECLINED, now=timezone.now())
        token = CardToken.objects.get(payments=first.id).token
        pump_messages()
        for number in range(2):
            Payment.objects.filter(pk=first.id).update(state="REJECTED")
            if number == 0:
                world.authorise(world.DECLINED, step_key="01990000-0000-7000-8000-000000000002:1", now=timezone.now())
                pump_messages()
        again = world.authorise(card_token=token, now=timezone.now())
        assert again.id == first.id
        with pytest.raises(payments.TooManyRefusals):
            world.authorise(world.DECLINED, step_key="01990000-0000-7000-8000-000000000003:1", now=timezone.now())


@pytest.mark.django_db(transaction=True)
class TestOrder:
    def test_of_a_customer_whose_cards_were_refused_is_not_paid(self, running_sandbox: Any, client: Any) -> None:
        found, web = shop.open_shop(), Client()
        for _ in range(3):
            order = shop.post_order(web, shop.by_card(found.refused_card_token)).json()["id"]
            finish(shop.run_of(order).pk)
            CardToken.objects.filter(token=found.refused_card_token).update(fingerprint=timezone.now().isoformat().encode())
        with transaction.atomic():
            card = world.card_input("5555555555554444")
            token = payments.save_card(owner_id=str(demo.CUSTOMER_ID), card=card, now=timezone.now()).token
        order = shop.post_order(web, shop.by_card(token)).json()["id"]
        finish(shop.run_of(order).pk)
        last = shop.order(order)
        assert (last.status, last.error_code) == ("PAYMENT_NOT_COMPLETED", "R217")
        shop.assert_clean_slate()

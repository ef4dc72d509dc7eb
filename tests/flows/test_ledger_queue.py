"""Entries taken over HTTP for later: from 202 through the topic to the posting, its answer, and whoever asks."""

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, connections, transaction
from django.test import Client
from django.utils import timezone

from apps.common.clock import uuid7
from apps.ledger import public as ledger
from apps.ledger.models import Account
from apps.messaging.contracts.ledger import POSTING_EVENT, POSTING_IN, PostingDone, PostingRequested
from apps.messaging.models import Message, Pending, Redelivery
from apps.messaging.outbox import bucket_of, publish_raw
from config import demo
from tests import shop
from tests.saga_driver import pump_messages

ERROR = "ledger.accounts.posting.error"
BRANCH, ACCOUNT, CURRENCY = shop.CUSTOMER_ACCOUNT
KEY = "/".join(shop.CUSTOMER_ACCOUNT)
POISON = "poison"


@pytest.fixture
def client(opened: demo.Demo) -> Client:
    account = base64.b64encode(f"{opened.account}:{opened.secret}".encode()).decode()
    return Client(headers={"Authorization": f"Basic {account}"})


def line(amount: str, side: str = "C", **changes: Any) -> dict[str, Any]:
    return {
        "tracekey": str(uuid4()),
        "branch": BRANCH,
        "account": ACCOUNT,
        "amount": amount,
        "debitcredit": side,
        "eventcode": demo.EVENT_DEPOSIT,
        **changes,
    }


def queue(client: Client, *bodies: dict[str, Any]) -> list[str]:
    """Send a batch for later; its tracekeys."""
    path, headers = "/ledger/transactions/batch", {"Prefer": "respond-async"}
    answer = client.post(path, {"transactions": bodies}, content_type="application/json", headers=headers)
    assert (answer.status_code, answer["Preference-Applied"]) == (202, "respond-async")
    assert answer.json()["tracekeys"] == [sent["tracekey"] for sent in bodies]
    return [str(sent["tracekey"]) for sent in bodies]


def outcomes(client: Client, tracekeys: list[str]) -> list[str]:
    found = client.get("/ledger/transactions", {"tracekey": tracekeys}).json()["results"]
    return [result.get("code") or result["result"] for result in found]


def answers() -> list[PostingDone]:
    return [PostingDone.from_body(row.body) for row in Message.objects.filter(topic=POSTING_EVENT).order_by("seq")]


def told() -> list[tuple[str, str]]:
    return [(str(answer.tracekey), answer.code or answer.result) for answer in answers()]


def balance() -> Decimal:
    return ledger.balance(shop.CUSTOMER_ACCOUNT).posted


def assert_proved() -> None:
    assert ledger.check_balances() == []
    shop.assert_nothing_left_over()


class TestQueue:
    def test_takes_a_line_and_posts_it_and_answers_and_can_be_asked(self, client: Client) -> None:
        body, headers = line("25.50", description="pix"), {"Prefer": "respond-async"}
        taken = client.post("/ledger/transactions", body, content_type="application/json", headers=headers)
        assert (taken.status_code, taken.json()) == (202, {"tracekeys": [body["tracekey"]]})
        assert outcomes(client, [body["tracekey"]]) == ["UNKNOWN"]
        assert balance() == 1000
        pump_messages()
        (found,) = client.get(taken["Location"]).json()["results"]
        (answer,) = answers()
        assert (found["result"], found["lines"][0]["balances"]["posted"]) == ("POSTED", "1025.50")
        assert (str(answer.tracekey), answer.result, answer.lines[0].posted) == (body["tracekey"], "POSTED", balance())
        assert str(answer.lines[0].id) == found["lines"][0]["id"]
        row = Message.objects.get(topic=POSTING_EVENT)
        assert (row.key, row.trace) == (KEY, taken["X-Request-ID"])
        assert_proved()

    def test_posts_a_batch_in_order_in_few_commits_and_refuses_only_what_must_be_refused(self, client: Client) -> None:
        bodies = [line("1.00") for _ in range(200)]
        bodies[100] = line("5000.00", "D")
        bodies[150] = line("1.00", account="nobody")
        tracekeys = queue(client, *bodies)
        pump_messages()
        expected = ["POSTED"] * 200
        expected[100], expected[150] = "R103", "R101"
        assert sorted(told()) == sorted(zip(tracekeys, expected, strict=True))
        mine = [tracekey for tracekey, body in zip(tracekeys, bodies, strict=True) if body["account"] == ACCOUNT]
        assert [tracekey for tracekey, _ in told() if tracekey in mine] == mine
        assert outcomes(client, tracekeys[60:160]) == expected[60:160]
        assert balance() == 1198
        assert commits() <= 20
        assert_proved()

    def test_answers_the_same_to_whoever_asks_again_and_refuses_another_body(self, client: Client) -> None:
        bodies = [line("10.00"), line("20.00")]
        queue(client, *bodies)
        pump_messages()
        queue(client, *bodies, {**bodies[0], "amount": "11.00"})
        pump_messages()
        first, again, other = answers()[:2], answers()[2:4], answers()[4]
        assert [(answer.tracekey, answer.lines) for answer in again] == [
            (answer.tracekey, answer.lines) for answer in first
        ]
        assert [answer.replayed for answer in (*first, *again)] == [False, False, True, True]
        assert other.code == "R107"
        assert balance() == 1030

    def test_and_http_share_one_tracekey(self, client: Client) -> None:
        body = line("10.00", details={"taxa": 1.1})
        queue(client, body)
        at_once = client.post("/ledger/transactions", body, content_type="application/json")
        assert at_once.status_code == 201
        pump_messages()
        assert [answer.replayed for answer in answers()] == [True]
        assert balance() == 1010


def commits() -> int:
    """How many transactions wrote the lines of the queue."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(DISTINCT xmin::text) FROM ledger_transaction WHERE amount = 1")
        return int(cursor.fetchone()[0])


class TestDeliveredTwice:
    def test_is_posted_and_answered_once(self, client: Client) -> None:
        queue(client, *(line("1.00") for _ in range(50)))
        pump_messages()
        for row in Message.objects.filter(topic=POSTING_IN):
            again = {"message_id": row.pk, "topic": row.topic, "key": row.key, "bucket": bucket_of(row.key)}
            Pending.objects.create(seq=row.seq, due_at=timezone.now(), **again)
        assert pump_messages() >= 100
        assert len(answers()) == 50
        assert balance() == 1050
        assert_proved()


class TestPoison:
    def test_that_follows_no_contract_is_buried_with_its_reason_and_the_rest_goes_on(self, client: Client) -> None:
        before = queue(client, line("1.00"), line("2.00"))
        for body in (
            {"tracekey": str(uuid4()), "legs": [{"branch": BRANCH}]},
            {"tracekey": str(uuid4()), "legs": [{**line("1.005"), "currency": CURRENCY}]},
            {"legs": []},
        ):
            meta = {"message-id": str(uuid7()), "schema": PostingRequested.schema}
            with transaction.atomic():
                publish_raw(topic=POSTING_IN, key=KEY, meta=meta, body=body)
        after = queue(client, line("4.00"))
        pump_messages()
        assert told() == [(tracekey, "POSTED") for tracekey in (*before, *after)]
        errors = [row.meta["error"] for row in Message.objects.filter(topic=ERROR).order_by("seq")]
        assert [error["code"] for error in errors] == ["R601"] * 3
        assert [field in error["reason"] for field, error in zip(("account", "amount", "tracekey"), errors, strict=True)]
        assert balance() == 1007
        assert_proved()

    def test_that_breaks_the_posting_is_found_in_its_batch_and_buried_in_the_end(self, client: Client) -> None:
        bodies = [line(f"{n}.00", description=POISON if n == 4 else "") for n in range(1, 8)]
        with broken_for_poison():
            tracekeys = queue(client, *bodies)
            pump_messages()
            assert told() == [(tracekey, "POSTED") for tracekey in tracekeys[:3]], "what is before it is not held up"
            while Redelivery.objects.exists():
                Redelivery.objects.update(due_at=timezone.now() - timedelta(seconds=1))
                pump_messages()
        assert told() == [(tracekey, "POSTED") for n, tracekey in enumerate(tracekeys) if n != 3]
        dead = Message.objects.get(topic=ERROR)
        assert (dead.body["tracekey"], dead.meta["error"]["attempts"]) == (tracekeys[3], 6)
        assert "the disk says no" in dead.meta["error"]["reason"]
        assert outcomes(client, tracekeys[3:5]) == ["UNKNOWN", "POSTED"]
        assert balance() == 1000 + 1 + 2 + 3 + 5 + 6 + 7
        assert_proved()

    def test_that_was_mended_is_posted_with_all_the_others(self, client: Client) -> None:
        with broken_for_poison():
            tracekeys = queue(client, line("1.00"), line("2.00", description=POISON), line("3.00"))
            pump_messages()
        Redelivery.objects.update(due_at=timezone.now() - timedelta(seconds=1))
        pump_messages()
        assert told() == [(tracekey, "POSTED") for tracekey in tracekeys]
        assert balance() == 1006


class TestBusy:
    def test_account_is_waited_for_and_nothing_is_lost_or_posted_twice(self, client: Client) -> None:
        """A lock that is not free in time is nobody's fault: what waited for it comes again, in order."""
        tracekeys = queue(client, line("1.00"), line("2.00"), line("5000.00", "D"), line("4.00"))
        with locked_account(), impatience():
            pump_messages()
        assert told() == []
        assert Redelivery.objects.count() == len(tracekeys)
        while Redelivery.objects.exists():
            Redelivery.objects.update(due_at=timezone.now() - timedelta(seconds=1))
            pump_messages()
        assert told() == list(zip(tracekeys, ["POSTED", "POSTED", "R103", "POSTED"], strict=True))
        assert not Message.objects.filter(topic=ERROR).exists()
        assert balance() == 1007
        assert_proved()


@contextmanager
def locked_account() -> Iterator[None]:
    """Somebody else has the account."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with transaction.atomic():
                Account.objects.select_for_update().get(branch_id=BRANCH, account=ACCOUNT)
                held.set()
                done.wait(150)
        finally:
            connections.close_all()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(90)
        yield
    finally:
        done.set()
        thread.join(90)


@contextmanager
def impatience() -> Iterator[None]:
    """This process's connection waits for no lock, or nearly."""
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '20ms'")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("RESET lock_timeout")


@contextmanager
def broken_for_poison() -> Iterator[None]:
    """The database refuses lines of this description, as a bug or a full disk might."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION refuse_poison() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN IF NEW.description = '{POISON}' THEN RAISE 'the disk says no'; END IF; RETURN NEW; END $$;"
            "CREATE TRIGGER refuse_poison BEFORE INSERT ON ledger_transaction "
            "FOR EACH ROW EXECUTE FUNCTION refuse_poison();"
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER refuse_poison ON ledger_transaction; DROP FUNCTION refuse_poison();")


class TestSuspended:
    """What is asked for while nobody may post is posted afterwards: not refused, not buried, in order."""

    def suspend(self, **scope: Any) -> ledger.SuspensionView:
        with transaction.atomic():
            return ledger.suspend(mode="REFUSE", reason="a look", by="ana", now=timezone.now(), **scope)

    def resume(self, suspension: ledger.SuspensionView) -> None:
        with transaction.atomic():
            ledger.resume(suspension_id=suspension.id, by="ana", now=timezone.now())
        Redelivery.objects.update(due_at=timezone.now() - timedelta(seconds=1))
        pump_messages()

    def test_a_branch_holds_up_only_what_is_for_it(self, client: Client) -> None:
        with transaction.atomic():
            ledger.open_branch(branch="9001", now=timezone.now())
            ledger.open_account(branch="9001", account="1", now=timezone.now())
        suspension = self.suspend(branch=BRANCH)
        bodies = [line("1.00"), line("2.00", branch="9001", account="1"), line("4.00")]
        tracekeys = queue(client, *bodies)
        pump_messages()
        assert told() == [(tracekeys[1], "POSTED")]
        for _ in range(8):  # more often than what fails is tried
            Redelivery.objects.update(due_at=timezone.now() - timedelta(seconds=1))
            pump_messages()
        assert told() == [(tracekeys[1], "POSTED")]
        self.resume(suspension)
        assert told()[1:] == [(tracekeys[0], "POSTED"), (tracekeys[2], "POSTED")]
        assert balance() == 1005
        assert not Message.objects.filter(topic=ERROR).exists()
        assert_proved()

    def test_the_whole_ledger_keeps_the_topic_waiting(self, client: Client) -> None:
        suspension = self.suspend()
        tracekeys = queue(client, line("1.00"), line("2.00"))
        pump_messages(held=len(tracekeys))
        assert (told(), Redelivery.objects.count(), balance()) == ([], 0, 1000)
        self.resume(suspension)
        pump_messages()
        assert told() == [(tracekey, "POSTED") for tracekey in tracekeys]
        assert_proved()

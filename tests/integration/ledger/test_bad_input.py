"""Bad input, case by case, on every way in: a coded refusal of the line or the request, and nothing else touched."""

import functools
import json
import random
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from django.db import connection, connections, transaction
from django.utils import timezone
from rest_framework.test import APIClient

from apps.common.clock import business_date
from apps.ledger import public as ledger
from apps.ledger.models import Account, Refusal, Transaction
from apps.ledger.public import AccountRef
from apps.messaging.consumer import Delivery
from apps.messaging.contracts.ledger import POSTING_EVENT, POSTING_IN, PostingDone
from apps.messaging.models import Message
from apps.messaging.transports.base import IncomingRecord
from tests.integration.ledger.api.test_views import client_with
from tests.integration.ledger.conftest import (
    ANA,
    ANY,
    BOB,
    CREDIT_ONLY,
    INACTIVE,
    NOW,
    TODAY,
    open_bank,
    open_todays_bank,
    post_batch,
    posted,
)
from tests.integration.ledger.conftest import line as ledger_line

pytestmark = pytest.mark.django_db

TOMORROW, NINE_DAYS_AGO = "<tomorrow>", "<nine days ago>"
POISON = "poison"  # of the topic: follows no contract, so nobody can be answered


class Case(NamedTuple):
    """One field as JSON text. ``single``: status and code over HTTP; ``topic``: code of the answer, or POISON.

    In a batch what is malformed (422, 400) refuses the request, and what is refused (409) refuses its line.
    """

    name: str
    field: str
    text: str
    single: tuple[int, str]
    topic: str


def deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


CASES = [
    Case("unknown event", "eventcode", "99", (409, "R104"), "R104"),
    Case("inactive event", "eventcode", str(INACTIVE), (409, "R105"), "R105"),
    Case("debit that the event does not allow", "eventcode", str(CREDIT_ONLY), (409, "R106"), "R106"),
    Case("event zero", "eventcode", "0", (422, "R001"), "R110"),
    Case("event as a truth", "eventcode", "true", (422, "R001"), POISON),
    Case("event too large", "eventcode", str(2**31), (422, "R001"), "R110"),
    Case("event with decimals", "eventcode", "1.5", (422, "R001"), POISON),
    Case("unknown branch", "branch", '"9999"', (409, "R101"), "R101"),
    Case("unknown account", "account", '"nobody"', (409, "R101"), "R101"),
    Case("account of another currency", "currency", '"USD"', (409, "R101"), "R101"),
    Case("account with a space", "account", '"a b"', (422, "R110"), "R110"),
    Case("account that is too long", "account", json.dumps("a" * 41), (422, "R001"), "R110"),
    Case("account as a number", "account", "[1]", (422, "R001"), POISON),
    Case("branch with NUL", "branch", '"00\\u00001"', (400, "R002"), POISON),
    Case("currency in small letters", "currency", '"brl"', (422, "R110"), "R110"),
    Case("amount zero", "amount", "0", (422, "R110"), POISON),
    Case("amount zero with cents", "amount", '"0.00"', (422, "R110"), "R110"),
    Case("amount negative", "amount", "-1", (422, "R001"), POISON),
    Case("amount negative as text", "amount", '"-1.00"', (422, "R001"), "R110"),
    Case("amount with three decimals", "amount", "1.001", (422, "R001"), POISON),
    Case("amount with three decimals as text", "amount", '"1.001"', (422, "R001"), POISON),
    Case("amount NaN", "amount", "NaN", (400, "R002"), POISON),
    Case("amount NaN as text", "amount", '"NaN"', (422, "R001"), POISON),
    Case("amount infinite", "amount", "Infinity", (400, "R002"), POISON),
    Case("amount infinite as text", "amount", '"Infinity"', (422, "R001"), POISON),
    Case("amount 1e2", "amount", "1e2", (422, "R001"), POISON),
    Case("amount 1e2 as text", "amount", '"1e2"', (422, "R001"), POISON),
    Case("amount 1.5e1", "amount", "1.5e1", (422, "R001"), POISON),
    Case("amount 1E-2", "amount", "1E-2", (422, "R001"), POISON),
    Case("amount that overflows a float", "amount", "1e400", (422, "R001"), POISON),
    Case("amount with a comma", "amount", '"1,00"', (422, "R001"), POISON),
    Case("amount empty", "amount", '""', (422, "R001"), POISON),
    Case("amount in other digits", "amount", '"١"', (422, "R001"), POISON),
    Case("amount with a line feed", "amount", '"1\\n"', (422, "R001"), POISON),
    Case("amount null", "amount", "null", (422, "R001"), POISON),
    Case("amount true", "amount", "true", (422, "R001"), POISON),
    Case("amount too large", "amount", "99999999999999", (422, "R001"), POISON),
    Case("amount of endless digits", "amount", "1" * 41, (400, "R002"), POISON),
    Case("side of another name", "debitcredit", '"X"', (422, "R001"), "R110"),
    Case("date in the future", "dateref", TOMORROW, (409, "R109"), "R109"),
    Case("date before the window", "dateref", NINE_DAYS_AGO, (409, "R109"), "R109"),
    Case("date that is none", "dateref", '"2026-02-30"', (422, "R001"), POISON),
    Case("date with a time", "dateref", '"2026-02-01T10:00:00Z"', (422, "R001"), POISON),
    Case("details over 16 KiB", "details", json.dumps({"a": "x" * 16_384}), (422, "R110"), "R110"),
    Case("details deeper than 32", "details", deep(33), (400, "R002"), "R110"),
    Case("details endlessly deep", "details", deep(5_000), (400, "R002"), "R110"),
    Case("details with NUL", "details", '{"a":"\\u0000"}', (400, "R002"), "R110"),
    Case("details with half a surrogate", "details", '{"a":"\\ud800"}', (400, "R002"), "R110"),
    Case("details with a key twice", "details", '{"a":1,"a":2}', (400, "R002"), "R110"),
    Case("details as a list", "details", "[1]", (422, "R001"), "R110"),
    Case("description too long", "description", json.dumps("x" * 256), (422, "R001"), "R110"),
    Case("description with NUL", "description", '"a\\u0000"', (400, "R002"), POISON),
    Case("tracekey that is none", "tracekey", '"x"', (422, "R001"), POISON),
    Case("tracekey as a number", "tracekey", "5", (422, "R001"), POISON),
    Case("tracekey as a truth", "tracekey", "true", (422, "R001"), POISON),
    Case("more than there is", "amount", '"1000.00"', (409, "R103"), "R103"),
]
IDS = [case.name for case in CASES]


@pytest.fixture
def client() -> APIClient:
    open_todays_bank()
    return client_with("ledger:read", "ledger:post")


def line(case: Case | None = None, *, account: str = ANA.account, side: str = "D") -> str:
    """A line's JSON text. Without a case: a credit that is posted."""
    fields = {
        "tracekey": json.dumps(str(uuid4())),
        "branch": '"0001"',
        "account": json.dumps(account),
        "amount": '"5.00"',
        "debitcredit": json.dumps(side),
        "eventcode": str(ANY),
    }
    if case:
        fields[case.field] = in_days(case.text)
    return "{" + ",".join(f'"{name}":{text}' for name, text in fields.items()) + "}"


def batch_of(*lines: str) -> str:
    return '{"transactions":[' + ",".join(lines) + "]}"


def in_days(text: str) -> str:
    today = business_date(timezone.now())
    days = {TOMORROW: today + timedelta(days=1), NINE_DAYS_AGO: today - timedelta(days=9)}
    return json.dumps(str(days[text])) if text in days else text


@functools.cache
def all_rows() -> str:
    """One statement for all rows of all tables of the ledger and of the post office."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition "
            "AND (relname LIKE 'ledger%%' OR relname LIKE 'messaging%%') ORDER BY 1"
        )
        tables = [table for (table,) in cursor.fetchall()]
    return " UNION ALL ".join(f"SELECT '{table}', t::text FROM {table} t" for table in tables) + " ORDER BY 1, 2"


def rows() -> dict[str, list[str]]:
    """By table."""
    found: dict[str, list[str]] = defaultdict(list)
    with connection.cursor() as cursor:
        cursor.execute(all_rows())
        for table, row in cursor.fetchall():
            found[table].append(row)
    return dict(found)


class TestSingle:
    @pytest.mark.parametrize("case", CASES, ids=IDS)
    def test_is_refused_with_its_code_and_touches_nothing(self, client: APIClient, case: Case) -> None:
        before = rows()
        status, code = case.single
        # What only the accounts can say is not said to whoever queues: it is answered on the topic.
        for prefer in ("", "respond-async") if status != 409 else ("",):
            answer = client.post(
                "/ledger/transactions", line(case), content_type="application/json", headers={"Prefer": prefer}
            )
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            assert answer["Content-Type"] == "application/problem+json"
        assert rows() == before


class TestUnknownField:
    """A reader of messages takes what it knows, for they have versions; a request means all that it says."""

    @pytest.mark.parametrize("field", ['"datref":"2026-01-01"', '"dry_run":true', '"up_to":true', '"key":"k"'])
    def test_of_a_line_is_refused_and_nothing_posted(self, client: APIClient, field: str) -> None:
        before, text = rows(), f"{line(side='C')[:-1]},{field}}}"
        for path, sent in (("", text), ("/batch", batch_of(line(side="C"), text))):
            answer = client.post(f"/ledger/transactions{path}", sent, content_type="application/json")
            assert (answer.status_code, answer.json()["code"]) == (422, "R001")
            assert field.split('"')[1] in answer.json()["field"]
        assert rows() == before

    def test_of_a_leg_or_a_batch_is_refused(self, client: APIClient) -> None:
        before = rows()
        leg = '{"branch":"0001","account":"000000001","amount":1,"debitcredit":"C","eventcode":1,"dateref":"2026-01-01"}'
        legs = f'{{"tracekey":"{uuid4()}","legs":[{leg}]}}'
        for text in (batch_of(legs), batch_of(line(side="C"))[:-1] + ',"dryrun":true}'):
            answer = client.post("/ledger/transactions/batch", text, content_type="application/json")
            assert (answer.status_code, answer.json()["code"]) == (422, "R001")
        assert rows() == before


class TestBatch:
    @pytest.mark.parametrize("case", CASES, ids=IDS)
    def test_refuses_the_line_or_the_request(self, client: APIClient, case: Case) -> None:
        before = rows()
        text = batch_of(line(side="C"), line(case, account=BOB.account), line(side="C"))
        answer = client.post("/ledger/transactions/batch", text, content_type="application/json")
        status, code = case.single
        if status == 409:
            assert [result.get("code") for result in answer.json()["results"]] == [None, code, None]
            assert (posted(ANA), posted(BOB)) == (10, 0)
            changed = {table for table, found in rows().items() if found != before.get(table)}
            assert changed == {"ledger_account", "ledger_balance", "ledger_posting_key", "ledger_transaction"}
            assert len(rows()["ledger_posting_key"]) == 2
        else:
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            assert rows() == before

    def test_of_another_shape_is_refused(self, client: APIClient) -> None:
        before = rows()
        twice = line().replace('"amount"', '"amount":"1.00","amount"')
        for text in ("", "{", "[" * 100_000, batch_of(twice), "\x00", '{"transactions":[1e999]}'):
            answer = client.post("/ledger/transactions/batch", text, content_type="application/json")
            assert answer.status_code in (400, 422)
        assert rows() == before


def record(number: int, body: str, key: str) -> IncomingRecord:
    meta = {"global-id": "", "steps": [], "message-id": str(uuid4()), "trace": "", "schema": "ledger.posting_requested.v1"}
    value = f'{{"meta":{json.dumps(meta)},"body":{body}}}'
    return IncomingRecord(POSTING_IN, 0, number, key, value.encode())


def request(case: Case | None = None, *, account: str = ANA.account, side: str = "D") -> str:
    """The same line as a message: details are a text there, and tracekey and dateref stand beside the legs."""
    fields = {
        "branch": '"0001"',
        "account": json.dumps(account),
        "amount": '"5.00"',
        "debitcredit": json.dumps(side),
        "eventcode": str(ANY),
    }
    outer = {"tracekey": json.dumps(str(uuid4()))}
    if case:
        text = in_days(case.text)
        (outer if case.field in ("tracekey", "dateref") else fields)[case.field] = (
            json.dumps(text) if case.field == "details" else text
        )
    leg = ",".join(f'"{name}":{text}' for name, text in fields.items())
    return "{" + ",".join(f'"{name}":{text}' for name, text in outer.items()) + ',"legs":[{' + leg + "}]}"


class TestTopic:
    @pytest.mark.parametrize("case", CASES, ids=IDS)
    def test_answers_the_refusal_or_buries_what_nobody_can_read(self, client: APIClient, case: Case) -> None:
        bodies = [request(side="C"), request(case, account=BOB.account), request(side="C")]
        records = [record(n, body, key) for n, (body, key) in enumerate(zip(bodies, "aba", strict=True))]
        delivery, left, now = Delivery(records, group="ledger"), list(records), timezone.now()
        while left:
            left = left[delivery.deliver(left, now=now) :]
        answers = [PostingDone.from_body(row.body) for row in Message.objects.filter(topic=POSTING_EVENT).order_by("seq")]
        buried = Message.objects.filter(topic="ledger.accounts.posting.error").count()
        refused = [answer.code for answer in answers if answer.code]
        assert (refused or [POISON], buried) == ([case.topic], int(case.topic == POISON))
        assert [answer.result for answer in answers].count("POSTED") == 2
        assert (posted(ANA), posted(BOB)) == (10, 0)
        assert Refusal.objects.count() == len(refused)
        assert len(rows()["ledger_posting_key"]) == 2


class TestFirstUse:
    """LEDGER_OPEN_ON_FIRST_USE: a refused line opens no account either."""

    def test_opens_an_account_for_what_is_posted_alone(self, client: APIClient, settings: Any) -> None:
        settings.LEDGER_OPEN_ON_FIRST_USE = True
        before = rows()["ledger_account"]
        refused = line(account="new-1"), line(Case("", "eventcode", "99", (0, ""), ""), account="new-2", side="C")
        answer = client.post(
            "/ledger/transactions/batch",
            batch_of(*refused, line(account="new-3", side="C")),
            content_type="application/json",
        )
        assert [result.get("code") for result in answer.json()["results"]] == ["R103", "R104", None]
        assert client.post("/ledger/transactions", refused[0], content_type="application/json").json()["code"] == "R103"
        assert len(rows()["ledger_account"]) == len(before) + 1
        assert client.get("/ledger/accounts/0001/new-3/balance").json()["posted"] == "5.00"

    def test_opens_none_for_a_dry_run_or_in_an_unknown_branch(self, client: APIClient, settings: Any) -> None:
        settings.LEDGER_OPEN_ON_FIRST_USE = True
        before = rows()
        text = batch_of(line(account="new", side="C"), line(Case("", "branch", '"9999"', (0, ""), ""), side="C"))
        dry = text[:-1] + ',"dry_run":true}'
        results = client.post("/ledger/transactions/batch", dry, content_type="application/json").json()["results"]
        assert [result.get("code") for result in results] == [None, "R101"]
        assert rows() == before


@pytest.mark.django_db(transaction=True)
class TestFirstUseAtOnce:
    def test_is_safe_and_opens_each_account_once(self, settings: Any) -> None:
        settings.LEDGER_OPEN_ON_FIRST_USE = True
        open_bank()
        names = [f"new-{n}" for n in range(6)]

        def post_all(seed: int) -> list[str | None]:
            draw = random.Random(seed)
            try:
                codes = []
                for _ in range(6):
                    refs = [AccountRef("0001", name) for name in draw.sample(names, 4)]
                    # The first one is refused until somebody has paid in.
                    entries = [ledger_line(refs[0], "D", 1), *(ledger_line(ref, "C", 1) for ref in refs[1:])]
                    codes += [result.code for result in post_batch(entries)]
                return codes
            finally:
                connections.close_all()

        with ThreadPoolExecutor(4) as pool:
            codes = [code for found in pool.map(post_all, range(4)) for code in found]
        assert set(codes) <= {None, "R103"}
        assert Account.objects.filter(account__startswith="new-").count() <= 6
        paid = codes.count(None) - (24 - codes.count("R103"))
        assert Transaction.objects.filter(debit_credit="C").count() == paid == 72
        assert ledger.check_balances() == []

    def test_waits_for_who_closes_a_day_and_is_refused(self, settings: Any) -> None:
        settings.LEDGER_OPEN_ON_FIRST_USE = True
        open_bank()
        yesterday = TODAY - timedelta(days=1)

        def post_back() -> str | None:
            try:
                return post_batch([ledger_line(AccountRef("0001", "new"), "C", 1, dateref=yesterday)])[0].code
            finally:
                connections.close_all()

        with ThreadPoolExecutor(1) as pool:
            with transaction.atomic():
                ledger.close_day(branch="0001", day=yesterday, now=NOW)
                waiting = pool.submit(post_back)
                until_somebody_waits()
            assert waiting.result() == "R122"


def until_somebody_waits() -> None:
    """The limit is for a broken build."""
    for _ in range(3_000):
        with connection.cursor() as cursor:
            # For this transaction: other tests share the server.
            cursor.execute(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
            )
            if cursor.fetchone()[0]:
                return
        threading.Event().wait(0.01)
    raise AssertionError("nobody waited")

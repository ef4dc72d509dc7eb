from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from apps.common.clock import business_date
from apps.identity.public import Caller
from apps.ledger import public as ledger
from apps.ledger.models import Transaction
from apps.ledger.rows import COPY_ROWS_MIN
from apps.messaging.models import Message
from tests.integration.ledger.conftest import ANA, ANY, BOB, fund, open_todays_bank, posted

pytestmark = pytest.mark.django_db


def client_with(*scopes: str) -> APIClient:
    client = APIClient()
    client.force_authenticate(user=Caller(account_id="acc_1", name="Test", scopes=frozenset(scopes)))
    return client


@pytest.fixture
def client() -> APIClient:
    open_todays_bank()
    return client_with("ledger:read", "ledger:post")


def body(**changes: Any) -> dict[str, Any]:
    return {
        "tracekey": str(uuid4()),
        "branch": ANA.branch,
        "account": ANA.account,
        "amount": 10.5,
        "debitcredit": "C",
        "eventcode": ANY,
        **changes,
    }


def send(client: APIClient, payload: Any) -> Any:
    return client.post("/ledger/transactions", payload, format="json")


class TestPost:
    def test_posts_a_line_in_the_seeds_words(self, client: APIClient) -> None:
        payload = body(description="pix", details={"origem": "app"}, dateref=str(business_date(timezone.now())))
        answer = send(client, payload)
        assert answer.status_code == 201
        (written,) = answer.json()["lines"]
        assert answer.json()["result"] == "POSTED"
        assert written["amount"] == "10.50"
        assert written["balances"] == {"posted": "10.50", "pending": "0.00", "available": "10.50", "day": "10.50"}
        row = Transaction.objects.get(id=written["id"])
        assert (row.description, row.details) == ("pix", {"origem": "app"})

    def test_keeps_the_decimals_of_details_as_texts(self, client: APIClient) -> None:
        (written,) = send(client, body(details={"taxa": 1.1, "n": 2})).json()["lines"]
        assert Transaction.objects.get(id=written["id"]).details == {"taxa": "1.1", "n": 2}

    def test_keeps_a_backslash_that_stands_before_u0000(self, client: APIClient) -> None:
        details = {"path": "C:\\u0000", "\\\\u0000": ["\\"]}
        send(client, body(details=details))
        lines = [body(details=details) for _ in range(COPY_ROWS_MIN)]
        client.post("/ledger/transactions/batch", {"transactions": lines}, format="json")
        assert [row.details for row in Transaction.objects.all()] == [details] * (COPY_ROWS_MIN + 1)

    def test_a_repeat_answers_the_same_with_200(self, client: APIClient) -> None:
        payload = body()
        first, again = send(client, payload), send(client, payload)
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json()["lines"] == again.json()["lines"]
        assert (first.json()["replayed"], again.json()["replayed"]) == (False, True)

    def test_a_key_with_another_body_is_a_coded_refusal(self, client: APIClient) -> None:
        payload = body()
        send(client, payload)
        answer = send(client, {**payload, "amount": 11})
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (409, "R107", "tracekey")

    def test_posts_balanced_legs(self, client: APIClient) -> None:
        send(client, body(amount=100))
        legs = [
            {"branch": "0001", "account": ANA.account, "amount": "40.00", "debitcredit": "D", "eventcode": ANY},
            {"branch": "0001", "account": BOB.account, "amount": 40, "debitcredit": "C", "eventcode": ANY},
        ]
        answer = send(client, {"tracekey": str(uuid4()), "legs": legs})
        assert answer.status_code == 201
        assert (posted(ANA), posted(BOB)) == (60, 40)
        legs[1]["amount"] = 41
        answer = send(client, {"tracekey": str(uuid4()), "legs": legs})
        assert (answer.status_code, answer.json()["code"]) == (422, "R111")

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"amount": 0}, "amount"),
            ({"amount": -1}, "amount"),
            ({"amount": 1.001}, "amount"),
            ({"amount": "NaN"}, "amount"),
            ({"amount": "1e2"}, "amount"),
            ({"amount": True}, "amount"),
            ({"amount": None}, "amount"),
            ({"amount": 10**13}, "amount"),
            ({"debitcredit": "X"}, "debitcredit"),
            ({"eventcode": 0}, "eventcode"),
            ({"eventcode": "x"}, "eventcode"),
            ({"branch": ""}, "branch"),
            ({"account": "a b"}, "account"),
            ({"currency": "real"}, "currency"),
            ({"tracekey": "x"}, "tracekey"),
            ({"tracekey": None}, "tracekey"),
            ({"dateref": "yesterday"}, "dateref"),
            ({"details": [1]}, "details"),
            ({"details": {"a": "x" * 16_400}}, "details"),
            ({"description": "x" * 256}, "description"),
        ],
    )
    def test_refuses_what_is_malformed_and_names_the_field(
        self, client: APIClient, change: dict[str, Any], field: str
    ) -> None:
        answer = send(client, body(**change))
        assert (answer.status_code, answer["Content-Type"]) == (422, "application/problem+json")
        assert answer.json()["field"] == field
        assert not Transaction.objects.exists()

    def test_an_exponent_is_refused_though_json_knows_it(self, client: APIClient) -> None:
        text = '{"tracekey": "%s", "branch": "0001", "account": "%s", "amount": 1e2, "debitcredit": "C", "eventcode": 1}'
        answer = client.post("/ledger/transactions", text % (uuid4(), ANA.account), content_type="application/json")
        assert (answer.status_code, answer.json()["field"]) == (422, "amount")

    @pytest.mark.parametrize("payload", [[], "x", None, {"legs": []}, {"legs": "x"}, {"legs": [[]]}])
    def test_refuses_a_body_of_another_shape(self, client: APIClient, payload: Any) -> None:
        assert send(client, payload).status_code in {400, 422}

    @pytest.mark.parametrize(
        ("change", "code", "retryable"),
        [
            ({"debitcredit": "D"}, "R103", True),
            ({"account": "nobody"}, "R101", False),
            ({"eventcode": 99}, "R104", False),
            ({"dateref": "2020-01-01"}, "R109", False),
        ],
    )
    def test_a_refusal_of_business_is_409_with_its_code(
        self, client: APIClient, change: dict[str, Any], code: str, retryable: bool
    ) -> None:
        answer = send(client, body(**change))
        assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (409, code, retryable)


class TestBatch:
    PATH = "/ledger/transactions/batch"

    def send(self, client: APIClient, *bodies: Any, **headers: str) -> Any:
        return client.post(self.PATH, {"transactions": bodies}, format="json", headers=headers)

    def test_answers_each_entry_in_order(self, client: APIClient) -> None:
        legs = [
            {"branch": "0001", "account": ANA.account, "amount": 4, "debitcredit": "D", "eventcode": ANY},
            {"branch": "0001", "account": BOB.account, "amount": 4, "debitcredit": "C", "eventcode": ANY},
        ]
        bodies = [body(amount=10), body(debitcredit="D", amount=99), {"tracekey": str(uuid4()), "legs": legs}]
        answer = self.send(client, *bodies)
        assert answer.status_code == 200
        first, refused, moved = answer.json()["results"]
        assert [result["tracekey"] for result in (first, refused, moved)] == [sent["tracekey"] for sent in bodies]
        assert (first["result"], first["replayed"], first["lines"][0]["balances"]["posted"]) == ("POSTED", False, "10.00")
        assert refused.keys() == {"tracekey", "result", "code", "detail", "retryable"}
        assert (refused["result"], refused["code"], refused["retryable"]) == ("REFUSED", "R103", True)
        assert [written["balances"]["posted"] for written in moved["lines"]] == ["6.00", "4.00"]
        assert (posted(ANA), posted(BOB)) == (6, 4)

    def test_a_repeat_answers_the_same(self, client: APIClient) -> None:
        bodies = [body(), body()]
        first, again = (self.send(client, *bodies).json()["results"] for _ in range(2))
        assert [{**result, "replayed": True} for result in first] == again
        assert posted(ANA) == 21

    def test_a_malformed_entry_refuses_all_and_names_itself(self, client: APIClient) -> None:
        answer = self.send(client, body(), body(amount=1.001), body(), body(tracekey="x", account=""))
        assert (answer.status_code, answer.json()["code"]) == (422, "R001")
        fields = [found["field"] for found in answer.json()["violations"]]
        assert fields == ["transactions[1].amount", "transactions[3].account", "transactions[3].tracekey"]
        assert not Transaction.objects.exists()

    @pytest.mark.parametrize("headers", [{}, {"Prefer": "respond-async"}])
    def test_so_does_what_only_the_engine_finds_malformed(self, client: APIClient, headers: dict[str, str]) -> None:
        answer = self.send(client, body(), body(account="a b"), **headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "R110")
        assert answer.json()["field"] == "transactions[1].account"
        assert not Transaction.objects.exists()
        assert not Message.objects.exists()

    def test_names_at_most_twenty(self, client: APIClient) -> None:
        answer = self.send(client, *(body(currency="") for _ in range(30)))
        fields = [found["field"] for found in answer.json()["violations"]]
        assert fields == [f"transactions[{index}].currency" for index in range(20)]

    @pytest.mark.parametrize("payload", [[], {}, {"transactions": []}, {"transactions": {}}, {"transactions": "x"}, "x"])
    def test_refuses_a_body_of_another_shape(self, client: APIClient, payload: Any) -> None:
        answer = client.post(self.PATH, payload, format="json")
        assert (answer.status_code, answer.json()["code"]) == (422, "R001")

    def test_holds_at_most_ten_thousand_lines(self, client: APIClient) -> None:
        answer = self.send(client, *([1] * 10_001))
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "R112", "transactions")


class TestQueue:
    def test_takes_an_entry_and_answers_with_where_its_result_will_be(self, client: APIClient) -> None:
        payload = body(details={"taxa": 1.10})
        answer = client.post("/ledger/transactions", payload, format="json", headers={"Prefer": "Respond-Async, wait=5"})
        assert (answer.status_code, answer["Preference-Applied"]) == (202, "respond-async")
        assert answer.json() == {"tracekeys": [payload["tracekey"]]}
        assert client.get(answer["Location"]).json() == {
            "results": [{"tracekey": payload["tracekey"], "result": "UNKNOWN"}]
        }
        row = Message.objects.get()
        assert (row.topic, row.key) == ("ledger.accounts.posting.in", f"0001/{ANA.account}/BRL")
        assert row.body["legs"][0]["details"] == '{"taxa": "1.1"}'
        assert not Transaction.objects.exists()

    def test_takes_a_batch_in_order_by_one_statement(self, client: APIClient) -> None:
        bodies = [body(amount=n) for n in range(1, 51)]
        with CaptureQueriesContext(connection) as captured:
            answer = client.post(
                TestBatch.PATH, {"transactions": bodies}, format="json", headers={"Prefer": "respond-async"}
            )
        assert answer.status_code == 202
        assert answer.json()["tracekeys"] == [sent["tracekey"] for sent in bodies]
        queued = Message.objects.order_by("seq")
        assert [row.body["tracekey"] for row in queued] == answer.json()["tracekeys"]
        inserts = [query for query in captured.captured_queries if "INSERT" in query["sql"]]
        assert len(inserts) == 1

    @pytest.mark.parametrize(
        ("change", "code"),
        [({"amount": 0}, "R110"), ({"amount": 1.001}, "R001"), ({"account": "a b"}, "R110"), ({"tracekey": "x"}, "R001")],
    )
    def test_lets_nothing_malformed_in(self, client: APIClient, change: dict[str, Any], code: str) -> None:
        answer = client.post("/ledger/transactions", body(**change), format="json", headers={"Prefer": "respond-async"})
        assert (answer.status_code, answer.json()["code"]) == (422, code)
        assert not Message.objects.exists()

    def test_asks_for_the_scope_of_posting(self, client: APIClient) -> None:
        reader, headers = client_with("ledger:read"), {"Prefer": "respond-async"}
        assert reader.post("/ledger/transactions", body(), format="json", headers=headers).status_code == 403
        batch = {"transactions": [body()]}
        assert reader.post(TestBatch.PATH, batch, format="json", headers=headers).status_code == 403
        assert not Message.objects.exists()


class TestOutcomes:
    def test_tell_what_was_posted_and_what_nobody_knows(self, client: APIClient) -> None:
        payload, unknown = body(), str(uuid4())
        first = send(client, payload).json()
        answer = client.get("/ledger/transactions", {"tracekey": [unknown, payload["tracekey"]]})
        assert answer.json() == {
            "results": [{"tracekey": unknown, "result": "UNKNOWN"}, {**first, "replayed": True}],
        }

    @pytest.mark.parametrize(
        "query",
        [{}, {"tracekey": "x"}, {"tracekey": ["", str(uuid4())]}, {"tracekey": [str(uuid4()) for _ in range(101)]}],
        ids=["none", "no uuid", "an empty one", "too many"],
    )
    def test_are_asked_for_by_tracekeys(self, client: APIClient, query: dict[str, Any]) -> None:
        answer = client.get("/ledger/transactions", query)
        assert (answer.status_code, answer.json()["field"]) == (422, "tracekey")

    def test_need_the_scope_of_reading(self, client: APIClient) -> None:
        assert client_with("ledger:post").get("/ledger/transactions", {"tracekey": str(uuid4())}).status_code == 403


class TestScopes:
    def test_without_credentials_is_401(self) -> None:
        assert APIClient().get("/ledger/accounts/0001/1/balance").status_code == 401
        assert send(APIClient(), body()).status_code == 401

    def test_reading_is_not_posting(self, client: APIClient) -> None:
        assert send(client_with("ledger:read"), body()).status_code == 403
        poster = client_with("ledger:post")
        for path in ("accounts/0001/1/balance", "accounts/0001/1/statement", f"transactions/{uuid4()}"):
            assert poster.get(f"/ledger/{path}").status_code == 403
        assert not Transaction.objects.exists()


class TestBalance:
    PATH = f"/ledger/accounts/0001/{ANA.account}/balance"

    def test_now(self, client: APIClient) -> None:
        fund(ANA, 100)
        assert client.get(self.PATH).json() == {
            "branch": "0001",
            "account": ANA.account,
            "currency": "BRL",
            "status": "ACTIVE",
            "maxbalance": None,
            "minbalance": "0.00",
            "posted": "100.00",
            "pending": "0.00",
            "available": "100.00",
        }

    def test_on_a_day(self, client: APIClient) -> None:
        send(client, body(amount=7))
        today = business_date(timezone.now())
        assert client.get(self.PATH, {"date": str(today)}).json()["balance"] == "7.00"
        assert client.get(self.PATH, {"date": str(today - timedelta(days=1))}).json()["accumulatedcredit"] == "0.00"

    def test_of_an_unknown_account_is_404_and_of_an_impossible_day_422(self, client: APIClient) -> None:
        assert client.get("/ledger/accounts/0001/nobody/balance").status_code == 404
        assert client.get(self.PATH, {"currency": "USD"}).status_code == 404
        answer = client.get(self.PATH, {"date": "2026-02-30"})
        assert (answer.status_code, answer.json()["field"]) == (422, "date")


class TestStatement:
    PATH = f"/ledger/accounts/0001/{ANA.account}/statement"

    def test_is_read_page_by_page(self, client: APIClient) -> None:
        for amount in (1, 2, 3):
            send(client, body(amount=amount))
        period = {"from": str(business_date(timezone.now()))}
        first = client.get(self.PATH, {**period, "limit": 2}).json()
        second = client.get(self.PATH, {**period, "limit": 2, "cursor": first["next_cursor"]}).json()
        assert [written["running"] for page in (first, second) for written in page["lines"]] == ["1.00", "3.00", "6.00"]
        assert (first["opening"], first["closing"], second["next_cursor"]) == ("0.00", "6.00", None)

    @pytest.mark.parametrize(
        "query",
        [{"from": "x"}, {"limit": "0"}, {"limit": "501"}, {"cursor": "x"}, {"from": "2026-02-01", "to": "2026-01-01"}],
    )
    def test_refuses_what_is_malformed(self, client: APIClient, query: dict[str, str]) -> None:
        assert client.get(self.PATH, query).status_code == 422


class TestTransaction:
    def test_is_found_by_id_and_by_tracekey(self, client: APIClient) -> None:
        payload = body(details={"a": 1})
        (written,) = send(client, payload).json()["lines"]
        by_id = client.get(f"/ledger/transactions/{written['id']}").json()
        assert client.get(f"/ledger/transactions/{payload['tracekey']}").json() == by_id
        (found,) = by_id["transactions"]
        assert {name: found[name] for name in written} == written
        assert (found["tracekey"], found["details"]) == (payload["tracekey"], {"a": 1})

    # An id of version 7 tells when it was made, and is looked for in the archive of then: in 1970 and 10889, too.
    @pytest.mark.parametrize(
        "key",
        [
            "01234567-89ab-4def-8123-456789abcdef",
            "00000000-0000-7000-8000-000000000000",
            "ffffffff-ffff-7fff-bfff-ffffffffffff",
        ],
    )
    def test_that_is_unknown_is_404(self, client: APIClient, key: str) -> None:
        assert client.get(f"/ledger/transactions/{key}").status_code == 404


class TestAnswer:
    def test_a_sum_longer_than_an_amount_is_shown_whole(self, client: APIClient) -> None:
        from apps.ledger.models import Account

        Account.objects.filter(account=ANA.account).update(posted_credit="123456789012345678.90")
        answer = client.get(TestBalance.PATH).json()
        assert answer["posted"] == "123456789012345678.90"
        assert ledger.balance(ANA).min_balance == 0


class TestBatchOptions:
    PATH = "/ledger/transactions/batch"

    def batch(self, client: APIClient, *bodies: dict[str, Any], **options: Any) -> Any:
        return client.post(self.PATH, {"transactions": list(bodies), **options}, format="json")

    def test_a_group_is_posted_all_or_none(self, client: APIClient) -> None:
        linked = [body(group="g"), body(group="g", debitcredit="D", amount="1000000.00"), body()]
        results = self.batch(client, *linked).json()["results"]
        assert [result.get("code") for result in results] == ["R123", "R103", None]

    def test_a_dry_run_posts_nothing(self, client: APIClient) -> None:
        (result,) = self.batch(client, body(), dry_run=True).json()["results"]
        assert result["result"] == "POSTED"
        assert Transaction.objects.count() == 0

    def test_a_key_gets_the_same_answer_again_and_another_batch_is_refused(self, client: APIClient) -> None:
        wanted = [body(), body(debitcredit="D", amount="1000000.00")]
        first = self.batch(client, *wanted, key="k").json()["results"]
        again = self.batch(client, *wanted, key="k").json()["results"]
        assert [result.pop("replayed", None) for result in again] == [True, None]
        assert again == [{name: value for name, value in result.items() if name != "replayed"} for result in first]
        assert self.batch(client, body(), key="k").json()["code"] == "R126"

    def test_the_queue_takes_none_of_it(self, client: APIClient) -> None:
        for options, entry in (({"dry_run": True}, body()), ({"key": "k"}, body()), ({}, body(group="g"))):
            answer = client.post(
                self.PATH, {"transactions": [entry], **options}, format="json", headers={"Prefer": "respond-async"}
            )
            assert answer.status_code == 422

"""Webhooks over HTTP."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from apps.webhooks.catalogue import TYPES
from apps.webhooks.models import Delivery, Endpoint, Event
from tests.integration.payments.world import merchant
from tests.integration.webhooks import world
from tests.integration.webhooks.receiver import Receiver
from tests.integration.webhooks.world import delivery, endpoint, happen, send_all

pytestmark = pytest.mark.django_db(transaction=True)

LIST = "/webhooks/endpoints"


@pytest.fixture
def client() -> APIClient:
    return merchant(*world.SCOPES, code=world.ACCOUNT)[0]


@pytest.fixture
def stranger() -> APIClient:
    return merchant(*world.SCOPES, code="acc_stranger")[0]


@pytest.fixture
def strict(settings: Any) -> None:
    settings.WEBHOOKS_ALLOW_LOCAL = False


def register(client: APIClient, url: str = world.URL, **changes: Any) -> Any:
    body = {"url": url, "event_types": ["order.paid", "payment.captured"], **changes}
    return client.post(LIST, body, format="json")


def post(client: APIClient, path: str, body: Any = None) -> Any:
    return client.post(path, body if body is not None else {}, format="json")


def patch(client: APIClient, path: str, **body: Any) -> Any:
    return client.patch(path, body, format="json")


class TestRegister:
    def test_shows_the_secret_this_once(self, client: APIClient) -> None:
        answer = register(client, description="My shop")
        body = answer.json()
        assert (answer.status_code, answer["Cache-Control"]) == (201, "no-store")
        secret = body.pop("secret")
        assert secret.startswith("whsec_")
        assert answer["Location"] == f"{LIST}/{body['id']}"
        assert client.get(answer["Location"]).json() == body
        assert client.get(LIST).json() == {"endpoints": [body]}
        assert (body["enabled"], body["description"]) == (True, "My shop")
        assert body["event_types"] == ["order.paid", "payment.captured"]
        row = Endpoint.objects.get()
        assert secret.removeprefix("whsec_").encode() not in bytes(row.sealed_secret)

    @pytest.mark.parametrize(
        ("change", "code", "field"),
        [
            ({"url": "ftp://example.com/"}, "R902", "url"),
            ({"url": "https://user:secret@example.com/"}, "R902", "url"),
            ({"url": 7}, "R001", "url"),
            ({"url": "h" * 501}, "R001", "url"),
            ({"event_types": []}, "R001", "event_types"),
            ({"event_types": ["order.exploded"]}, "R001", "event_types[0]"),
            ({"event_types": ["ping"]}, "R001", "event_types[0]"),
            ({"event_types": "order.paid"}, "R001", "event_types"),
            ({"description": "x" * 201}, "R001", "description"),
            ({"description": "4242 4242 4242 4242"}, "R001", "description"),
            ({"description": "a\u202eb"}, "R001", "description"),
            ({"secret": "whsec_mine"}, "R001", "secret"),
        ],
    )
    def test_names_what_is_wrong(self, client: APIClient, change: dict[str, Any], code: str, field: str) -> None:
        answer = register(client, **change)
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, code, field)
        assert not Endpoint.objects.exists()

    @pytest.mark.usefixtures("strict")
    @pytest.mark.parametrize("url", ["http://example.com/", "https://10.0.0.1/", "https://2130706433/", "https://x:22/"])
    def test_takes_only_public_addresses(self, client: APIClient, url: str) -> None:
        assert register(client, url).json()["code"] == "R902"

    def test_knows_one_url_once(self, client: APIClient, stranger: APIClient) -> None:
        first = register(client)
        assert (register(client).status_code, register(client).json()["code"]) == (409, "R904")
        assert register(stranger).status_code == 201
        client.delete(first["Location"])
        assert register(client).status_code == 201

    def test_ends_at_so_many(self, client: APIClient, settings: Any) -> None:
        settings.WEBHOOKS_ENDPOINTS_MAX = 2
        answers = [register(client, f"{world.URL}/{n}") for n in range(3)]
        assert [answer.status_code for answer in answers] == [201, 201, 409]
        assert answers[2].json()["code"] == "R903"

    @pytest.mark.parametrize(
        ("scopes", "code"),
        [(("webhooks:write",), "R702"), (("webhooks:write", "orders:read"), "R702"), (("webhooks:read",), "R702")],
    )
    def test_needs_its_scope_and_those_of_what_it_is_told_of(self, scopes: tuple[str, ...], code: str) -> None:
        client, _ = merchant(*scopes)
        answer = register(client)
        assert (answer.status_code, answer.json()["code"]) == (403, code)

    def test_needs_credentials(self) -> None:
        assert register(APIClient()).status_code == 401
        assert APIClient().get(LIST).status_code == 401


class TestTypes:
    def test_are_all_there(self, client: APIClient) -> None:
        found = client.get("/webhooks/event-types").json()["event_types"]
        assert [one["type"] for one in found] == list(TYPES)
        assert {one["scope"] for one in found} == {"payments:read", "orders:read", "fiscal:read"}


class TestAnothersEndpoint:
    def test_is_not_found_whatever_is_asked(self, client: APIClient, stranger: APIClient) -> None:
        mine = register(client)["Location"]
        happen()
        answers = [
            stranger.get(mine),
            patch(stranger, mine, enabled=False),
            stranger.delete(mine),
            post(stranger, f"{mine}/secret"),
            post(stranger, f"{mine}/ping"),
            stranger.get(f"{mine}/deliveries"),
            post(stranger, f"{mine}/redeliveries", {"failed_since": "2026-01-01T00:00:00Z"}),
            stranger.get(f"{LIST}/{uuid4()}"),
        ]
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "R901")] * len(answers)
        assert stranger.get(LIST).json() == {"endpoints": []}
        assert endpoint(client.get(LIST).json()["endpoints"][0]["id"]).disabled_at is None

    def test_of_a_deleted_one_too(self, client: APIClient) -> None:
        mine = register(client)["Location"]
        assert client.delete(mine).status_code == 204
        assert [client.get(mine).status_code, client.delete(mine).status_code] == [404, 404]
        assert client.get(LIST).json() == {"endpoints": []}
        assert bytes(Endpoint.objects.get().sealed_secret) == b""


class TestChange:
    def test_changes_what_is_given(self, client: APIClient) -> None:
        mine = register(client, description="My shop")["Location"]
        body = patch(client, mine, event_types=["order.completed"], url=f"{world.URL}/new").json()
        assert body["event_types"] == ["order.completed"]
        assert (body["url"], body["description"]) == (f"{world.URL}/new", "My shop")
        assert "secret" not in body

    def test_sends_what_waited_when_it_is_enabled_again(self, client: APIClient, receiver: Receiver) -> None:
        made = register(client, receiver.url)
        mine, key = made["Location"], made.json()["id"]
        body = patch(client, mine, enabled=False).json()
        assert (body["enabled"], body["disabled_reason"]) == (False, "Disabled by its owner.")
        happen(3)
        later = timezone.now() + timedelta(minutes=1)
        assert send_all(key, now=later) == 0
        body = patch(client, mine, enabled=True).json()
        assert (body["enabled"], body["disabled_reason"]) == (True, "")
        assert send_all(key, now=later) == 3

    def test_refuses_a_url_that_another_one_has(self, client: APIClient) -> None:
        register(client, f"{world.URL}/one")
        second = register(client, f"{world.URL}/two")["Location"]
        assert patch(client, second, url=f"{world.URL}/one").json()["code"] == "R904"
        assert patch(client, second, url=f"{world.URL}/two").status_code == 200

    def test_refuses_a_type_that_may_not_be_looked_at(self) -> None:
        client, _ = merchant("webhooks:read", "webhooks:write", "orders:read")
        mine = register(client, event_types=["order.paid"])["Location"]
        assert patch(client, mine, event_types=["payment.captured"]).json()["code"] == "R702"

    @pytest.mark.parametrize("body", [{"enabled": "perhaps"}, {"url": "gopher://x"}, {"event_types": []}, {"id": "x"}])
    def test_refuses_nonsense(self, client: APIClient, body: dict[str, Any]) -> None:
        assert patch(client, register(client)["Location"], **body).status_code == 422


class TestSecret:
    def test_is_replaced_with_an_overlap(self, client: APIClient) -> None:
        made = register(client)
        answer = post(client, f"{made['Location']}/secret")
        body = answer.json()
        assert (answer.status_code, answer["Cache-Control"]) == (200, "no-store")
        assert body["secret"] != made.json()["secret"]
        assert body["previous_secret_until"] is not None
        assert client.get(made["Location"]).json()["previous_secret_until"] == body["previous_secret_until"]

    def test_may_end_at_once(self, client: APIClient) -> None:
        made = register(client)["Location"]
        post(client, f"{made}/secret")
        assert post(client, f"{made}/secret", {"overlap_hours": 0}).json()["previous_secret_until"] is None
        assert Endpoint.objects.get().sealed_previous is None

    @pytest.mark.parametrize("hours", [-1, 25, "many", 10**400])
    def test_refuses_a_longer_overlap(self, client: APIClient, hours: Any) -> None:
        made = register(client)["Location"]
        assert post(client, f"{made}/secret", {"overlap_hours": hours}).status_code in (400, 422)


class TestPing:
    def test_is_delivered_whatever_was_subscribed(self, client: APIClient, receiver: Receiver) -> None:
        made = register(client, receiver.url)
        key = made.json()["id"]
        answer = post(client, f"{made['Location']}/ping")
        assert answer.status_code == 202
        again = post(client, f"{made['Location']}/ping")
        assert again.json() == answer.json(), "the one before is still under way"
        assert send_all(key, now=timezone.now() + timedelta(seconds=5)) == 1
        found = client.get(f"{made['Location']}/deliveries").json()["deliveries"]
        assert [(one["id"], one["type"], one["state"]) for one in found] == [
            (answer.json()["delivery_id"], "ping", "DELIVERED")
        ]
        assert post(client, f"{made['Location']}/ping").json() != answer.json()

    def test_is_refused_by_a_disabled_one(self, client: APIClient) -> None:
        mine = register(client)["Location"]
        patch(client, mine, enabled=False)
        assert post(client, f"{mine}/ping").json()["code"] == "R905"


class TestDeliveries:
    def test_are_listed_newest_first_in_pages(self, client: APIClient) -> None:
        mine = register(client)["Location"]
        happened = [str(one) for one in happen(5)]
        first = client.get(f"{mine}/deliveries?limit=3").json()
        second = client.get(f"{mine}/deliveries?limit=3&cursor={first['next_cursor']}").json()
        found = [one["webhook_id"] for one in first["deliveries"] + second["deliveries"]]
        assert found == happened[::-1]
        assert second["next_cursor"] is None
        one = first["deliveries"][0]
        assert (one["state"], one["attempts"], one["last_status"]) == ("PENDING", 0, None)
        assert one["next_attempt_at"] is not None

    def test_are_chosen_by_state(self, client: APIClient, receiver: Receiver) -> None:
        made = register(client, receiver.url)
        happen(2)
        receiver.answers = [204, 400]
        send_all(made.json()["id"])
        where = f"{made['Location']}/deliveries"
        counts = {
            state: len(client.get(where, {"state": state}).json()["deliveries"])
            for state in ("DELIVERED", "PENDING", "FAILED")
        }
        assert counts == {"DELIVERED": 1, "PENDING": 1, "FAILED": 0}
        failed = client.get(where, {"state": "PENDING"}).json()["deliveries"][0]
        assert (failed["last_status"], failed["last_error"], failed["attempts"]) == (400, "It answered 400.", 1)

    @pytest.mark.parametrize("query", ["state=LOST", "limit=0", "limit=501", "cursor=x", "cursor=WyJ4Il0"])
    def test_refuse_what_is_malformed(self, client: APIClient, query: str) -> None:
        mine = register(client)["Location"]
        assert client.get(f"{mine}/deliveries?{query}").status_code == 422


class TestRedelivery:
    def test_sends_one_again_under_its_id(self, client: APIClient, receiver: Receiver) -> None:
        made = register(client, receiver.url)
        key, where = made.json()["id"], f"{made['Location']}/redeliveries"
        (event_id,) = happen()
        send_all(key)
        answer = post(client, where, {"delivery_id": str(delivery(event_id).pk)})
        assert (answer.status_code, answer.json()) == (202, {"count": 1})
        assert send_all(key, now=timezone.now() + timedelta(seconds=5)) == 1
        assert receiver.ids == [str(event_id)] * 2
        assert delivery(event_id).attempts == 2

    def test_sends_all_again_that_were_given_up_since(self, client: APIClient, receiver: Receiver) -> None:
        made = register(client, receiver.url)
        key, where = made.json()["id"], f"{made['Location']}/redeliveries"
        happened = happen(4)
        for event_id, age in zip(happened, (3, 2, 1, 0), strict=True):
            state = "DELIVERED" if age == 0 else "FAILED"
            at = world.NOW - timedelta(hours=age)
            Delivery.objects.filter(event__id=event_id).update(state=state, finished_at=at, created_at=at, tries=10)
        since = (world.NOW - timedelta(hours=2)).isoformat()
        assert post(client, where, {"failed_since": since}).json() == {"count": 2}
        assert send_all(key, now=timezone.now() + timedelta(seconds=5)) == 2
        assert receiver.ids == [str(one) for one in happened[1:3]]
        assert post(client, where, {"failed_since": since}).json() == {"count": 0}

    def test_does_not_send_twice_what_is_under_way(self, client: APIClient) -> None:
        from apps.webhooks.deliveries import take

        made = register(client)
        (event_id,) = happen()
        now = timezone.now() + timedelta(minutes=1)
        assert take(made.json()["id"], now=now) is not None
        answer = post(client, f"{made['Location']}/redeliveries", {"delivery_id": str(delivery(event_id).pk)})
        assert answer.json() == {"count": 1}
        assert take(made.json()["id"], now=now) is None

    def test_of_anothers_delivery_is_not_found(self, client: APIClient, stranger: APIClient) -> None:
        register(client)
        theirs = register(stranger)
        (event_id,) = happen()
        body = {"delivery_id": str(delivery(event_id).pk)}
        answer = post(stranger, f"{theirs['Location']}/redeliveries", body)
        assert (answer.status_code, answer.json()["code"]) == (404, "R906")

    def test_of_a_disabled_endpoint_is_refused(self, client: APIClient) -> None:
        mine = register(client)["Location"]
        patch(client, mine, enabled=False)
        assert post(client, f"{mine}/redeliveries", {"failed_since": "2026-01-01T00:00:00Z"}).json()["code"] == "R905"

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"delivery_id": str(uuid4()), "failed_since": "2026-01-01T00:00:00Z"},
            {"failed_since": "2026-01-01T00:00:00"},
            {"failed_since": "yesterday"},
            {"failed_since": 7},
            {"failed_since": "0001-01-01T00:00:00+14:00"},
            {"delivery_id": "x"},
        ],
    )
    def test_refuses_nonsense(self, client: APIClient, body: dict[str, Any]) -> None:
        mine = register(client)["Location"]
        assert post(client, f"{mine}/redeliveries", body).status_code == 422


class TestKept:
    def test_is_no_card_and_no_person(self, client: APIClient) -> None:
        register(client)
        happen()
        assert set(Event.objects.get().data) == {"n"}

"""Taken, sent, settled: against a real server, with the time passed in."""

import json
import threading
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connections

from apps.identity.models import Account
from apps.webhooks import deliveries, endpoints, schedule
from apps.webhooks.deliveries import LEASE, settle, take
from apps.webhooks.models import Attempt, Delivery, Endpoint
from apps.webhooks.sender import Outcome, post
from tests.integration.webhooks import world
from tests.integration.webhooks.receiver import Receiver
from tests.integration.webhooks.world import LATER, NOW, delivery, endpoint, happen, register, send_all
from tests.unit.webhooks.test_signatures import verifies

pytestmark = pytest.mark.django_db(transaction=True)

YES, NO = Outcome(status=204), Outcome(status=500, error="It answered 500.")


def key_of(made: endpoints.WithSecret) -> bytes:
    import base64

    return base64.b64decode(made.secret.removeprefix("whsec_"))


class TestDelivery:
    def test_is_what_happened_signed_with_the_endpoints_secret(self, receiver: Receiver) -> None:
        made = register(receiver.url)
        (event_id,) = happen(event_type="order.paid")
        assert send_all(made.endpoint.id) == 1
        (told,) = receiver.told
        body = json.loads(told.body)
        assert (body["id"], body["type"], body["data"]) == (str(event_id), "order.paid", {"n": 0})
        assert body["occurred_at"] == NOW.isoformat()
        assert told.headers["webhook-id"] == str(event_id)
        assert told.headers["webhook-timestamp"] == str(int(NOW.timestamp()))
        assert told.headers["content-type"] == "application/json"
        assert verifies(
            key_of(made),
            told.headers["webhook-signature"],
            message_id=str(event_id),
            timestamp_s=int(NOW.timestamp()),
            body=told.body,
        )
        row = delivery(event_id)
        assert (row.state, row.attempts, row.last_status, row.lease_until) == ("DELIVERED", 1, 204, None)

    def test_comes_in_the_order_of_what_happened_when_all_goes_well(self, receiver: Receiver) -> None:
        made = register(receiver.url)
        happened = [str(one) for one in happen(5)]
        send_all(made.endpoint.id)
        assert receiver.ids == happened
        sequences = [json.loads(told.body)["sequence"] for told in receiver.told]
        assert sequences == sorted(set(sequences))

    def test_goes_to_every_endpoint_that_wants_it(self, receiver: Receiver) -> None:
        wants = register(f"{receiver.url}&n=1", event_types=["order.paid"])
        other = register(f"{receiver.url}&n=2", event_types=["payment.captured"])
        happen(event_type="order.paid")
        assert (send_all(wants.endpoint.id), send_all(other.endpoint.id)) == (1, 0)

    def test_that_failed_is_tried_again_when_it_is_due(self, receiver: Receiver) -> None:
        made = register(receiver.url)
        (event_id,) = happen()
        receiver.answers = [500, 204]
        assert send_all(made.endpoint.id) == 1
        row = delivery(event_id)
        assert (row.state, row.last_status, row.last_error) == ("PENDING", 500, "It answered 500.")
        assert row.due_at >= NOW + schedule.DELAYS[0]
        assert send_all(made.endpoint.id, now=row.due_at - LATER) == 0
        assert send_all(made.endpoint.id, now=row.due_at) == 1
        assert (delivery(event_id).state, receiver.ids) == ("DELIVERED", [str(event_id)] * 2)
        stamps = [told.headers["webhook-timestamp"] for told in receiver.told]
        assert stamps[0] < stamps[1], "the moment of the attempt is signed, not that of the event"
        assert receiver.told[0].body == receiver.told[1].body

    def test_is_given_up_after_the_last_attempt(self, receiver: Receiver) -> None:
        made = register(receiver.url)
        (event_id,) = happen()
        receiver.usual = 500
        now = NOW
        for _ in range(schedule.TRIES_MAX):
            assert send_all(made.endpoint.id, now=now) == 1
            row, place = delivery(event_id), endpoint(made.endpoint.id)
            now = max(row.due_at, place.paused_until or now)
        assert (row.state, row.attempts) == ("FAILED", schedule.TRIES_MAX)
        assert NOW + timedelta(days=3) < now < NOW + timedelta(days=4)
        assert send_all(made.endpoint.id, now=now + timedelta(days=9)) == 0
        assert len(receiver.told) == schedule.TRIES_MAX
        assert list(Attempt.objects.order_by("id").values_list("number", "status")) == [
            (number, 500) for number in range(1, schedule.TRIES_MAX + 1)
        ]


class TestDeath:
    """kill -9 between any two steps: the lease runs out, and it is sent again under the same id."""

    @pytest.mark.parametrize("point", ["before it was sent", "after it was answered"])
    def test_costs_an_attempt_and_no_delivery(self, receiver: Receiver, point: str) -> None:
        made = register(receiver.url)
        (event_id,) = happen()
        job = take(made.endpoint.id, now=NOW)
        assert job is not None
        if point == "after it was answered":
            post(job.url, body=job.body, headers=job.headers(now=NOW))
        assert send_all(made.endpoint.id, now=NOW + LEASE - LATER) == 0, "its lease holds"
        assert send_all(made.endpoint.id, now=NOW + LEASE) == 1
        assert delivery(event_id).state == "DELIVERED"
        assert set(receiver.ids) == {str(event_id)}

    def test_under_every_attempt_ends(self, receiver: Receiver) -> None:
        made = register(receiver.url)
        (event_id,) = happen()
        now = NOW
        for _ in range(schedule.TRIES_MAX):
            assert take(made.endpoint.id, now=now) is not None
            now += LEASE
        assert take(made.endpoint.id, now=now) is None
        row = delivery(event_id)
        assert (row.state, row.last_error) == ("FAILED", deliveries.SPENT)

    def test_of_nobody_lets_a_late_yes_count(self, receiver: Receiver) -> None:
        """A worker that was slow, not dead: another has taken the delivery over, and it was a yes all the same."""
        made = register(receiver.url)
        (event_id,) = happen()
        late = take(made.endpoint.id, now=NOW)
        second = take(made.endpoint.id, now=NOW + LEASE)
        assert late is not None
        assert second is not None
        settle(late, YES, now=NOW + LEASE)
        assert delivery(event_id).state == "DELIVERED"
        settle(second, NO, now=NOW + LEASE)
        assert delivery(event_id).state == "DELIVERED", "the no of the other changes nothing"

    def test_of_nobody_lets_no_late_no_count(self, receiver: Receiver) -> None:
        made = register(receiver.url)
        (event_id,) = happen()
        late = take(made.endpoint.id, now=NOW)
        second = take(made.endpoint.id, now=NOW + LEASE)
        assert late is not None
        assert second is not None
        settle(late, NO, now=NOW + LEASE)
        row = delivery(event_id)
        assert row.lease_until == NOW + 2 * LEASE, "it is under way"
        assert endpoint(made.endpoint.id).failures == 0

    def test_does_not_hide_that_a_delivery_was_forgotten(self, receiver: Receiver) -> None:
        made = register(receiver.url)
        happen()
        job = take(made.endpoint.id, now=NOW)
        assert job is not None
        Attempt.objects.all().delete()
        Delivery.objects.all().delete()
        settle(job, YES, now=NOW)


class TestEndpoint:
    def test_has_only_so_many_requests_at_a_time(self, receiver: Receiver, settings: Any) -> None:
        settings.WEBHOOKS_IN_FLIGHT_MAX = 2
        made = register(receiver.url)
        happen(10)
        jobs = [take(made.endpoint.id, now=NOW) for _ in range(4)]
        assert [job is not None for job in jobs] == [True, True, False, False]
        assert jobs[0] is not None
        settle(jobs[0], YES, now=NOW)
        assert take(made.endpoint.id, now=NOW) is not None

    def test_has_only_so_many_even_when_all_workers_come_at_once(self, receiver: Receiver, settings: Any) -> None:
        settings.WEBHOOKS_IN_FLIGHT_MAX = 2
        made = register(receiver.url)
        happen(20)

        def work() -> None:
            try:
                for _ in range(40):
                    deliveries.send_next(made.endpoint.id, now=NOW)
            finally:
                connections.close_all()

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(150)
        assert receiver.together_most <= 2
        assert len(receiver.ids) == len(set(receiver.ids)), "none was sent twice"
        send_all(made.endpoint.id)
        assert Delivery.objects.filter(state="DELIVERED").count() == 20

    def test_that_fails_is_tried_with_one_request_at_a_time(self, receiver: Receiver, settings: Any) -> None:
        settings.WEBHOOKS_IN_FLIGHT_MAX = 4
        made = register(receiver.url)
        happen(10)
        receiver.usual = 500
        assert deliveries.send_next(made.endpoint.id, now=NOW)
        assert take(made.endpoint.id, now=NOW) is not None
        assert take(made.endpoint.id, now=NOW) is None

    def test_that_fails_again_and_again_is_left_alone_for_longer_and_longer(self, receiver: Receiver) -> None:
        made = register(receiver.url)
        happen(50)
        receiver.usual = 500
        now, pauses = NOW, []
        for _ in range(12):
            assert deliveries.send_next(made.endpoint.id, now=now)
            paused_until = endpoint(made.endpoint.id).paused_until
            if paused_until is not None:
                assert take(made.endpoint.id, now=paused_until - LATER) is None
                pauses.append(paused_until - now)
                now = paused_until
        assert len(pauses) == 12 - schedule.FAILURES_MAX + 1
        assert pauses[-1] > pauses[0] * 10

    def test_that_answers_again_is_told_everything(self, receiver: Receiver) -> None:
        made = register(receiver.url)
        happen(6)
        receiver.answers = [500] * 4
        now = NOW
        for _ in range(40):
            send_all(made.endpoint.id, now=now)
            now += timedelta(minutes=2)
        place = endpoint(made.endpoint.id)
        assert (place.failures, place.failing_since, place.paused_until) == (0, None, None)
        assert Delivery.objects.filter(state="DELIVERED").count() == 6

    def test_costs_the_others_nothing_when_it_hangs(self, receiver: Receiver) -> None:
        slow = register(f"{receiver.url}&slow=1")
        happen(3)
        good = register(f"{receiver.url}&good=1")
        happen(3)
        jobs = [take(slow.endpoint.id, now=NOW) for _ in range(5)]  # under way, without an end
        assert any(jobs)
        assert send_all(good.endpoint.id) == 3

    def test_may_ask_for_a_pause(self, receiver: Receiver) -> None:
        made = register(receiver.url)
        happen(2)
        receiver.answers, receiver.headers = [429], {"Retry-After": "120"}
        assert send_all(made.endpoint.id) == 1
        paused_until = endpoint(made.endpoint.id).paused_until
        assert paused_until is not None
        assert timedelta(seconds=120) <= paused_until - NOW < timedelta(seconds=150)

    def test_may_not_ask_for_one_without_an_end(self) -> None:
        made = register()
        happen()
        job = take(made.endpoint.id, now=NOW)
        assert job is not None
        settle(job, Outcome(status=503, error="x", retry_after_s=999_999), now=NOW)
        assert endpoint(made.endpoint.id).paused_until == NOW + schedule.RETRY_AFTER_MAX

    def test_that_is_gone_is_disabled_at_once(self, receiver: Receiver) -> None:
        made = register(receiver.url)
        happen(2)
        receiver.usual = 410
        assert send_all(made.endpoint.id) == 1
        place = endpoint(made.endpoint.id)
        assert place.disabled_at is not None
        assert "410" in place.disabled_reason

    def test_that_fails_for_days_is_disabled_and_says_why(self) -> None:
        made = register()
        happen(500)
        now = NOW
        for _ in range(2_000):
            job = take(made.endpoint.id, now=now)
            if job is not None:
                settle(job, Outcome(status=None, error="The connection was refused."), now=now)
            now += timedelta(minutes=11)
            if endpoint(made.endpoint.id).disabled_at is not None:
                break
        place = endpoint(made.endpoint.id)
        assert schedule.DISABLED_AFTER <= now - NOW < schedule.DISABLED_AFTER + timedelta(hours=2)
        assert place.disabled_reason == "All failed since 2026-11-22 09:00 UTC: The connection was refused."
        assert take(made.endpoint.id, now=now + timedelta(days=9)) is None

    def test_of_a_blocked_account_is_told_nothing(self, receiver: Receiver) -> None:
        made = register(receiver.url)
        happen()
        Account.objects.filter(code=world.ACCOUNT).update(active=False)
        assert send_all(made.endpoint.id) == 0
        assert happen() is not None
        assert Delivery.objects.count() == 1, "nothing more is written for it"
        assert deliveries.waiting_endpoints(now=NOW) == []
        Account.objects.filter(code=world.ACCOUNT).update(active=True)
        assert send_all(made.endpoint.id, now=NOW + deliveries.MENDING_PAUSE) == 1

    def test_whose_secret_cannot_be_read_waits_until_the_key_is_back(self, receiver: Receiver, settings: Any) -> None:
        made = register(receiver.url)
        (event_id,) = happen()
        old, settings.SECRET_KEY = settings.SECRET_KEY, "another one, without a fallback, and long enough to be one"
        assert send_all(made.endpoint.id) == 0
        assert "rotate" in delivery(event_id).last_error
        assert deliveries.waiting_endpoints(now=NOW) == []
        settings.SECRET_KEY_FALLBACKS = [old]
        assert send_all(made.endpoint.id, now=NOW + deliveries.MENDING_PAUSE) == 1

    def test_whose_secret_cannot_be_read_is_mended_by_a_new_one(self, receiver: Receiver, settings: Any) -> None:
        made = register(receiver.url)
        happen()
        settings.SECRET_KEY = "another one, without a fallback, and long enough to be one"
        assert send_all(made.endpoint.id) == 0
        endpoints.rotate(account_id=world.ACCOUNT, endpoint_id=made.endpoint.id, now=NOW)
        assert send_all(made.endpoint.id) == 1
        assert len(receiver.told[0].headers["webhook-signature"].split(" ")) == 1

    def test_is_told_with_the_old_secret_too_while_it_changes(self, receiver: Receiver) -> None:
        old = register(receiver.url)
        new = endpoints.rotate(account_id=world.ACCOUNT, endpoint_id=old.endpoint.id, now=NOW)
        for now, count in ((NOW, 2), (NOW + endpoints.OVERLAP - LATER, 2), (NOW + endpoints.OVERLAP, 1)):
            (event_id,) = happen(now=now)
            send_all(old.endpoint.id, now=now)
            told = receiver.told[-1]
            signature = told.headers["webhook-signature"]
            assert len(signature.split(" ")) == count
            at = int(now.timestamp())
            checks = [
                verifies(key_of(made), signature, message_id=str(event_id), timestamp_s=at, body=told.body)
                for made in (new, old)
            ]
            assert checks == [True, count == 2]


class TestWaitingEndpoints:
    def test_are_those_with_something_due(self) -> None:
        quiet, due = register(f"{world.URL}?1", event_types=["payment.captured"]), register(f"{world.URL}?2")
        off, gone = register(f"{world.URL}?3"), register(f"{world.URL}?4")
        happen()
        mine = {"account_id": world.ACCOUNT, "now": NOW}
        endpoints.change(endpoint_id=off.endpoint.id, enabled=False, **mine)
        endpoints.delete(endpoint_id=gone.endpoint.id, **mine)
        assert deliveries.waiting_endpoints(now=NOW) == [due.endpoint.id]
        assert deliveries.waiting_endpoints(now=NOW - LATER) == []
        assert quiet.endpoint.id not in deliveries.waiting_endpoints(now=NOW)
        assert take(due.endpoint.id, now=NOW) is not None
        assert deliveries.waiting_endpoints(now=NOW) == []
        assert deliveries.waiting_endpoints(now=NOW + LEASE) == [due.endpoint.id]

    def test_are_the_longest_waiting_first_and_no_more_than_so_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = [register(f"{world.URL}?{n}", code=f"acc_shop{n}") for n in range(4)]
        for n in (2, 0, 3, 1):
            happen(code=f"acc_shop{n}", now=NOW + n * LATER)
        monkeypatch.setattr(deliveries, "SWEEP_ROWS_MAX", 3)
        found = deliveries.waiting_endpoints(now=NOW + timedelta(minutes=1))
        assert found == [made[n].endpoint.id for n in (0, 1, 2)]

    def test_include_none_that_fails_and_is_being_tried(self, settings: Any) -> None:
        settings.WEBHOOKS_IN_FLIGHT_MAX = 3
        made = register()
        happen(3)
        first, second = take(made.endpoint.id, now=NOW), take(made.endpoint.id, now=NOW)
        assert first is not None
        assert second is not None
        assert deliveries.waiting_endpoints(now=NOW) == [made.endpoint.id]
        settle(first, NO, now=NOW)
        assert deliveries.waiting_endpoints(now=NOW) == [], "the second is under way"
        settle(second, NO, now=NOW)
        assert deliveries.waiting_endpoints(now=NOW) == [made.endpoint.id]

    def test_include_none_that_is_unknown(self) -> None:
        assert take(uuid4(), now=NOW) is None
        assert Endpoint.objects.count() == 0

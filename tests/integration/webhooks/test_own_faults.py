"""What is not the endpoint's fault is not counted as its fault; what it asked for is kept; who may not look is not told."""

import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from django.db import connection, connections, transaction

from apps.identity.models import Account
from apps.webhooks import addresses, deliveries, endpoints, redelivery, retention, schedule, sender
from apps.webhooks.deliveries import LEASE, settle, take
from apps.webhooks.models import Attempt, Delivery, Event
from apps.webhooks.sender import Outcome
from tests.integration.webhooks import world
from tests.integration.webhooks.receiver import WAIT_S, Receiver
from tests.integration.webhooks.world import ACCOUNT, LATER, NOW, delivery, endpoint, happen, register

pytestmark = pytest.mark.django_db(transaction=True)

YES, NO = Outcome(status=204), Outcome(status=500, error="It answered 500.")
GONE, BUSY = Outcome(status=410, error="It answered 410."), Outcome(status=429, error="x", retry_after_s=600)


class TestRetryAfter:
    """Of several requests that are under way, one is asked to wait."""

    @pytest.mark.parametrize("other", [YES, NO], ids=["yes", "no"])
    def test_is_honoured_whatever_the_others_are_answered(self, other: Outcome, settings: Any) -> None:
        settings.WEBHOOKS_IN_FLIGHT_MAX = 4
        made = register()
        happen(4)
        jobs = [take(made.endpoint.id, now=NOW) for _ in range(4)]
        for job, outcome in zip(jobs, [BUSY, NO, NO, other], strict=True):
            assert job is not None
            settle(job, outcome, now=NOW)
        paused_until = endpoint(made.endpoint.id).paused_until
        assert paused_until is not None
        assert paused_until >= NOW + timedelta(seconds=600)


class TestChangedUrl:
    def test_is_not_blamed_for_the_one_before(self) -> None:
        made = register()
        happen()
        job = take(made.endpoint.id, now=NOW)
        assert job is not None
        change = {"account_id": ACCOUNT, "endpoint_id": made.endpoint.id, "now": NOW}
        endpoints.change(url=f"{world.URL}/new", **change)
        settle(job, GONE, now=NOW)
        place, row = endpoint(made.endpoint.id), Delivery.objects.get()
        assert (place.disabled_at, place.failures, place.failing_since) == (None, 0, None)
        assert (row.state, row.lease_until, row.last_status) == ("PENDING", None, 410)

    def test_is_not_well_because_the_one_before_was(self) -> None:
        made = register()
        happen(2)
        before = take(made.endpoint.id, now=NOW)
        change = {"account_id": ACCOUNT, "endpoint_id": made.endpoint.id, "now": NOW}
        endpoints.change(url=f"{world.URL}/new", **change)
        after = take(made.endpoint.id, now=NOW)
        assert before is not None
        assert after is not None
        settle(after, NO, now=NOW)
        settle(before, YES, now=NOW)
        assert endpoint(made.endpoint.id).failures == 1
        assert Delivery.objects.filter(state="DELIVERED").count() == 1


class TestRedelivery:
    def test_of_one_whose_worker_comes_late_is_not_given_up(self) -> None:
        """It was asked for again when its lease was over, and nobody took it yet: the late no is of the time before."""
        made = register()
        (event_id,) = happen()
        late = take(made.endpoint.id, now=NOW)
        assert late is not None
        now = NOW + LEASE
        mine = {"account_id": ACCOUNT, "endpoint_id": made.endpoint.id, "now": now}
        redelivery.redeliver_one(delivery_id=delivery(event_id).pk, **mine)
        settle(late, NO, now=now)
        row = delivery(event_id)
        assert (row.state, row.due_at) == ("PENDING", now)

    def test_of_one_that_is_under_way_has_all_its_attempts(self) -> None:
        made = register()
        (event_id,) = happen()
        Delivery.objects.update(tries=schedule.TRIES_MAX - 1)
        last = take(made.endpoint.id, now=NOW)
        assert last is not None
        mine = {"account_id": ACCOUNT, "endpoint_id": made.endpoint.id, "now": NOW}
        assert redelivery.redeliver_one(delivery_id=delivery(event_id).pk, **mine) == 1
        settle(last, NO, now=NOW)
        row = delivery(event_id)
        assert row.state == "PENDING", "it was asked for again, so it is not given up with the attempt that was under way"
        assert row.due_at < NOW + 2 * schedule.DELAYS[0]


class TestOurOwnTrouble:
    """Nothing was sent: it is as if nobody had taken it, and a little later somebody does."""

    def check_as_before(self, made: endpoints.WithSecret, receiver: Receiver) -> None:
        place, row = endpoint(made.endpoint.id), Delivery.objects.get()
        assert receiver.told == []
        assert (place.failures, place.failing_since, place.paused_until) == (0, None, None)
        assert (row.state, row.attempts, row.tries, row.lease_until) == ("PENDING", 0, 0, None)
        assert row.due_at > NOW
        assert Attempt.objects.count() == 0

    def test_with_names_is_nobodys_failure(self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
        made = register(receiver.url)
        happen()
        full = threading.BoundedSemaphore(1)
        full.acquire()
        monkeypatch.setattr(addresses, "_resolving", full)
        monkeypatch.setattr(addresses, "RESOLVE_S", 0.01)
        assert deliveries.send_next(made.endpoint.id, now=NOW)
        self.check_as_before(made, receiver)
        full.release()
        assert deliveries.send_next(made.endpoint.id, now=Delivery.objects.get().due_at)
        assert Delivery.objects.get().state == "DELIVERED"

    def test_with_our_list_of_authorities_is_nobodys_failure(self, receiver: Receiver, settings: Any) -> None:
        settings.WEBHOOKS_CA_FILE = "/nowhere/authorities.pem"
        made = register(receiver.url.replace("http:", "https:"))
        happen()
        assert deliveries.send_next(made.endpoint.id, now=NOW)
        self.check_as_before(made, receiver)
        assert "WEBHOOKS_CA_FILE" in Delivery.objects.get().last_error

    def test_many_names_at_once_wait_for_each_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """More senders than lookups: each lookup is short, so nobody is turned away."""
        monkeypatch.setattr(addresses, "_resolving", threading.BoundedSemaphore(1))
        first, go = threading.Event(), threading.Event()

        def look_up(_host: str, _port: int) -> Sequence[str]:
            first.set()
            assert go.wait(WAIT_S)
            return ["8.8.8.8"]

        found: list[Sequence[str]] = []
        threads = [
            threading.Thread(target=lambda: found.append(addresses.resolve("example.com", 443, look_up=look_up)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        assert first.wait(WAIT_S)
        go.set()
        for thread in threads:
            thread.join(WAIT_S)
        assert found == [["8.8.8.8"]] * 3


class TestHostHeader:
    @pytest.mark.parametrize(("host", "named"), [("[::1]", "[::1]"), ("127.0.0.1", "127.0.0.1")])
    def test_of_the_usual_port_is_the_host_alone(
        self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, host: str, named: str
    ) -> None:
        """An address of IPv6 without a port was taken for a name with a port."""
        port = int(receiver.url.rpartition(":")[2].partition("/")[0])
        connect = sender._connect
        monkeypatch.setattr(sender, "_connect", lambda _found, _port, until: connect(["127.0.0.1"], port, until))
        outcome = sender.post(f"http://{host}/hooks", body=b"{}", headers={})
        assert (outcome.status, outcome.error) == (204, "")
        assert receiver.told[0].headers["host"] == named


class TestScopes:
    def test_that_were_taken_away_end_the_telling(self) -> None:
        """Who may not look at something is not told of it either."""
        register(event_types=["order.paid", "payment.captured"])
        Account.objects.filter(code=ACCOUNT).update(scopes=["webhooks:write", "payments:read"])
        happen(event_type="order.paid")
        happen(event_type="payment.captured")
        assert [row.event.type for row in Delivery.objects.select_related("event")] == ["payment.captured"]


class TestSweep:
    def test_has_no_eyes_for_an_endpoint_that_may_have_no_more(
        self, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Slow ones with much that waits had been the oldest for ever, and the first of those that a sweep may wake."""
        settings.WEBHOOKS_IN_FLIGHT_MAX = 2
        slow = register(f"{world.URL}?slow", code="acc_slow")
        happen(9, code="acc_slow")
        good = register(f"{world.URL}?good", code="acc_good")
        happen(code="acc_good", now=NOW + LATER)
        monkeypatch.setattr(deliveries, "SWEEP_ROWS_MAX", 1)
        now = NOW + LATER
        assert deliveries.waiting_endpoints(now=now) == [slow.endpoint.id]
        for _ in range(2):
            assert take(slow.endpoint.id, now=now) is not None
        assert deliveries.waiting_endpoints(now=now) == [good.endpoint.id]


class TestAccount:
    def test_has_only_so_many_senders_however_many_endpoints(self, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ten slow endpoints of one merchant had nearly all senders of a process, and two merchants all of them."""
        settings.WEBHOOKS_IN_FLIGHT_MAX, settings.WEBHOOKS_IN_FLIGHT_OF_ACCOUNT_MAX = 2, 3
        slow = [register(f"{world.URL}?{n}", code="acc_slow").endpoint.id for n in range(3)]
        happen(9, code="acc_slow")
        good = register(f"{world.URL}?good", code="acc_good")
        happen(code="acc_good", now=NOW + LATER)
        monkeypatch.setattr(deliveries, "SWEEP_ROWS_MAX", 1)
        now = NOW + LATER
        jobs = [take(endpoint_id, now=now) for endpoint_id in slow for _ in range(2)]
        assert [job is not None for job in jobs] == [True, True, True, False, False, False]
        assert deliveries.waiting_endpoints(now=now) == [good.endpoint.id]
        assert take(good.endpoint.id, now=now) is not None
        assert jobs[0] is not None
        settle(jobs[0], YES, now=now)
        assert take(slow[2], now=now) is not None, "another of its endpoints has the turn that came free"


@pytest.fixture
def pooled() -> Iterator[Any]:
    """This thread's connection is one of a pool, as it is in a worker with threads."""
    usual: Any = connections["default"]
    mine = usual.copy()
    mine.settings_dict["OPTIONS"]["pool"] = {"min_size": 1, "max_size": 1}
    connections["default"] = mine
    yield mine
    mine.close()
    mine.close_pool()
    connections["default"] = usual


class TestConnection:
    def test_is_left_to_others_while_a_merchants_server_is_waited_for(self, receiver: Receiver, pooled: Any) -> None:
        """Fifty senders of a process share a pool of half as many."""
        made = register(receiver.url)
        happen()
        held: list[bool] = []

        def answer(handler: BaseHTTPRequestHandler) -> None:
            held.append(pooled.connection is not None)
            handler.send_response(204)
            handler.end_headers()

        receiver.usual = answer
        assert deliveries.send_next(made.endpoint.id, now=NOW)
        assert held == [False]
        assert Delivery.objects.get().state == "DELIVERED"


class TestForget:
    def test_does_not_meet_a_sender_in_a_circle(self, settings: Any) -> None:
        """It deletes a delivery whose sender is just writing down what came of it."""
        made = register()
        happen()
        job = take(made.endpoint.id, now=NOW)
        assert job is not None
        late = NOW + timedelta(days=settings.WEBHOOKS_KEEP_DAYS + 1)
        problems: list[BaseException] = []

        def forget() -> None:
            try:
                retention.forget(now=late)
            except BaseException as error:
                problems.append(error)
            finally:
                connections.close_all()

        thread = threading.Thread(target=forget)
        with transaction.atomic():
            Delivery.objects.select_for_update(no_key=True).get(pk=job.delivery_id)  # as settle does, first
            thread.start()
            _wait_for_a_lock()
            Attempt.objects.filter(delivery_id=job.delivery_id, number=job.number).update(took_ms=1)
        thread.join(WAIT_S)
        assert problems == []
        assert (Event.objects.count(), Delivery.objects.count(), Attempt.objects.count()) == (0, 0, 0)

    def test_reads_no_more_than_a_batch_to_know_that_nothing_is_old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        register()
        happen(50)
        monkeypatch.setattr(retention, "EVENTS_MAX", 5)
        assert world.rows_read(retention._OLD, retention._old_values(NOW), without="seqscan") <= 5


def _wait_for_a_lock() -> None:
    """Until somebody waits for what our transaction holds."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    for _ in range(WAIT_S * 100):
        with connection.cursor() as cursor:
            cursor.execute(waiting)
            if cursor.fetchone()[0]:
                return
        threading.Event().wait(0.01)
    raise AssertionError("nobody waits")

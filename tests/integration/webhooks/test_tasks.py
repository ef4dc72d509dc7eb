"""Celery's edge: who is woken, how much one task does, what is forgotten, what is counted."""

import threading
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.core import checks
from django.db import connections
from django.utils import timezone

from apps.webhooks import deliveries, endpoints, events, metrics, retention, tasks, wakeup
from apps.webhooks.checks import check_local_endpoints
from apps.webhooks.models import Attempt, Delivery, Endpoint, Event
from tests.integration.messaging.world import rolled_back
from tests.integration.webhooks import world
from tests.integration.webhooks.receiver import WAIT_S, Receiver, receiving
from tests.integration.webhooks.world import NOW, happen, register, send_all

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def woken(monkeypatch: pytest.MonkeyPatch) -> list[UUID]:
    """Whom somebody wanted to wake."""
    found: list[UUID] = []
    monkeypatch.setattr(wakeup, "_ask", found.extend)
    monkeypatch.setattr(wakeup, "wake", found.extend)
    return found


class TestWakeUp:
    def test_comes_with_the_commit_and_never_without(self, woken: list[UUID]) -> None:
        made = register()
        with rolled_back():
            events.record([(UUID(int=1), world.happening())], now=NOW)
        assert woken == []
        assert Event.objects.count() == Delivery.objects.count() == 0
        happen(3)
        assert woken == [made.endpoint.id]

    def test_that_reaches_no_broker_fails_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def away(**_: Any) -> None:
            raise OSError("the broker is away")

        monkeypatch.setattr(tasks.send, "apply_async", away)
        wakeup.wake([UUID(int=1), UUID(int=2)])

    def test_is_one_task_an_endpoint(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sent: list[Any] = []
        monkeypatch.setattr(tasks.send, "apply_async", lambda **options: sent.append(options))
        wakeup.wake([UUID(int=1), UUID(int=2), UUID(int=1)])
        assert [one["kwargs"]["endpoint_id"] for one in sent] == [str(UUID(int=1)), str(UUID(int=2))]
        assert all(one["expires"] > 0 for one in sent)


class TestSend:
    def test_sends_its_share_and_asks_for_another_turn(self, receiver: Receiver, woken: list[UUID]) -> None:
        made = register(receiver.url)
        happen(tasks.SENT_MAX + 3)
        woken.clear()
        tasks.send(endpoint_id=str(made.endpoint.id), something_newer=1)
        assert (len(receiver.told), woken) == (tasks.SENT_MAX, [made.endpoint.id])
        woken.clear()
        tasks.send(endpoint_id=str(made.endpoint.id))
        assert (len(receiver.told), woken) == (tasks.SENT_MAX + 3, [])

    def test_leaves_what_takes_long_to_another_turn(
        self, receiver: Receiver, woken: list[UUID], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = register(receiver.url)
        happen(3)
        monkeypatch.setattr(tasks, "SEND_S", -1.0)
        tasks.send(endpoint_id=str(made.endpoint.id))
        assert len(receiver.told) == 1
        assert made.endpoint.id in woken

    def test_does_nothing_while_all_senders_are_at_work(self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
        made = register(receiver.url)
        happen()
        monkeypatch.setattr(tasks, "_senders", threading.BoundedSemaphore(1))
        with tasks._senders:
            tasks.send(endpoint_id=str(made.endpoint.id))
        assert receiver.told == []
        tasks.send(endpoint_id=str(made.endpoint.id))
        assert len(receiver.told) == 1

    def test_serves_others_while_one_endpoint_hangs(
        self, receiver: Receiver, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.WEBHOOKS_IN_FLIGHT_MAX = 2
        monkeypatch.setattr(tasks, "_senders", threading.BoundedSemaphore(3))
        with receiving() as hanging:
            both_are_there = threading.Semaphore(0)

            def hold(handler: Any) -> None:
                both_are_there.release()
                hanging.hold(handler)

            hanging.usual = hold
            bad = register(hanging.url)
            happen(5)
            good = register(receiver.url)
            happen(3)

            def work() -> None:
                try:
                    tasks.send(endpoint_id=str(bad.endpoint.id))
                finally:
                    connections.close_all()

            threads = [threading.Thread(target=work) for _ in range(2)]
            for thread in threads:
                thread.start()
            assert both_are_there.acquire(timeout=WAIT_S)
            assert both_are_there.acquire(timeout=WAIT_S)
            tasks.send(endpoint_id=str(bad.endpoint.id))  # a third finds nothing that it may take
            tasks.send(endpoint_id=str(good.endpoint.id))
            assert len(receiver.told) == 3
            assert hanging.together_most <= 2
            hanging.free.set()
            for thread in threads:
                thread.join(WAIT_S)


class TestSweep:
    def test_finds_what_nobody_was_woken_for(self, woken: list[UUID]) -> None:
        made = register()
        happen()
        woken.clear()
        tasks.sweep()
        assert woken == [made.endpoint.id]


class TestForget:
    def test_deletes_what_is_old_with_all_that_belongs_to_it(self, receiver: Receiver, settings: Any) -> None:
        made = register(receiver.url)
        old = happen(2)
        send_all(made.endpoint.id)
        young = happen(1, now=NOW + timedelta(days=2))
        now = NOW + timedelta(days=settings.WEBHOOKS_KEEP_DAYS + 1)
        assert retention.forget(now=now) == len(old)
        assert [event.id for event in Event.objects.all()] == young
        assert (Delivery.objects.count(), Attempt.objects.count(), Endpoint.objects.count()) == (1, 0, 1)
        assert retention.forget(now=now) == 0

    def test_deletes_in_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        register()
        happen(5)
        monkeypatch.setattr(retention, "EVENTS_MAX", 2)
        monkeypatch.setattr(retention, "BATCHES_MAX", 2)
        late = NOW + timedelta(days=99)
        assert retention.forget(now=late) == 4
        assert retention.forget(now=late) == 1

    def test_deletes_a_deleted_endpoint_when_nothing_is_left_of_it(self, settings: Any) -> None:
        made = register()
        happen()
        endpoints.delete(account_id=world.ACCOUNT, endpoint_id=made.endpoint.id, now=NOW)
        tasks.forget()
        kept = timedelta(days=settings.WEBHOOKS_KEEP_DAYS)
        retention.forget(now=NOW + kept)
        assert Endpoint.objects.count() == 1
        retention.forget(now=NOW + kept + timedelta(seconds=1))
        assert Endpoint.objects.count() == 0


class TestMetrics:
    def test_tell_how_endpoints_are_and_what_waits(self, receiver: Receiver) -> None:
        well, failing, off = (register(f"{receiver.url}&n={n}") for n in range(3))
        endpoints.change(account_id=world.ACCOUNT, endpoint_id=off.endpoint.id, enabled=False, now=NOW)
        at = timezone.now() - timedelta(minutes=1)
        happen(2, now=at)
        receiver.usual = 500
        deliveries.send_next(failing.endpoint.id, now=at)
        found = {(reading.gauge.name, reading.labels): reading.value for reading in metrics._rows()}
        states = {labels[0]: value for (_, labels), value in found.items() if labels}
        assert states == {"well": 1, "failing": 1, "disabled": 1}
        assert found["lastro_webhooks_waiting", ()] == 2
        assert 60 <= found["lastro_webhooks_waiting_oldest_seconds", ()] < 600
        assert well.endpoint.enabled


class TestCheck:
    def test_refuses_a_server_that_talks_to_its_own_network(self, settings: Any) -> None:
        settings.WEBHOOKS_ALLOW_LOCAL = True
        assert [found.id for found in check_local_endpoints()] == ["webhooks.E001"]
        settings.WEBHOOKS_ALLOW_LOCAL = False
        assert check_local_endpoints() == []
        assert checks.registry.registry.tag_exists("webhooks", include_deployment_checks=True)

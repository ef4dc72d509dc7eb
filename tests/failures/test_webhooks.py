"""kill -9 of a process that is telling a merchant: the merchant is told all the same, under the same id."""

from pathlib import Path

import pytest

from apps.webhooks import deliveries
from apps.webhooks.models import Attempt
from tests.failures import forks, webhook_senders
from tests.failures.forks import Forked
from tests.integration.webhooks.receiver import WAIT_S, Receiver, receiving
from tests.integration.webhooks.world import NOW, delivery, happen, register
from tests.process import database_url

pytestmark = [pytest.mark.process, pytest.mark.django_db(transaction=True)]


def sender(endpoint_id: object, said: Path) -> Forked:
    environment = {
        "DATABASE_URL": database_url(),
        "LASTRO_EMBEDDED": "1",
        "DJANGO_SETTINGS_MODULE": "tests.settings",
    }
    words = [str(endpoint_id), NOW.isoformat()]
    return forks.start(webhook_senders.main, words, environment=environment, said=said)


class TestKill:
    def test_while_the_merchants_server_thinks_loses_nothing(self, tmp_path: Path) -> None:
        with receiving() as receiver:
            receiver.answers = [lambda handler: Receiver.hold(receiver, handler)]
            made = register(receiver.url)
            (event_id,) = happen()
            process = sender(made.endpoint.id, tmp_path / "sender")
            assert receiver.arrived.wait(WAIT_S), "it was sent"
            process.kill()
            receiver.free.set()
            row = delivery(event_id)
            assert (row.state, row.attempts, row.lease_until) == ("PENDING", 1, NOW + deliveries.LEASE)
            assert Attempt.objects.get().took_ms is None, "nobody knows what came of it"
            assert not deliveries.send_next(made.endpoint.id, now=NOW), "its lease holds"
            after = NOW + deliveries.LEASE
            assert deliveries.waiting_endpoints(now=after) == [made.endpoint.id]
            assert deliveries.send_next(made.endpoint.id, now=after)
            assert delivery(event_id).state == "DELIVERED"
            assert receiver.ids == [str(event_id)] * 2
            assert receiver.told[0].body == receiver.told[1].body

    def test_of_nobody_is_needed_for_a_process_to_do_it(self, tmp_path: Path) -> None:
        with receiving() as receiver:
            made = register(receiver.url)
            (event_id,) = happen()
            assert sender(made.endpoint.id, tmp_path / "sender").ended() == "True"
            assert (delivery(event_id).state, receiver.ids) == ("DELIVERED", [str(event_id)])

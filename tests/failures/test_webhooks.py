"""kill -9 of a process that is telling a merchant: the merchant is told all the same, under the same id."""

import base64
import json
from pathlib import Path

import pytest

from apps.webhooks import deliveries
from apps.webhooks.models import Attempt
from tests.failures import forks, webhook_senders
from tests.failures.forks import Forked
from tests.integration.payments.world import basic
from tests.integration.webhooks.receiver import WAIT_S, Receiver, receiving
from tests.integration.webhooks.world import NOW, delivery, happen, register
from tests.process import Lastro, database_url, stop_postgres
from tests.shop import SEED_BODY
from tests.unit.webhooks.test_signatures import verifies

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


@pytest.mark.distributed
@pytest.mark.on_servers("local")  # nothing here is about the broker
class TestWholeProcess:
    def test_killed_while_it_tells_of_an_order_tells_all_of_it(self, tmp_path: Path) -> None:
        """make run, with its real worker, beat, relay and consumers."""
        with receiving() as receiver:
            receiver.answers = [lambda handler: Receiver.hold(receiver, handler)]
            lastro = Lastro(tmp_path).wait_ready()
            demo = json.loads((tmp_path / "demo.json").read_text())
            mine = {"Authorization": basic(demo["account"], demo["secret"])}
            wanted = ["order.paid", "document.authorised", "order.completed"]
            body = {"url": receiver.url, "event_types": wanted}
            status, made = lastro.request("POST", "/webhooks/endpoints", body, **mine)
            assert status == 201
            order = {**SEED_BODY, "payment": {"method": "balance"}}
            order_id = lastro.request("POST", "/orders", order, **mine)[1]["id"]
            assert receiver.arrived.wait(WAIT_S), lastro.text
            lastro.kill()
            receiver.free.set()
            lastro = Lastro(tmp_path).wait_ready()
            try:
                lastro.manage("shell", "-v0", "-c", _A_MINUTE_PASSES)
                where = f"/webhooks/endpoints/{made['id']}/deliveries?state=DELIVERED"
                lastro.until(lambda: len(lastro.request("GET", where, **mine)[1]["deliveries"]) == len(wanted))
            finally:
                assert lastro.stop() == 0
                stop_postgres(tmp_path)
        bodies = {told.headers["webhook-id"]: json.loads(told.body) for told in receiver.told}
        assert sorted(body["type"] for body in bodies.values()) == sorted(wanted)
        assert {body["data"]["order_id"] for body in bodies.values()} == {order_id}
        assert receiver.ids.count(receiver.ids[0]) == 2, "what was under way came again, under its id"
        key = base64.b64decode(made["secret"].removeprefix("whsec_"))
        for told in receiver.told:
            header, at = told.headers["webhook-signature"], int(told.headers["webhook-timestamp"])
            assert verifies(key, header, message_id=told.headers["webhook-id"], timestamp_s=at, body=told.body)


_A_MINUTE_PASSES = """
from apps.webhooks.models import Delivery
from django.utils import timezone
Delivery.objects.filter(lease_until__isnull=False).update(lease_until=timezone.now())
"""

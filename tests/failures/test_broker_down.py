"""The broker goes away under load and comes back: nothing is lost, nothing is blamed, every key keeps its order."""

import time

import pytest
from django.db.models import Q

from apps.messaging.models import Message, Pending, Redelivery
from tests.deployment import Deployment
from tests.failures.deployed.numbers import ERROR_TOPIC
from tests.failures.numbered import Keys, Load

pytestmark = [
    pytest.mark.process,
    pytest.mark.distributed,
    pytest.mark.on_servers,
    pytest.mark.xdist_group("distributed"),
    pytest.mark.timeout(600),
]

DOWN_S = 20


class TestBrokerDown:
    def test_for_twenty_seconds_under_load(self, deployed: Deployment) -> None:
        deployed.scale(relay=2, consume=2)
        keys = Keys(20)
        letters = Message.objects.filter(topic=ERROR_TOPIC).count()
        with Load(keys):
            keys.flow(deployed)
            deployed.kill_server(deployed.mode)
            ends = time.monotonic() + DOWN_S
            deployed.until(lambda: _nobody_is_blamed() and time.monotonic() > ends, what="the broker is away")
            assert Pending.objects.count() > 100, "what is published meanwhile waits in the outbox"
            deployed.services("start", deployed.mode)
            keys.flow(deployed)
            _nobody_is_blamed()
        keys.all_arrive(deployed)
        assert Message.objects.filter(topic=ERROR_TOPIC).count() == letters
        assert not any(program.has_ended for program in deployed.programs.values()), "nobody had to be started again"


def _nobody_is_blamed() -> bool:
    blamed = Pending.objects.filter(Q(attempts__gt=0) | Q(parked_at__isnull=False))
    assert not blamed.exists(), list(blamed.values("attempts", "error"))
    assert not Redelivery.objects.exists()
    return True

"""The local transport keeps the contract."""

import pytest
from django.utils import timezone

from apps.messaging.models import LocalMember
from apps.messaging.transports.base import Consumer, OutgoingRecord
from apps.messaging.transports.local import LocalTransport, _append
from apps.messaging.transports.local_consumer import LocalConsumer
from tests.brokers.contract import BrokerContract
from tests.integration.messaging.world import TOPIC


class LocalHarness:
    """The log in the test's own database."""

    def __init__(self) -> None:
        self.transport = LocalTransport()

    def append_foreign(self, *, key: bytes | None, value: bytes) -> None:
        _append([OutgoingRecord(TOPIC, (key or b"").decode(errors="backslashreplace"), value)])

    def vanish(self, member: Consumer) -> None:
        assert isinstance(member, LocalConsumer)
        LocalMember.objects.filter(token=member._token).update(lease_until=timezone.now())

    def restart(self) -> None:
        raise NotImplementedError


@pytest.mark.django_db(transaction=True)
class TestLocalTransport(BrokerContract):
    """Without a server."""

    @pytest.fixture
    def harness(self) -> LocalHarness:
        return LocalHarness()

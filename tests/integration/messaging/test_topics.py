"""Topics as code, and the lag, on the local transport."""

import json
from collections.abc import Callable
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from apps.messaging.consumer import consume_once
from apps.messaging.relay import relay_all
from apps.messaging.topics import desired_topics
from apps.messaging.transports import transport
from tests.integration.messaging.world import TOPIC, Reader, post


def said(*arguments: str) -> str:
    """What a command printed."""
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


class TestDesiredTopics:
    def test_every_contract_has_its_topic_and_its_dead_letters(self) -> None:
        found = {topic.name: topic for topic in desired_topics()}
        assert {"payments.card.processor.in", "payments.card.processor.error", "payments.card.result.event"} <= set(found)
        assert found["payments.card.processor.in"].groups == ("payments.processor",)
        assert found["payments.card.processor.error"].groups == ()

    def test_retention_follows_the_kind_of_topic(self) -> None:
        days = {topic.name.rsplit(".", 1)[1]: topic.retention_days for topic in desired_topics()}
        assert (days["in"], days["event"], days["error"]) == (7, 30, 90)


@pytest.mark.django_db(transaction=True)
class TestCommands:
    def test_the_local_transport_has_nothing_to_plan(self) -> None:
        assert "create" not in said("topics", "--plan")
        assert "create" not in said("topics", "--apply")

    def test_lag_falls_as_a_group_handles(self, reader: Callable[[str], Reader]) -> None:
        reader("tests")
        post(1, 2, 3)
        relay_all()
        assert self._lag() == 3
        member = transport().consumer(group="tests", topics=[TOPIC])
        consume_once(member, group="tests", timeout_s=0)
        member.close()
        assert self._lag() == 0

    @staticmethod
    def _lag() -> int:
        found = json.loads(said("consumer_lag", "--groups", "tests", "--json"))
        return sum(found["tests"][TOPIC].values())

    def test_an_unknown_group_is_named(self) -> None:
        with pytest.raises(CommandError, match=r"Unknown: no\.such"):
            call_command("consumer_lag", "--groups", "no.such")

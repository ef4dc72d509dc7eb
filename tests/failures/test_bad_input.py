"""What comes over the wire and cannot be: it is put aside with a reason, and the processes go on with the rest."""

import base64
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from django.db import transaction
from django.utils import timezone

from apps.messaging.models import Message, Pending
from apps.messaging.public import InvalidMessage, publish
from apps.messaging.transports.base import Fate, OutgoingRecord
from apps.messaging.transports.local import LocalTransport
from tests.deployment import Deployment
from tests.failures.deployed.numbers import ERROR_TOPIC, GROUPS, MISSING_TOPIC, SINGLE, TOPIC, Misplaced, Numbered
from tests.failures.numbered import Keys, Load

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("distributed"), pytest.mark.timeout(600)]

HUGE = b"x" * 2_000_000


def envelope(schema: str = Numbered.schema, *, meta: dict[str, Any] | None = None, **body: Any) -> bytes:
    """A record's value as ours are, but for what the test changes."""
    values = {"message-id": str(uuid4()), "schema": schema, "global-id": "", "steps": [], "trace": ""}
    return json.dumps({"meta": {**values, **(meta or {})}, "body": body}).encode()


# What it is, the record's value, and what its dead letter says.
BAD = {
    "broken JSON": (b'{"meta": {"message-id": ', "not JSON"),
    "no JSON": (b"\x00\xff\xfe", "not JSON"),
    "no envelope": (b"[1, 2]", "not an envelope"),
    "an id that is none": (envelope(meta={"message-id": "12"}, key="k", n=1), "meta is malformed"),
    "no schema": (json.dumps({"meta": {"message-id": str(uuid4())}, "body": {}}).encode(), "meta is malformed"),
    "an unknown schema": (envelope("tests.nobody_knows_it.v1", key="k", n=1), "tests.nobody_knows_it.v1"),
    "a field that is missing": (envelope(key="k"), "n"),
    "a field of another type": (envelope(key="k", n="one"), "n"),
    "a number that its handler refuses": (envelope(key="k", n=-1), "NotHandled"),
}


def append(deployed: Deployment, records: Sequence[tuple[str | None, bytes]]) -> None:
    """Put records on the numbers' topic, past our outbox."""
    if deployed.mode == "local":
        outcomes = LocalTransport().send([OutgoingRecord(TOPIC, key or "", value) for key, value in records])
        assert {one.fate for one in outcomes} == {Fate.ACKNOWLEDGED}
        return
    lines = [json.dumps([key, base64.b64encode(value).decode()]) for key, value in records]
    deployed.run("-m", "tests.failures.deployed.foreign", "append", TOPIC, given="\n".join(lines))


class TestOnTheWire:
    def test_is_put_aside_and_everything_behind_it_goes_on(self, deployed: Deployment) -> None:
        deployed.scale(relay=2, consume=2)
        started = timezone.now()
        keys = Keys(6)
        names = list(keys.published)
        records: list[tuple[str | None, bytes]] = [(names[at % 6], value) for at, (value, _) in enumerate(BAD.values())]
        append(deployed, [*records, (None, envelope(key="k", n=1))])
        keys.publish_rounds(3)
        letters = Message.objects.filter(topic=ERROR_TOPIC, created_at__gte=started)
        wanted = (len(BAD) + 1) * len(GROUPS)
        deployed.until(lambda: letters.count() >= wanted, what="every bad record has its dead letter")
        reasons = [str(letter.meta["error"]["reason"]) for letter in letters]
        for what, (_, reason) in BAD.items():
            assert sum(reason in one for one in reasons) >= len(GROUPS), (
                f"{what}: no dead letter says {reason!r}: {reasons}"
            )
        assert sum("key" in reason for reason in reasons) >= len(GROUPS), "no dead letter speaks of the missing key"
        assert {letter.meta["error"]["group"] for letter in letters} == set(GROUPS)
        keys.all_arrive(deployed)
        assert letters.count() == wanted
        assert not any(program.has_ended for program in deployed.programs.values())

    def test_a_message_of_two_megabytes(self, deployed: Deployment) -> None:
        with transaction.atomic(), pytest.raises(InvalidMessage, match="larger than"):
            publish(Numbered(key=HUGE.decode(), n=1), key="k")
        if deployed.mode == "local":
            (outcome,) = LocalTransport().send([OutgoingRecord(TOPIC, "k", HUGE)])
            assert (outcome.fate, "larger than" in outcome.reason) == (Fate.REFUSED, True)
            return
        deployed.scale(relay=2, consume=2)
        started = timezone.now()
        keys = Keys(6)
        append(deployed, [(key, HUGE) for key in keys.published])
        keys.publish_rounds(3)
        letters = Message.objects.filter(topic=ERROR_TOPIC, created_at__gte=started)
        deployed.until(lambda: letters.count() >= 6 * len(GROUPS), what="their dead letters")
        assert {letter.body["bytes"] for letter in letters} == {len(HUGE)}
        keys.all_arrive(deployed)


@pytest.mark.distributed
@pytest.mark.on_servers("kafka")
class TestTopicThatDoesNotExist:
    def test_holds_up_its_own_messages_until_somebody_does_as_it_says(self, deployed: Deployment) -> None:
        deployed.scale(relay=2, consume=2)
        deployed.run("-m", "tests.failures.deployed.foreign", "delete", MISSING_TOPIC)
        lost, keys = Keys(1), Keys(6)
        (key,) = lost.published
        for n in (1, 2):
            with transaction.atomic():
                publish(Misplaced(key=key, n=n), key=key)
        with Load(keys):
            refused = Pending.objects.filter(topic=MISSING_TOPIC, attempts__gt=0)
            deployed.until(refused.exists, what="the broker has no such topic")
            keys.flow(deployed)
        assert "manage.py topics --apply" in refused.get().error
        assert refused.get().parked_at is None, "the first of them is tried again, the second waits behind it"
        deployed.manage("topics", "--apply")
        lost.published[key] = 2
        lost.all_arrive(deployed, groups=[SINGLE])
        keys.all_arrive(deployed)


def with_a_wrong_password(deployed: Deployment) -> dict[str, str]:
    """The environment of a process that the broker will not let in."""
    if deployed.mode == "rabbitmq":
        parts = urlsplit(deployed.environment["RABBITMQ_URL"])
        return {"RABBITMQ_URL": parts._replace(netloc=f"lastro:not-this-one@{parts.hostname}:{parts.port}").geturl()}
    return {
        "KAFKA_BOOTSTRAP_SERVERS": deployed.environment["KAFKA_LOGIN_BOOTSTRAP_SERVERS"],
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": "lastro",
        "KAFKA_SASL_PASSWORD": "not-this-one",
    }


@pytest.mark.distributed
@pytest.mark.on_servers
@pytest.mark.parametrize("kind", ["consume", "relay"])
class TestAtTheStart:
    def test_a_refused_login_ends_the_process_with_a_sentence_that_says_what_to_do(
        self, deployed: Deployment, kind: str
    ) -> None:
        deployed.scale()
        refused = deployed.start(kind, **with_a_wrong_password(deployed))
        assert refused.wait() == 1, refused.text
        del deployed.programs[refused.name]
        # A broker refuses and hangs up; a client that was slow has heard of the second only, and names more to check.
        assert {"kafka": "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD", "rabbitmq": "RABBITMQ_URL"}[
            deployed.mode
        ] in refused.text
        assert "not-this-one" not in refused.text
        assert "Traceback" not in refused.text

    def test_so_do_topics_that_are_missing(self, deployed: Deployment, kind: str) -> None:
        deployed.scale()
        stopped = deployed.start(kind, MESSAGING_PREFIX="nobody-made-these.")
        assert stopped.wait() == 1, stopped.text
        del deployed.programs[stopped.name]
        assert "manage.py topics --apply" in stopped.text
        assert "Traceback" not in stopped.text

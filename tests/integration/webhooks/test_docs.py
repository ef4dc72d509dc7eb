"""The page for merchants: its example verifies what we send, and what it says of the world is so."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as ours
from django.urls import get_resolver
from django.utils import timezone

from apps.webhooks import endpoints, schedule
from apps.webhooks.endpoints import OVERLAP
from tests.integration.webhooks import world
from tests.integration.webhooks.receiver import Receiver
from tests.integration.webhooks.world import happen, register, send_all

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "webhooks.md").read_text()

pytestmark = pytest.mark.django_db(transaction=True)

Verify = Callable[[bytes, dict[str, str], str], bool]


@pytest.fixture(scope="module")
def verify() -> Verify:
    """The page's example, as a merchant would copy it."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "docs/webhooks.md", "exec"), names)
    found: Verify = names["verify"]
    return found


class TestExample:
    def test_takes_what_we_send_and_nothing_else(self, verify: Verify, receiver: Receiver) -> None:
        now = timezone.now()
        made, other = register(receiver.url), register(f"{receiver.url}&other")
        happen(now=now)
        send_all(made.endpoint.id, now=now)
        (told,) = receiver.told
        assert verify(told.body, told.headers, made.secret)
        assert json.loads(told.body)["type"] == "order.paid"
        assert not verify(told.body + b" ", told.headers, made.secret)
        assert not verify(told.body, told.headers, other.secret)
        for name, value in (
            ("webhook-id", "another"),
            ("webhook-timestamp", str(int(now.timestamp()) + 1)),
            ("webhook-timestamp", "soon"),
            ("webhook-signature", "v1,"),
            ("webhook-signature", "garbage"),
            ("webhook-signature", told.headers["webhook-signature"].replace("v1,", "v1a,")),
        ):
            assert not verify(told.body, {**told.headers, name: value}, made.secret), (name, value)
        assert not verify(told.body, {}, made.secret)

    def test_takes_nothing_stale(self, verify: Verify, receiver: Receiver) -> None:
        past = timezone.now() - timedelta(minutes=6)
        made = register(receiver.url, now=past)
        happen(now=past)
        send_all(made.endpoint.id, now=past)
        assert not verify(receiver.told[0].body, receiver.told[0].headers, made.secret)

    def test_takes_both_secrets_while_they_overlap(self, verify: Verify, receiver: Receiver) -> None:
        now = timezone.now()
        old = register(receiver.url)
        new = endpoints.rotate(account_id=world.ACCOUNT, endpoint_id=old.endpoint.id, now=now)
        happen(now=now)
        send_all(old.endpoint.id, now=now)
        (told,) = receiver.told
        assert verify(told.body, told.headers, old.secret)
        assert verify(told.body, told.headers, new.secret)


class TestPage:
    def test_names_addresses_that_there_are(self) -> None:
        known = {
            str(pattern.pattern) for each in get_resolver().url_patterns for pattern in getattr(each, "url_patterns", [])
        }
        for word in ("secret", "ping", "deliveries", "redeliveries"):
            assert f"/{{id}}/{word}" in PAGE
            assert f"webhooks/endpoints/<uuid:endpoint_id>/{word}" in known
        assert {"webhooks/endpoints", "webhooks/event-types"} <= known

    def test_names_settings_that_there_are(self) -> None:
        named = set(re.findall(r"WEBHOOKS_[A-Z_]+", PAGE))
        assert named == {name for name in dir(ours) if name.startswith("WEBHOOKS_")}

    def test_tells_the_schedule_as_it_is(self) -> None:
        assert "5 s, 5 and 30 min, 2, 5, 10, 14, 20 and 24 h" in PAGE
        assert [delay.total_seconds() for delay in schedule.DELAYS] == [
            5,
            *(minutes * 60 for minutes in (5, 30)),
            *(hours * 3600 for hours in (2, 5, 10, 14, 20, 24)),
        ]
        assert (schedule.TRIES_MAX, schedule.DISABLED_AFTER.days, OVERLAP.total_seconds() / 3600) == (10, 4, 24)

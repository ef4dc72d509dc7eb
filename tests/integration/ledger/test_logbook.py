"""Postings in the logs: JSON lines that are found by their tracekey."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.db import transaction
from rest_framework.test import APIClient

from apps.ledger import handlers, logbook
from apps.observability.logs import JsonFormatter
from tests.integration.ledger.api.test_views import body, client, send
from tests.integration.ledger.conftest import ANA, line
from tests.integration.ledger.test_handlers import requests

__all__ = ["client"]
pytestmark = pytest.mark.django_db


class Log:
    """What was written, line by line."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def lines(self) -> list[tuple[str | None, str]]:
        found = [json.loads(text) for text in self.stream.getvalue().splitlines()]
        return [(entry.get("tracekey"), entry["message"]) for entry in found]


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    handler = logging.StreamHandler(log.stream)
    handler.setFormatter(JsonFormatter())
    logger, level = logging.getLogger("apps.ledger"), logging.getLogger("apps.ledger").level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield log
    logger.removeHandler(handler)
    logger.setLevel(level)


class TestHttp:
    def test_tells_of_an_entry_under_its_tracekey(self, client: APIClient, log: Log) -> None:
        payload, refused = body(), body(debitcredit="D", amount=1000)
        for sent in (payload, payload, refused):
            send(client, sent)
        first, again, third = log.lines()
        assert (first, again) == ((payload["tracekey"], "posted, lines: 1"), (payload["tracekey"], "posted before"))
        assert third[0] == refused["tracekey"]
        assert third[1].startswith("refused: R103 ")

    def test_tells_of_a_batch_in_short_and_of_each_refusal(
        self, client: APIClient, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logbook, "REFUSALS_MAX", 2)
        refused = [body(account="nobody") for _ in range(3)]
        client.post("/ledger/transactions/batch", {"transactions": [body(), *refused]}, format="json")
        *told, (key, summary) = log.lines()
        assert [tracekey for tracekey, _ in told] == [sent["tracekey"] for sent in refused[:2]]
        assert (key, summary) == (None, "batch: 1 posted, 3 refused")

    def test_tells_nothing_of_what_was_only_tried(self, client: APIClient, log: Log) -> None:
        client.post("/ledger/transactions/batch", {"transactions": [body()], "dry_run": True}, format="json")
        assert log.lines() == []

    def test_tells_what_is_queued(self, client: APIClient, log: Log) -> None:
        payload, headers = body(), {"Prefer": "respond-async"}
        client.post("/ledger/transactions", payload, format="json", headers=headers)
        assert log.lines() == [(payload["tracekey"], "queued")]

    def test_shows_neither_details_nor_a_card_number(self, client: APIClient, log: Log) -> None:
        send(client, body(details={"s": "secret"}, description="4111 1111 1111 1111", debitcredit="D"))
        assert "refused" in log.stream.getvalue()
        assert "secret" not in log.stream.getvalue()
        assert "1111 1111" not in log.stream.getvalue()


class TestTopic:
    def test_tells_after_the_commit(self, client: APIClient, log: Log, django_capture_on_commit_callbacks: Any) -> None:
        good, bad = line(ANA, "C", 5), line(ANA, "D", 500, tracekey=uuid4())
        with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
            handlers.on_posting_requested(requests(good, bad))
            assert log.lines() == []
        (refused, summary) = log.lines()
        assert refused[0] == str(bad.tracekey)
        assert summary == (None, "batch: 1 posted, 1 refused")

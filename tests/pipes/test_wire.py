"""One wire: envelopes, headers and dead letters of the SDK and of our post office are the same."""

import json
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from lastro_pipes import control, envelope, gsm, records, routing
from lastro_pipes.errors import Code, Invalid
from lastro_pipes.routing import Way
from lastro_pipes.transports.base import Incoming

from apps.common.clock import uuid7
from apps.messaging import envelope as ours
from apps.messaging.contracts.base import SCHEMA, TOPIC
from apps.messaging.contracts.codec import Codec
from apps.messaging.dead_letters import UNREADABLE, error_topic

STEPS = ["shop.stock.reserve", "shop.cards.charge"]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
KEPT = datetime.fromisoformat("2026-11-21T12:00:00+00:00")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReported:
    """What a pipe reports, as a contract of ours would have it. See pipes/PROTOCOL.md, section 5."""

    service: str
    way: str
    outcome: str
    saga: str
    position: int
    steps: tuple[str, ...]
    message_id: UUID
    attempt: int
    started_at: datetime
    finished_at: datetime
    asked_at: datetime | None = None
    retry_at: datetime | None = None
    code: str = ""
    reason: str = ""
    kind: str = ""
    sent_topic: str = ""
    sent_id: UUID | None = None
    output_json: str = ""
    use_case: str = ""
    instance: str = ""


def sent(value: str) -> tuple[ours.Meta, dict]:  # type: ignore[type-arg]
    """As our consumer reads it."""
    found = ours.decode(value.encode())
    return ours.read_meta(found["meta"]), found["body"]


class TestEnvelope:
    def test_we_read_what_a_pipe_writes(self) -> None:
        record = control.start(STEPS, {"n": 1}, global_id="g1", meta={"reply-to": "r"})
        meta, body = sent(record.value)
        assert (meta.global_id, meta.steps, meta.reply_to, meta.schema) == ("g1", tuple(STEPS), "r", "pipes.step.v1")
        assert ours.TRACEPARENT.fullmatch(meta.trace)
        assert body == {"n": 1}

    def test_a_pipe_reads_what_we_write(self) -> None:
        meta = ours.Meta(message_id=uuid7(), schema="s.t.v1", global_id="g1", steps=tuple(STEPS), trace=TRACE)
        found = envelope.decode(ours.encode(meta.to_json(), {"n": 1}))
        assert (found.message_id, found.global_id, found.trace, found.body) == (meta.message_id, "g1", TRACE, {"n": 1})
        assert routing.find(found.meta, way=Way.DO, service=STEPS[1]).position == 1

    def test_the_headers_are_the_same(self) -> None:
        record = control.start(STEPS, {}, global_id="g1")
        meta, _ = sent(record.value)
        wanted = ours.headers(
            message_id=str(meta.message_id), schema=meta.schema, global_id=meta.global_id, trace=meta.trace
        )
        assert record.headers == wanted

    def test_the_limits_are_the_same(self) -> None:
        for name in ("ENVELOPE_BYTES_MAX", "DEAD_LETTER_BYTES_MAX", "RECEIVED_BYTES_MAX"):
            assert getattr(envelope, name) == getattr(ours, name)

    def test_topics_and_schemas_are_names_of_ours(self) -> None:
        for kind in ("in", "compensate", "error", "event"):
            assert TOPIC.fullmatch(f"{STEPS[0]}.{kind}")
        for schema in (envelope.STEP, envelope.UNDO, envelope.REPORT):
            assert SCHEMA.fullmatch(schema)


class TestDeadLetters:
    def test_are_in_the_topic_and_have_the_headers_that_ours_have(self) -> None:
        begun = control.start(STEPS, {"n": 1}, global_id="g1")
        record = Incoming(begun.topic, 3, 17, "k", begun.value.encode())
        error = records.error_of(ValueError("it broke"))
        letter = records.dead_letter(
            record, envelope.decode(record.value), error, service=STEPS[0], group="the.group", attempts=6
        )
        meta, body = sent(letter.value)
        assert letter.topic == error_topic(begun.topic)
        assert body == {"n": 1}
        assert meta.error | {"reason": "ValueError: it broke", "group": "the.group", "attempts": 6} == meta.error
        assert letter.headers[-6:] == ours.error_headers(letter.value)
        assert meta.error["message-id"] == json.loads(begun.value)["meta"]["message-id"]

    def test_of_what_is_no_envelope_are_called_as_ours(self) -> None:
        error = records.error_of(Invalid(Code.UNREADABLE, "no JSON"))
        record = Incoming(f"{STEPS[0]}.in", 0, 1, "k", b"no JSON")
        letter = records.dead_letter(record, None, error, service=STEPS[0], group="g", attempts=1)
        meta, body = sent(letter.value)
        assert (meta.schema, body) == (UNREADABLE, {"raw": "no JSON", "bytes": 7})


class TestReports:
    def test_a_report_is_a_contract_of_ours(self) -> None:
        begun = envelope.decode(control.start(STEPS, {}, global_id="g1", meta={"use-case": "shop.buy"}).value.encode())
        place = routing.find(begun.meta, way=Way.DO, service=STEPS[0])
        report = records.report(
            place,
            begun,
            records.DONE,
            topic="saga.pipes.step.event",
            key="g1",
            attempt=1,
            times=records.Times(asked_at=None, started_at=KEPT, finished_at=KEPT),
            trace=TRACE,
            output={"n": 1},
            report_id=uuid7(),
        )
        meta, body = sent(report.value)
        assert meta.schema == "pipes.step_reported.v1"
        read = Codec(StepReported, schema=meta.schema).read(body)
        assert (read.outcome, read.steps, read.started_at) == ("DONE", tuple(STEPS), KEPT)
        assert json.loads(read.output_json) == {"n": 1}
        assert set(body) == set(StepReported.__slots__), "every field is known, and none is missing"
        assert gsm.read(report.topic, report.value.encode()).use_case == "shop.buy"

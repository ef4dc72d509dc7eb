"""What Kafka's client tells its log in an order that a broker gives once in a hundred times (see tests/brokers)."""

import logging

import pytest
from kafka import errors as kafka_errors

from apps.messaging.transports.base import TransportDown, TransportMisconfigured
from apps.messaging.transports.kafka_login import first_cause

HUNG_UP = "Bootstrap connection to bootstrap-0 failed: KafkaConnectionError: socket disconnected (backoff 0.04 secs)"
OUT_OF_TIME = [
    "Bootstrap connection to bootstrap-0 failed: KafkaTimeoutError: SASL Authentication timed out (backoff 1.06 secs)",
    "Bootstrap connection to bootstrap-0 failed: KafkaTimeoutError: Timeout during ApiVersions check (backoff 1.06 secs)",
    "Bootstrap connection to bootstrap-0 failed: [Error 7] RequestTimedOutError: after 40 ms (backoff 1.06 secs)",
    "Bootstrap connection to bootstrap-0 failed: KafkaTimeoutError: I/O wait timed out (backoff 1.06 secs)",
]
GONE = "Bootstrap connection to bootstrap-0 failed: KafkaConnectionError: [Errno 111] ECONNREFUSED (backoff 0.04 secs)"


def start(*lines: str) -> None:
    """A client that says this and has not reached its broker in time."""
    with first_cause():
        for line in lines:
            logging.getLogger("kafka.net.manager").warning(line)
        raise kafka_errors.KafkaTimeoutError("Unable to bootstrap")


@pytest.mark.parametrize("last", OUT_OF_TIME)
def test_a_last_attempt_that_ran_out_of_time_does_not_speak_for_the_broker(last: str) -> None:
    with pytest.raises(TransportMisconfigured, match="The broker hangs up on us"):
        start(HUNG_UP, HUNG_UP, last)


@pytest.mark.parametrize("lines", [[], OUT_OF_TIME, [GONE], [HUNG_UP, GONE], [HUNG_UP, GONE, OUT_OF_TIME[0]]])
def test_a_broker_that_goes_down_refuses_nobody(lines: list[str]) -> None:
    with pytest.raises(TransportDown, match="Is it running"):
        start(*lines)


def test_one_attempt_that_was_told_why_is_enough() -> None:
    told = "Bootstrap connection to bootstrap-0 failed: [Error 58] SaslAuthenticationFailedError: Invalid credentials"
    with pytest.raises(TransportMisconfigured, match="KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"):
        start(HUNG_UP, told, OUT_OF_TIME[0])

"""How Kafka's clients log in, and why the broker will not have them.

Note [Why a client cannot start]
kafka-python says only that it could not bootstrap in time; the cause it tells its log, once for every attempt. So the log
is read while a client starts. Some lines prove what is wrong with our settings. Others (a connection that ends without a
word, a handshake that ends in the middle) are said by a wrong protocol as well as by a broker that is just going down:
they count only when every attempt ended like that, because to a broker that is down no connection can be made.
"""

import contextlib
import logging
import ssl
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient

from lastro_pipes.errors import BrokerDown, Misconfigured
from lastro_pipes.settings import Settings

RECONNECT_MS_MAX = 1000  # a broker that comes back is found within a second; the client's own default is 30 s
CLOSE_MS = 1000
LINES_MAX = 50  # of the log, in one attempt to start

# What the client's log says -> what to do. In this order: the first sign that is found in any line counts.
_PROOFS = (
    ("SaslAuthenticationFailed", "Check PIPES_KAFKA_SASL_USERNAME and PIPES_KAFKA_SASL_PASSWORD"),
    ("UnsupportedSaslMechanism", "Set PIPES_KAFKA_SASL_MECHANISM to one that this listener takes"),
    ("IllegalSaslState", "This listener takes no login: set PIPES_KAFKA_SECURITY_PROTOCOL to PLAINTEXT or SSL"),
    ("mismatch", "The certificate is another host's: use the name in it in PIPES_KAFKA_BOOTSTRAP_SERVERS"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "The broker's certificate is not trusted: set PIPES_KAFKA_SSL_CAFILE to the PEM file of the authority behind it",
    ),
    ("ALERT_", "The broker wants a certificate of ours that it trusts: see PIPES_KAFKA_SSL_CERTFILE and _KEYFILE"),
    (
        "WRONG_VERSION_NUMBER",
        "This listener does not speak TLS: set PIPES_KAFKA_SECURITY_PROTOCOL to PLAINTEXT or SASL_PLAINTEXT",
    ),
    ("Invalid frame length", "This listener speaks TLS: set PIPES_KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL"),
)
_ATTEMPTS = ("Bootstrap connection", "Bootstrap attempt")
_OUT_OF_TIME = ("TimedOut", "Timeout", "timed out")  # a request, a step of the login, a wait for the socket
_SUSPICIONS = (
    ("UNEXPECTED_EOF", "Does this listener speak TLS? Check PIPES_KAFKA_SECURITY_PROTOCOL"),
    (
        "socket disconnected",
        "The broker hangs up on us. Check PIPES_KAFKA_SECURITY_PROTOCOL and the PIPES_KAFKA_SASL_ settings",
    ),
)


def client_settings(settings: Settings) -> dict[str, Any]:
    """What producer, consumer and admin client have in common. Raises Misconfigured for a file that cannot be used."""
    protocol = settings.kafka_security_protocol
    return {
        "bootstrap_servers": [server.strip() for server in settings.kafka_bootstrap_servers.split(",")],
        "client_id": f"pipes-{settings.service}",
        "security_protocol": protocol,
        "reconnect_backoff_max_ms": RECONNECT_MS_MAX,
        "kafka_client": _remembered,
        **(_sasl(settings) if protocol.startswith("SASL") else {}),
        **(_tls(settings) if protocol.endswith("SSL") else {}),
    }


# The parts of the clients that are being constructed inside first_cause().
_made: ContextVar[list[Any] | None] = ContextVar("lastro_pipes_kafka_made", default=None)


def _remembered(**configs: Any) -> Any:
    """What kafka-python makes by default, kept within reach: one that cannot start would leave its thread behind."""
    client = KafkaNetClient(**configs)
    if (made := _made.get()) is not None:
        made.append(client)
    return client


def _sasl(settings: Settings) -> dict[str, str]:
    return {
        "sasl_mechanism": settings.kafka_sasl_mechanism,
        "sasl_plain_username": settings.kafka_sasl_username,
        "sasl_plain_password": settings.kafka_sasl_password,
    }


def _tls(settings: Settings) -> dict[str, str]:
    """The files, after reading them once: the client would take a wrong one for a broker that is away.

    It gets their names and not what is in them, so that a certificate renewed in place is used by the next connection.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found = {}
    if authorities := settings.kafka_ssl_cafile:
        with _readable("PIPES_KAFKA_SSL_CAFILE"):
            context.load_verify_locations(authorities)
        found["ssl_cafile"] = authorities
    if certificate := settings.kafka_ssl_certfile:
        with _readable("PIPES_KAFKA_SSL_CERTFILE, PIPES_KAFKA_SSL_KEYFILE"):
            context.load_cert_chain(certificate, settings.kafka_ssl_keyfile or None, password=_no_passphrase)
        found["ssl_certfile"] = certificate
        if settings.kafka_ssl_keyfile:
            found["ssl_keyfile"] = settings.kafka_ssl_keyfile
    return found


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted; it must be one without a passphrase")  # OpenSSL would ask the terminal


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        wanted = "A readable PEM file is wanted, and a key that belongs to its certificate."
        raise Misconfigured(f"{what}: {wanted} ({error})") from error


class _Lines(logging.Handler):
    """What a client that starts now tells its log. Each client has a thread of its own; older ones are not asked."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._older = set(threading.enumerate()) - {threading.current_thread()}  # a producer starts in its maker's thread
        self._texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        text = record.getMessage()
        if threading.current_thread() not in self._older and " failed: " in text and len(self._texts) < LINES_MAX:
            self._texts.append(text)

    def advice(self) -> str:
        """What to do, and the line that says why; "" when the broker is just away."""
        for sign, advice in _PROOFS:
            if line := next((text for text in self._texts if sign in text), ""):
                return f"{advice}. ({line})"
        # The last attempt may just not have had the time to end, wherever in it that was.
        ended = [text for text in self._texts if not any(sign in text for sign in _OUT_OF_TIME)]
        attempts = [text for text in ended if text.startswith(_ATTEMPTS)]
        for sign, advice in _SUSPICIONS:
            if attempts and all(sign in text for text in attempts):
                return f"{advice}. ({attempts[0]})"
        return ""


@contextlib.contextmanager
def first_cause(settings: Settings) -> Iterator[None]:
    """Turn a client that cannot start into Misconfigured (we are refused) or BrokerDown, with the cause."""
    lines, log = _Lines(), logging.getLogger("kafka.net.manager")
    log.addHandler(lines)
    token = _made.set([])
    where = settings.kafka_bootstrap_servers
    try:
        with _closed_when_it_fails():
            yield
    except kafka_errors.KafkaConfigurationError as error:
        raise Misconfigured(f"Kafka's client refuses its configuration: {error}") from error
    except (kafka_errors.KafkaError, OSError) as error:
        if why := lines.advice():
            raise Misconfigured(f"Kafka at {where} refuses us over {settings.kafka_security_protocol}. {why}") from error
        raise BrokerDown(f"Kafka at {where} does not answer. Is it running? ({error})") from error
    finally:
        _made.reset(token)
        log.removeHandler(lines)


@contextlib.contextmanager
def _closed_when_it_fails() -> Iterator[None]:
    try:
        yield
    except BaseException:
        for client in _made.get() or ():
            client._net.stop(timeout_ms=CLOSE_MS)
            client.close()
        raise

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

from django.conf import settings
from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient

from apps.messaging.transports.base import TransportDown, TransportMisconfigured

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
RECONNECT_MS_MAX = 1000  # a broker that comes back is found within a second; the client's own default is 30 s
CLOSE_MS = 1000
LINES_MAX = 50  # of the log, in one attempt to start

# What the client's log says -> what to do. In this order: the first sign that is found in any line counts.
_PROOFS = (
    ("SaslAuthenticationFailed", "Check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"),
    ("UnsupportedSaslMechanism", "Set KAFKA_SASL_MECHANISM to one that this listener takes"),
    ("IllegalSaslState", "This listener takes no login: set KAFKA_SECURITY_PROTOCOL to PLAINTEXT or SSL"),
    ("mismatch", "The certificate is another host's: use the name in it in KAFKA_BOOTSTRAP_SERVERS"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "The broker's certificate is not trusted: set KAFKA_SSL_CAFILE to the PEM file of the authority that signed it",
    ),
    (
        "ALERT_CERTIFICATE_UNKNOWN",
        "The broker does not trust our certificate: KAFKA_SSL_CERTFILE must be signed by an authority that it knows",
    ),
    ("ALERT_UNKNOWN_CA", "The broker does not trust our certificate: see KAFKA_SSL_CERTFILE"),
    (
        "ALERT_",
        "The broker wants a certificate of ours that is valid: set KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE",
    ),
    (
        "WRONG_VERSION_NUMBER",
        "This listener does not speak TLS: set KAFKA_SECURITY_PROTOCOL to PLAINTEXT or SASL_PLAINTEXT",
    ),
    ("Invalid frame length", "This listener speaks TLS: set KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL"),
)
_ATTEMPTS = ("Bootstrap connection", "Bootstrap attempt")
_OUT_OF_TIME = ("TimedOut", "Timeout", "timed out")  # a request, a step of the login, a wait for the socket
_SUSPICIONS = (
    ("UNEXPECTED_EOF", "Does this listener speak TLS? Check KAFKA_SECURITY_PROTOCOL"),
    (
        "socket disconnected",
        "The broker hangs up on us. Check KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and "
        "KAFKA_SASL_PASSWORD",
    ),
)


def client_settings() -> dict[str, Any]:
    """What producer, consumer and admin client have in common: where the broker is and how to log in.

    Raises TransportMisconfigured.
    """
    protocol = settings.KAFKA_SECURITY_PROTOCOL
    if protocol not in PROTOCOLS:
        raise TransportMisconfigured(f"KAFKA_SECURITY_PROTOCOL is {protocol!r}; it is one of {', '.join(PROTOCOLS)}.")
    if not settings.KAFKA_BOOTSTRAP_SERVERS:
        raise TransportMisconfigured("KAFKA_BOOTSTRAP_SERVERS is empty. Set it to host:port of a broker.")
    return {
        "bootstrap_servers": [server.strip() for server in settings.KAFKA_BOOTSTRAP_SERVERS.split(",")],
        "client_id": "lastro",
        "security_protocol": protocol,
        "reconnect_backoff_max_ms": RECONNECT_MS_MAX,
        "kafka_client": _remembered,
        **(_sasl(protocol) if protocol.startswith("SASL") else {}),
        **(_tls() if protocol.endswith("SSL") else {}),
    }


# The parts of the clients that are being constructed inside first_cause().
_made: ContextVar[list[Any] | None] = ContextVar("lastro_kafka_made", default=None)


def _remembered(**configs: Any) -> Any:
    """What kafka-python makes by default, kept within reach. See Note [A client that could not start]."""
    client = KafkaNetClient(**configs)
    if (made := _made.get()) is not None:
        made.append(client)
    return client


def _sasl(protocol: str) -> dict[str, str]:
    mechanism = settings.KAFKA_SASL_MECHANISM
    if mechanism not in MECHANISMS:
        raise TransportMisconfigured(f"KAFKA_SASL_MECHANISM is {mechanism!r}; it is one of {', '.join(MECHANISMS)}.")
    if not (settings.KAFKA_SASL_USERNAME and settings.KAFKA_SASL_PASSWORD):
        raise TransportMisconfigured(f"{protocol} needs KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD.")
    return {
        "sasl_mechanism": mechanism,
        "sasl_plain_username": settings.KAFKA_SASL_USERNAME,
        "sasl_plain_password": settings.KAFKA_SASL_PASSWORD,
    }


def _tls() -> dict[str, str]:
    """The files, after reading them once: the client would take a wrong one for a broker that is away.

    It gets their names and not what is in them, so that a certificate renewed in place is used by the next connection.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found = {}
    if authorities := settings.KAFKA_SSL_CAFILE:
        with _readable(f"KAFKA_SSL_CAFILE is {authorities!r}"):
            context.load_verify_locations(authorities)
        found["ssl_cafile"] = authorities
    if key := settings.KAFKA_SSL_KEYFILE:
        found["ssl_keyfile"] = key
    if certificate := settings.KAFKA_SSL_CERTFILE:
        with _readable(f"KAFKA_SSL_CERTFILE is {certificate!r} and KAFKA_SSL_KEYFILE is {key!r}"):
            context.load_cert_chain(certificate, key or None, password=_no_passphrase)
        found["ssl_certfile"] = certificate
    elif key:
        raise TransportMisconfigured("KAFKA_SSL_KEYFILE is set, but KAFKA_SSL_CERTFILE is not. They go together.")
    return found


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted; it must be one without a passphrase")  # OpenSSL would ask the terminal


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        wanted = "A readable PEM file is wanted, and a key that belongs to its certificate."
        raise TransportMisconfigured(f"{what}. {wanted} ({error})") from error


class _Lines(logging.Handler):
    """What a client that starts now tells its log. Each client has a thread of its own; older ones are not asked."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._older = set(threading.enumerate()) - {threading.current_thread()}  # a producer starts in its maker's thread
        self._texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
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
def first_cause() -> Iterator[None]:
    """Turn a client that cannot start into TransportMisconfigured (we are refused) or TransportDown, with the cause."""
    lines, log = _Lines(), logging.getLogger("kafka.net.manager")
    log.addHandler(lines)
    token = _made.set([])
    where = settings.KAFKA_BOOTSTRAP_SERVERS
    try:
        with _closed_when_it_fails():
            yield
    except kafka_errors.KafkaConfigurationError as error:
        raise TransportMisconfigured(f"Kafka's client refuses its configuration: {error}") from error
    except (kafka_errors.KafkaError, OSError) as error:
        if why := lines.advice():
            raise TransportMisconfigured(f"Kafka at {where} refuses {_us()}. {why}") from error
        raise TransportDown(f"Kafka at {where} does not answer. Is it running? ({error})") from error
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


def _us() -> str:
    protocol = settings.KAFKA_SECURITY_PROTOCOL
    user = settings.KAFKA_SASL_USERNAME if protocol.startswith("SASL") else ""
    return f"{f'the login of {user!r}' if user else 'us'} over {protocol}"

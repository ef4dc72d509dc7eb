"""Would Celery's broker ever let us in, as we are configured? Asked when a worker or a beat starts."""

import logging
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import amqp  # type: ignore[import-untyped]  # it ships no types
import redis
from celery import Celery
from django.conf import settings

from config.celery_settings import CONNECT_TIMEOUT_S

logger = logging.getLogger(__name__)

CAUSES_MAX = 10  # an exception's chain is short; a loop in it must not hold us
_LOGIN = (redis.AuthenticationError, amqp.exceptions.AccessRefused, amqp.exceptions.NotAllowed)


def refusal(app: Celery) -> str:
    """Why the broker will go on refusing us, and what to do; "" when it takes us, or when it is merely away."""
    try:
        with app.connection_for_write(connect_timeout=CONNECT_TIMEOUT_S) as connection:
            connection.channel().close()  # for Redis only this goes to the server
    except Exception as error:
        # Kombu's transports raise what they like; only a known refusal is final.
        return next((advice for cause in _causes(error) if (advice := _advice(cause))), "")
    return ""


def declare_queues(app: Celery) -> None:
    """Make every queue on RabbitMQ, also those that this worker will not read: Celery binds them all to its delays.

    Safe to repeat. When the broker is away nothing is done: the worker waits for it.
    """
    try:
        with app.connection_for_write(connect_timeout=CONNECT_TIMEOUT_S) as connection:
            if connection.transport.driver_type == "amqp":
                for queue in app.amqp.queues.values():
                    queue(connection.channel()).declare()
    except (OSError, amqp.exceptions.AMQPError) as error:
        logger.warning("Celery's queues could not be declared yet: %s", error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(CAUSES_MAX):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _advice(cause: BaseException) -> str:
    parts = urlsplit(settings.CELERY_BROKER_URL)
    where = f"Celery's broker at {parts.hostname}:{parts.port}"
    if isinstance(cause, _LOGIN):
        who = f"the login of {parts.username!r}" if parts.username else "the password"
        return f"{where} refuses {who}. Check user, password and virtual host in CELERY_BROKER_URL. ({cause})"
    if isinstance(cause, redis.ResponseError) and "DB index" in str(cause):
        return f"{where} has no database {parts.path}. Correct the end of CELERY_BROKER_URL. ({cause})"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"{where} shows a certificate that {_untrusted(cause)} ({cause.verify_message})"
    if isinstance(cause, FileNotFoundError) or (isinstance(cause, ssl.SSLError) and "NO_CERTIFICATE" in str(cause)):
        name = settings.CELERY_BROKER_CA_FILE
        return f"CELERY_BROKER_CA_FILE is {name!r}, which is no readable PEM file of certificates. ({cause})"
    if isinstance(cause, ssl.SSLError) and "WRONG_VERSION_NUMBER" in str(cause):
        plain = parts.scheme.removesuffix("s")
        return f"{where} does not speak TLS. Use its TLS port, or {plain}:// in CELERY_BROKER_URL. ({cause})"
    return ""


def _untrusted(cause: ssl.SSLCertVerificationError) -> str:
    if "mismatch" in cause.verify_message:
        return "is another host's. Use the name in the certificate in CELERY_BROKER_URL."
    return "is not trusted. Set CELERY_BROKER_CA_FILE to the PEM file of the authority that signed it."

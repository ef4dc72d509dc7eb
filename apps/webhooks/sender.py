"""The only file that talks to merchants' servers: one POST, one look at the answer. Nothing is repeated here.

Their servers are strangers: they may be slow on purpose, answer without an end, or send us to ourselves. So the address is
checked and pinned (addresses.py), no redirect is followed, and a watchdog ends everything after TOTAL_S, whatever is waited
for: each byte that trickles in would come in time for a timeout of the socket.
"""

import http.client
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache

from django.conf import settings

from apps.common.errors import DomainError
from apps.common.transactions import durable
from apps.observability.logs import mask_cards
from apps.webhooks.addresses import NotReachable, NotSent, check_url, resolve
from apps.webhooks.models import ANSWER_CHARACTERS_MAX, ERROR_CHARACTERS_MAX

logger = logging.getLogger(__name__)

CONNECT_S = 5.0  # of one address
READ_S = 15.0  # of one wait for bytes
TOTAL_S = 20.0  # of everything: name, connection, TLS, request, answer
ANSWER_BYTES_MAX = 4 * 1024  # nobody reads more of an answer than its beginning
GONE = 410
_UNSHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an attempt. ``status`` None: there was no answer, and ``error`` says why.

    ``is_ours``: nothing was sent, for a reason of our own.
    """

    status: int | None
    is_ours: bool = False
    error: str = ""
    answer: str = ""
    retry_after_s: int = 0
    took_ms: int = 0

    @property
    def succeeded(self) -> bool:
        """Only 2xx: a redirect is not followed, and so it is a failure."""
        return self.status is not None and 200 <= self.status < 300


@durable
def post(url: str, *, body: bytes, headers: Mapping[str, str]) -> Outcome:
    """Send once. Whatever the other side does becomes an outcome; it takes TOTAL_S at most."""
    started = time.monotonic()
    try:
        outcome = _post(url, body, headers, until=started + TOTAL_S)
    except NotSent as trouble:
        outcome = Outcome(status=None, is_ours=True, error=str(trouble)[:ERROR_CHARACTERS_MAX])
    except (NotReachable, DomainError) as refusal:
        outcome = Outcome(status=None, error=str(refusal)[:ERROR_CHARACTERS_MAX])
    except (OSError, http.client.HTTPException, ValueError) as error:
        outcome = Outcome(status=None, error=_reason(error, time.monotonic() - started))
    return replace(outcome, took_ms=int((time.monotonic() - started) * 1000))


def _reason(error: Exception, took_s: float) -> str:
    """Words of ours: a library's own may repeat what a stranger's server said."""
    if took_s >= TOTAL_S or isinstance(error, TimeoutError):
        return f"No answer within {TOTAL_S:.0f} s."
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"Its certificate is not trusted: {error.verify_message}."[:ERROR_CHARACTERS_MAX]
    if isinstance(error, ssl.SSLError):
        return "TLS failed."
    if isinstance(error, ConnectionRefusedError):
        return "The connection was refused."
    if isinstance(error, http.client.HTTPException):
        return "What it answered is not HTTP."
    return "The connection broke."


def _post(url: str, body: bytes, headers: Mapping[str, str], *, until: float) -> Outcome:
    parts = check_url(url)  # the rules may have become stricter since it was registered
    host = parts.hostname or ""
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    context = _trust() if secure else None
    found = resolve(host, port, timeout_s=until - time.monotonic())
    sock = _connect(found, port, until)
    watchdog = threading.Timer(max(until - time.monotonic(), 0), _hang_up, [sock])
    watchdog.daemon = True
    try:
        if context is not None:
            sock = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
            watchdog.args = [sock]  # it has taken over the descriptor
        watchdog.start()
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()
        connection = http.client.HTTPConnection(host, port, timeout=READ_S)
        connection.sock = sock
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body, {**headers, "Host": parts.netloc, "Connection": "close"})
        with closing(connection.getresponse()) as response:
            if time.monotonic() >= until:
                raise TimeoutError  # the watchdog's end of the connection may look like the end of the headers
            return _answer(response)
    finally:
        watchdog.cancel()
        sock.close()


def _connect(found: Sequence[str], port: int, until: float) -> socket.socket:
    """To the first of these addresses that answers. Raises OSError for the last one that did not."""
    problem: OSError = TimeoutError()
    for address in found:
        left_s = until - time.monotonic()
        if left_s <= 0:
            break
        try:
            sock = socket.create_connection((address, port), timeout=min(CONNECT_S, left_s))
        except OSError as error:
            problem = error
            continue
        sock.settimeout(READ_S)
        return sock
    raise problem


def _hang_up(sock: socket.socket) -> None:
    """End a connection under whoever waits for it. Not SSLSocket's own word, which would change its state meanwhile."""
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        return  # it is closed already


def _trust() -> ssl.SSLContext:
    """By whom endpoints may be certified. Raises NotSent: a file that is gone is no failure of each merchant's."""
    try:
        return _context(settings.WEBHOOKS_CA_FILE)
    except OSError as error:  # what is no PEM is an SSLError, which is one
        logger.error("merchants are told nothing: WEBHOOKS_CA_FILE cannot be read: %s", error)
        raise NotSent("WEBHOOKS_CA_FILE cannot be read.") from error


@lru_cache(maxsize=4)
def _context(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _answer(response: http.client.HTTPResponse) -> Outcome:
    """The status decides. The body is read for whoever looks into it, and may break off."""
    after = response.getheader("Retry-After", "").strip()
    try:
        text = response.read(ANSWER_BYTES_MAX).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException, ValueError):
        text = ""
    failed = not 200 <= response.status < 300
    return Outcome(
        status=response.status,
        error=f"It answered {response.status}." if failed else "",
        answer=mask_cards(_UNSHOWN.sub("", text))[:ANSWER_CHARACTERS_MAX],
        retry_after_s=int(after) if after.isascii() and after.isdigit() and len(after) <= 6 else 0,
    )

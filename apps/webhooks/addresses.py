"""Which addresses of the network a merchant's URL may lead to: public ones, and never one of ours.

Note [Asked once]
A name is resolved once for each attempt, every address that it has is looked at, and the connection is made to one of those
that were looked at, by its number. So a name that is public when it is checked and private when it is used gains nothing.
"""

import ipaddress
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

from django.conf import settings

from apps.common.errors import DomainError
from apps.webhooks.models import URL_CHARACTERS_MAX

PORTS = frozenset({443, 8443})  # others are where databases, caches and back offices listen
ADDRESSES_MAX = 4  # of a name; so many are tried one after the other
RESOLVE_S = 5.0
RESOLVING_MAX = 32  # lookups of one process at a time: the others wait for their turn, and no longer than for an answer
# One plain name of letters, digits and hyphens, or an IPv6 address without a zone.
HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?|[0-9a-f:.]{2,45}")
# A visible ASCII text without what has a meaning to shells, logs and markup.
URL = re.compile(r"[!#$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]+")
# Python 3.11 takes them for public: protocol assignments (there a cloud keeps its metadata), relays of 6to4.
_NOT_PUBLIC_4 = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24")))
_PUBLIC_6 = ipaddress.ip_network("2000::/3")
# Of that: protocol assignments with Teredo, documentation, 6to4 (an IPv4 address in disguise).
_NOT_PUBLIC_6 = tuple(map(ipaddress.ip_network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
_resolving = threading.BoundedSemaphore(RESOLVING_MAX)

Resolve = Callable[[str, int], Sequence[str]]


class InvalidUrl(DomainError):
    """The URL cannot be told anything: it is https, on port 443 or 8443, and leads to a public address."""

    code, status = "R902", 422


class NotReachable(Exception):
    """There is no address to connect to, or one that may not be connected to. The text is shown to the merchant."""


class NotSent(Exception):
    """Nothing was sent, and that is no fault of the merchant's: a little later it may be."""


def check_url(url: str) -> SplitResult:
    """The URL's parts. Looks at the text only: a name is resolved when something is sent. Raises InvalidUrl."""
    if len(url) > URL_CHARACTERS_MAX or not URL.fullmatch(url):
        raise InvalidUrl(f"A URL has at most {URL_CHARACTERS_MAX} characters, of ASCII.", field="url")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidUrl("This is no URL.", field="url") from None
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise InvalidUrl("A URL here has neither a login nor a fragment.", field="url")
    if not HOST.fullmatch(host) or ".." in host:
        raise InvalidUrl("The URL's host is not valid.", field="url")
    if not settings.WEBHOOKS_ALLOW_LOCAL:
        _check_public(parts.scheme, host, port)
    elif parts.scheme not in ("https", "http"):
        raise InvalidUrl("A URL here begins with https:// or http://.", field="url")
    return parts


def _check_public(scheme: str, host: str, port: int | None) -> None:
    if scheme != "https":
        raise InvalidUrl("The URL begins with https://.", field="url")
    if (port or 443) not in PORTS:
        raise InvalidUrl("The URL's port is 443 or 8443.", field="url")
    number = _number(host)
    if number is not None and not is_public(number):
        raise InvalidUrl("The URL leads to a private address.", field="url")
    if number is None and "." not in host:
        raise InvalidUrl("The URL's host is no public name.", field="url")


def _number(host: str) -> str | None:
    """The address that a host is, in any form that a resolver takes for one: 127.1, 0x7f.1, 2130706433, 017700000001."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None


def is_public(address: str) -> bool:
    """Is it an address of the internet, and of nobody's own network, machine or cloud?"""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        # Mapped and translated IPv4 addresses lie outside of what is public here.
        return found in _PUBLIC_6 and not any(found in network for network in _NOT_PUBLIC_6)
    if found.is_multicast or found.is_reserved or any(found in network for network in _NOT_PUBLIC_4):
        return False
    return found.is_global


def _look_up(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def resolve(host: str, port: int, *, timeout_s: float = RESOLVE_S, look_up: Resolve = _look_up) -> list[str]:
    """The addresses of a host that may be connected to, at most ADDRESSES_MAX. See Note [Asked once].

    Raises NotReachable when there is none, when it takes too long, and when any of them is not public; NotSent when other
    names, whose servers hang, leave no room to ask for this one.
    """
    found = _in_time(host, port, min(timeout_s, RESOLVE_S), look_up)
    if not found:
        raise NotReachable("The name has no address.")
    if not settings.WEBHOOKS_ALLOW_LOCAL and not all(map(is_public, found)):
        raise NotReachable("The name leads to an address that is not public.")
    return list(found)[:ADDRESSES_MAX]


def _in_time(host: str, port: int, timeout_s: float, look_up: Resolve) -> Sequence[str]:
    """The system's resolver takes as long as it likes, so it is asked in a thread that may be left behind."""
    room, until = _resolving, time.monotonic() + timeout_s
    if not room.acquire(timeout=max(timeout_s, 0)):
        raise NotSent("Too many names are being looked up.")
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(look_up(host, port))
        except (OSError, UnicodeError) as error:
            answers.append(error)
        finally:
            room.release()

    thread = threading.Thread(target=ask, name="webhooks-resolver", daemon=True)
    thread.start()
    thread.join(max(until - time.monotonic(), 0))
    if not answers:
        raise NotReachable("The name was not resolved in time.")
    if isinstance(answers[0], Exception):
        raise NotReachable("The name was not found.")
    return list(answers[0])

"""Where a request comes from: the address that counts, whatever its sender says."""

import ipaddress
from functools import cache

from django.conf import settings
from django.http import HttpRequest

FORWARDED_MAX = 20  # addresses in X-Forwarded-For that are looked at, from the end: more proxies stand behind nobody
UNKNOWN = "unknown"  # of a connection that has none: a socket of the same machine
_HOME = 64  # bits of an IPv6 address that name a connection: the others are its owner's to change at will

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def caller_address(request: HttpRequest) -> str:
    """The caller's address, of IPv6 its network of 64 bits: what a limit may count by.

    It is whoever is connected to us. Only a proxy of ours (TRUSTED_PROXIES) is believed about another: the last address in
    X-Forwarded-For that is no proxy of ours. What stands before it the caller may have made up.
    """
    address = _read(request.META.get("REMOTE_ADDR", ""))
    if address is None:
        return UNKNOWN
    said = request.META.get("HTTP_X_FORWARDED_FOR", "").rsplit(",", FORWARDED_MAX)[-FORWARDED_MAX:]
    while said and _is_ours(address):
        before = _read(said.pop())
        if before is None:
            break
        address = before
    return _shown(address)


def _read(text: str) -> _Address | None:
    text = text.strip()[:60]
    if text.startswith("["):  # [2001:db8::1]:443
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:  # 192.0.2.1:443
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _shown(address: _Address) -> str:
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, _HOME), strict=False))


@cache
def _networks(texts: tuple[str, ...]) -> tuple[_Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


def _is_ours(address: _Address) -> bool:
    return any(address in network for network in _networks(tuple(settings.TRUSTED_PROXIES)))

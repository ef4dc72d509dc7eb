"""HTTP Basic for DRF: the account is the name, its secret the password."""

import base64
import binascii
from typing import TYPE_CHECKING, Any

from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from apps.common.addresses import caller_address
from apps.identity.credentials import Caller, authenticate

if TYPE_CHECKING:
    from drf_spectacular.openapi import AutoSchema

HEADER_CHARACTERS_MAX = 512  # account and secret take about 140 in base64


class AccountBasicAuthentication(BaseAuthentication):
    """Authenticate by ``Authorization: Basic base64(account:secret)``. Raises InvalidCredentials (401), TooManyRequests."""

    def authenticate(self, request: Request) -> tuple[Caller, None] | None:
        scheme, _, value = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        account_id, secret = _read(value.strip())
        address = caller_address(request._request)
        return authenticate(account_id=account_id, secret=secret, address=address, now=timezone.now()), None

    def authenticate_header(self, request: Request) -> str:
        return 'Basic realm="Lastro", charset="UTF-8"'


def _read(value: str) -> tuple[str, str]:
    """Account and secret; of what cannot be read, two texts that nobody has: it fails, and counts, as any wrong one."""
    if len(value) > HEADER_CHARACTERS_MAX:
        return "", ""
    try:
        account_id, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return account_id, secret


class AccountBasicScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # the library registers it
    """What the OpenAPI document says about it."""

    target_class = AccountBasicAuthentication
    name = "account"

    def get_security_definition(self, auto_schema: "AutoSchema") -> dict[str, Any]:
        return {
            "type": "http",
            "scheme": "basic",
            "description": "The account (acc_…) is the name, its secret the password.",
        }

"""The door of identity."""

from apps.identity.credentials import Caller, InvalidCredentials, MissingScope, require_scope
from apps.identity.limits import DEVICE_KNOWN
from apps.identity.limits import begin as begin_login
from apps.identity.limits import pass_over as login_passed_over
from apps.identity.limits import succeed as login_succeeded
from apps.identity.operations import (
    AccountExists,
    AccountView,
    InvalidAccount,
    IssuedSecret,
    TooManySecrets,
    UnknownAccount,
    UnknownSecret,
    account,
    create_account,
    issue_secret,
    revoke_secret,
    scopes_of,
)

__all__ = [
    "DEVICE_KNOWN",
    "AccountExists",
    "AccountView",
    "Caller",
    "InvalidAccount",
    "InvalidCredentials",
    "IssuedSecret",
    "MissingScope",
    "TooManySecrets",
    "UnknownAccount",
    "UnknownSecret",
    "account",
    "begin_login",
    "create_account",
    "issue_secret",
    "login_passed_over",
    "login_succeeded",
    "require_scope",
    "revoke_secret",
    "scopes_of",
]

"""The door of identity."""

from apps.identity.credentials import Caller, InvalidCredentials, MissingScope, require_scope
from apps.identity.operations import (
    AccountExists,
    AccountView,
    InvalidAccount,
    IssuedSecret,
    TooManySecrets,
    UnknownAccount,
    UnknownSecret,
    active_accounts,
    create_account,
    issue_secret,
    revoke_secret,
)

__all__ = [
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
    "active_accounts",
    "create_account",
    "issue_secret",
    "require_scope",
    "revoke_secret",
]

"""Whether an entry is well formed, and the fingerprint that recognises a repeat. Pure."""

import hashlib
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from uuid import UUID

from apps.common.errors import DomainError
from apps.ledger.rules import (
    CREDIT,
    DEBIT,
    DESCRIPTION_CHARACTERS_MAX,
    EVENT_CODE_MAX,
    GROUP_CHARACTERS_MAX,
    ZERO,
    AccountRef,
    CheckedLeg,
    Entry,
    Leg,
    MalformedEntry,
    UnbalancedEntry,
    amount_and_text,
    check_account,
    check_leg_count,
    check_text,
    details_text,
)


def _check_side_and_event(side: object, code: object) -> None:
    """Raises MalformedEntry unless a line may have this side and this event's code."""
    if side not in ("D", "C"):
        raise MalformedEntry("debitcredit is D or C.", field="debitcredit")
    if type(code) is not int or not 0 < code <= EVENT_CODE_MAX:
        raise MalformedEntry("eventcode is a whole number above zero.", field="eventcode")


def _check_leg(leg: Leg) -> tuple[CheckedLeg, str]:
    """The leg as checked, and as JSON written by hand: an encoder takes four times as long."""
    account, side, code, description, details = leg.account, leg.debitcredit, leg.eventcode, leg.description, leg.details
    try:
        place = _account_json(account)
    except TypeError:  # unhashable: a list, say
        raise MalformedEntry("account is not a valid key.", field="account") from None
    amount, amount_text = amount_and_text(leg.amount)
    _check_side_and_event(side, code)
    if description != "":
        check_text("description", description, DESCRIPTION_CHARACTERS_MAX)
    text = None if details is None else details_text(details)
    details_json = "null" if text is None else encode_basestring_ascii(text)
    body = f'[{place},"{amount_text}","{side}",{code},{encode_basestring_ascii(description)},{details_json}]'
    return tuple.__new__(CheckedLeg, (account, amount, side, code, description, text)), body


@lru_cache(maxsize=65_536)  # some 20 MB: the accounts of a busy hour
def _account_json(ref: AccountRef) -> str:
    """An account as JSON; its key needs no quoting. Raises MalformedEntry."""
    check_account(ref)
    branch, account, currency = ref
    return f'"{branch}","{account}","{currency}"'


def _check_balanced(legs: Sequence[CheckedLeg]) -> None:
    net: dict[str, Decimal] = {}
    for leg in legs:
        signed = leg.amount if leg.debitcredit == CREDIT else -leg.amount
        net[leg.account.currency] = net.get(leg.account.currency, ZERO) + signed
    for currency, difference in net.items():
        if difference:
            raise UnbalancedEntry(f"In {currency}, credits less debits are {difference}.", field="legs")


def _check_options(entry: Entry) -> None:
    if entry.group is not None:
        check_text("group", entry.group, GROUP_CHARACTERS_MAX)
    if entry.up_to and [leg.debitcredit for leg in entry.legs] != [DEBIT, CREDIT]:
        raise MalformedEntry("up_to is for a transfer: a debit, then a credit.", field="up_to")


def fingerprint(entry: Entry, *, also: UUID | None = None) -> tuple[bytes, list[CheckedLeg]]:
    """Check an entry's form; the hash of its body, and its legs as checked. Raises MalformedEntry or UnbalancedEntry.

    The dateref enters as it was given: a repeat after midnight that leaves it out is still the same request.
    """
    if not isinstance(entry.tracekey, UUID):
        raise MalformedEntry("tracekey is a UUID.", field="tracekey")
    if len(entry.legs) == 1:  # most are
        leg, inner = _check_leg(entry.legs[0])
        legs = [leg]
    else:
        check_leg_count(len(entry.legs))
        checked = [_check_leg(leg) for leg in entry.legs]
        legs, inner = [leg for leg, _ in checked], ",".join([body for _, body in checked])
        _check_balanced(legs)
    if entry.group is not None or entry.up_to:
        _check_options(entry)
    dateref = f'"{entry.dateref.isoformat()}"' if entry.dateref else "null"
    mark = "null" if also is None else f'"{also}"'
    option = ',"up_to"' if entry.up_to else ""
    return hashlib.sha256(f"[{dateref},[{inner}],{mark}{option}]".encode()).digest(), legs


def check_form(entry: Entry) -> None:
    """Raises MalformedEntry or UnbalancedEntry for an entry that the engine would refuse whatever the accounts hold."""
    fingerprint(entry)


class LineForms:
    """``fingerprint`` for the lines of one batch: what many of them have in common is checked and written once."""

    def __init__(self) -> None:
        self._days: dict[date | None, str] = {}
        self._places: dict[AccountRef, str] = {}
        self._rests: dict[tuple[str, int, str], str] = {}

    def of(self, entry: Entry) -> tuple[bytes, tuple[CheckedLeg]] | None:
        """The hash and the leg of an entry of one line. None: it is another one, or malformed; ``fingerprint`` tells."""
        legs = entry.legs
        if len(legs) != 1 or entry.group is not None or entry.up_to or entry.tracekey.__class__ is not UUID:
            return None
        leg = legs[0]
        ref, side, code, description, details = leg.account, leg.debitcredit, leg.eventcode, leg.description, leg.details
        try:
            place = self._places.get(ref) or self._add_place(ref)
            # True is equal to 1, and must not find what stands for it.
            key = (side, code, description)
            rest = self._rests.get(key) or self._add_rest(*key)
            text = None if details is None else details_text(details)
            amount, amount_text = amount_and_text(leg.amount)
        except (TypeError, DomainError):
            return None
        if code.__class__ is not int:
            return None
        day = self._days.get(entry.dateref) or self._add_day(entry.dateref)
        own = "null" if text is None else encode_basestring_ascii(text)
        digest = hashlib.sha256(f'[{day},[[{place},"{amount_text}",{rest},{own}]],null]'.encode()).digest()
        return digest, (tuple.__new__(CheckedLeg, (ref, amount, side, code, description, text)),)

    def _add_place(self, ref: AccountRef) -> str:
        place = self._places[ref] = _account_json(ref)
        return place

    def _add_rest(self, side: str, code: int, description: str) -> str:
        _check_side_and_event(side, code)
        check_text("description", description, DESCRIPTION_CHARACTERS_MAX)
        rest = self._rests[side, code, description] = f'"{side}",{code},{encode_basestring_ascii(description)}'
        return rest

    def _add_day(self, dateref: date | None) -> str:
        day = self._days[dateref] = f'"{dateref.isoformat()}"' if dateref else "null"
        return day

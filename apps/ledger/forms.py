"""The forms of a large batch's lines, checked and fingerprinted together. Pure."""

import hashlib
from datetime import date
from decimal import Decimal
from json.encoder import encode_basestring_ascii
from uuid import UUID

from apps.common.errors import DomainError
from apps.common.money import AMOUNT_MAX
from apps.ledger.rules import (
    DESCRIPTION_CHARACTERS_MAX,
    ZERO,
    AccountRef,
    CheckedLeg,
    Entry,
    account_json,
    check_amount,
    check_side_and_event,
    check_text,
    details_text,
)


class LineForms:
    """``fingerprint`` for the lines of one batch: what many of them have in common is checked and written once."""

    def __init__(self) -> None:
        self._days: dict[date | None, str] = {None: "null"}
        self._places: dict[AccountRef, str] = {}
        self._rests: dict[tuple[str, int, str], str] = {}

    def of(self, entry: Entry) -> tuple[bytes, tuple[CheckedLeg]] | None:
        """The hash and the leg of an entry of one line. None: it is another one, or malformed; ``fingerprint`` tells."""
        legs = entry.legs
        if len(legs) != 1 or entry.group is not None or entry.up_to or entry.tracekey.__class__ is not UUID:
            return None
        leg = legs[0]
        ref, amount, side, code, description = leg.account, leg.amount, leg.debitcredit, leg.eventcode, leg.description
        details = leg.details
        try:
            place = self._places.get(ref) or self._add_place(ref)
            # True is equal to 1, and must not find what stands for it.
            key = (side, code, description)
            rest = self._rests.get(key) or self._add_rest(*key)
            text = None if details is None else details_text(details)
            amount_text = str(amount)
            if amount.__class__ is not Decimal or amount_text[-3:-2] != "." or not ZERO < amount <= AMOUNT_MAX:
                amount = check_amount(amount)
                amount_text = str(amount)
        except (TypeError, DomainError):
            return None
        if code.__class__ is not int:
            return None
        day = self._days.get(entry.dateref) or self._add_day(entry.dateref)
        own = "null" if text is None else encode_basestring_ascii(text)
        digest = hashlib.sha256(f'[{day},[[{place},"{amount_text}",{rest},{own}]],null]'.encode()).digest()
        return digest, (tuple.__new__(CheckedLeg, (ref, amount, side, code, description, text)),)

    def _add_place(self, ref: AccountRef) -> str:
        place = self._places[ref] = account_json(ref)
        return place

    def _add_rest(self, side: str, code: int, description: str) -> str:
        check_side_and_event(side, code)
        check_text("description", description, DESCRIPTION_CHARACTERS_MAX)
        rest = self._rests[side, code, description] = f'"{side}",{code},{encode_basestring_ascii(description)}'
        return rest

    def _add_day(self, dateref: date | None) -> str:
        assert dateref is not None  # noqa: S101  # None is there
        day = self._days[dateref] = f'"{dateref.isoformat()}"'
        return day

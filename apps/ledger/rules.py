"""Pure rules and values: what an entry is, whether it is well formed, and the fingerprint that recognises a repeat."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple
from uuid import UUID

from apps.common.errors import DomainError
from apps.common.money import CURRENCY, exact_cents

# How far back a dateref may lie, in days (Flow: "exemplo 7 dias"). It bounds the day rows that one posting can shift.
BACKDATE_DAYS_MAX = 7
# Lines in one batch: its fold is held in memory and its locks are held for its whole length (about 0.3 s at the limit).
BATCH_LINES_MAX = 10_000
# Legs of one entry: a sale split among many receivers is tens; hundreds are several entries.
ENTRY_LEGS_MAX = 100
DESCRIPTION_CHARACTERS_MAX = 255  # one line of a statement
DETAILS_BYTES_MAX = 16 * 1024  # details belong to the origin; documents belong elsewhere
HOLD_KEY_CHARACTERS_MAX = 200  # a saga's step key is under a hundred
EVENT_CODE_MAX = 2**31 - 1  # int4
SUM_DIGITS_MAX = 20  # an amount is numeric(15,2) as in Flow; sums of a lifetime are given five digits more
SUM_MAX = Decimal(10) ** (SUM_DIGITS_MAX - 2) - Decimal("0.01")

BRANCH_PATTERN = r"^[0-9A-Za-z][0-9A-Za-z-]{0,19}$"
ACCOUNT_PATTERN = r"^[0-9A-Za-z][0-9A-Za-z-]{0,39}$"  # a UUID fits
CURRENCY_PATTERN = r"^[A-Z]{3}$"

Side = Literal["D", "C"]
ZERO = Decimal("0.00")


class MalformedEntry(DomainError):
    """The posting is malformed."""

    code, status = "R110", 422


class UnbalancedEntry(DomainError):
    """The entry's debits and credits differ."""

    code, status = "R111", 422


class BatchTooLarge(DomainError):
    """The batch holds too many lines."""

    code, status = "R112", 422


class DateRefused(DomainError):
    """The reference date is in the future, or too far back."""

    code = "R109"


class AccountRef(NamedTuple):
    """Which account: branch, account (both text) and currency."""

    branch: str
    account: str
    currency: str = CURRENCY


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One line to post: ``amount`` > 0 with two places, ``debitcredit`` D (takes from the balance) or C (adds to it)."""

    account: AccountRef
    amount: Decimal
    debitcredit: Side
    eventcode: int
    description: str = ""
    details: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one tracekey posts, all or nothing: one line (as in Flow), or several whose debits equal their credits.

    ``dateref`` None is the business day of the moment of posting.
    """

    tracekey: UUID
    legs: tuple[Leg, ...]
    dateref: date | None = None

    @classmethod
    def line(
        cls,
        *,
        tracekey: UUID,
        account: AccountRef,
        amount: Decimal,
        debitcredit: Side,
        eventcode: int,
        description: str = "",
        details: Mapping[str, Any] | None = None,
        dateref: date | None = None,
    ) -> "Entry":
        """A single line."""
        leg = Leg(
            account=account,
            amount=amount,
            debitcredit=debitcredit,
            eventcode=eventcode,
            description=description,
            details=details,
        )
        return cls(tracekey=tracekey, legs=(leg,), dateref=dateref)

    @classmethod
    def transfer(
        cls,
        *,
        tracekey: UUID,
        debit: AccountRef,
        credit: AccountRef,
        amount: Decimal,
        eventcode: int,
        description: str = "",
        details: Mapping[str, Any] | None = None,
        dateref: date | None = None,
    ) -> "Entry":
        """Two balanced legs: out of ``debit``, into ``credit``. The event must allow both sides."""
        legs = tuple(
            Leg(
                account=account,
                amount=amount,
                debitcredit=side,
                eventcode=eventcode,
                description=description,
                details=details,
            )
            for account, side in ((debit, DEBIT), (credit, CREDIT))
        )
        return cls(tracekey=tracekey, legs=legs, dateref=dateref)


DEBIT: Side = "D"
CREDIT: Side = "C"


@dataclass(frozen=True, slots=True)
class Balances:
    """An account right after something happened to it. ``available`` = posted − pending; ``day``: at the end of dateref."""

    posted: Decimal
    pending: Decimal
    available: Decimal
    day: Decimal | None = None


@dataclass(frozen=True, slots=True)
class PostedLine:
    """A line that was written."""

    id: UUID
    account: AccountRef
    debitcredit: Side
    amount: Decimal
    eventcode: int
    dateref: date
    balances: Balances


@dataclass(frozen=True, slots=True)
class PostResult:
    """An entry that was posted. ``replayed``: it had been posted before, and this is what was answered then."""

    tracekey: UUID
    lines: tuple[PostedLine, ...]
    replayed: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class EntryResult:
    """What became of one entry of a batch: a posting or a refusal, never both."""

    tracekey: UUID
    posting: PostResult | None = None
    refusal: DomainError | None = None

    @property
    def status(self) -> Literal["POSTED", "REFUSED"]:
        return "REFUSED" if self.refusal else "POSTED"

    @property
    def code(self) -> str | None:
        """The refusal's code, R1xx."""
        return self.refusal.code if self.refusal else None


_is_branch = re.compile(BRANCH_PATTERN).fullmatch
_is_account = re.compile(ACCOUNT_PATTERN).fullmatch
_is_currency = re.compile(CURRENCY_PATTERN).fullmatch


def check_account(ref: AccountRef) -> None:
    """Raises MalformedEntry unless the three texts could name an account."""
    for name, value, matches in (
        ("branch", ref.branch, _is_branch),
        ("account", ref.account, _is_account),
        ("currency", ref.currency, _is_currency),
    ):
        # fullmatch, because "$" lets a trailing line feed through.
        if not isinstance(value, str) or not matches(value):
            raise MalformedEntry(f"{name} is not a valid key.", field=name)


def check_amount(amount: object) -> Decimal:
    """The amount with two places. Raises MalformedEntry for zero, negatives, fractions of a cent, floats and NaN."""
    if not isinstance(amount, Decimal) or not amount.is_finite() or amount <= 0:
        raise MalformedEntry("amount is a decimal above zero.", field="amount")
    try:
        return exact_cents(amount)
    except ValueError:
        raise MalformedEntry("amount has at most two decimal places and 13 digits before them.", field="amount") from None


def check_text(name: str, value: str, characters_max: int) -> None:
    """Raises MalformedEntry for a text that is too long or that PostgreSQL can't store (NUL, half a surrogate pair)."""
    if not isinstance(value, str) or len(value) > characters_max:
        raise MalformedEntry(f"{name} is a text of at most {characters_max} characters.", field=name)
    if not value.isascii() or "\x00" in value:
        try:
            storable = "\x00" not in value and bool(value.encode())
        except UnicodeEncodeError:
            storable = False
        if not storable:
            raise MalformedEntry(f"{name} holds a character that can't be stored.", field=name)


def details_text(details: Mapping[str, Any] | None) -> str | None:
    """The details as canonical JSON; decimals become texts. Raises MalformedEntry when they are too large or no JSON."""
    if details is None:
        return None
    try:
        if not isinstance(details, Mapping):
            raise TypeError
        text = json.dumps(dict(details), allow_nan=False, ensure_ascii=False, sort_keys=True, default=_plain)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError):
        raise MalformedEntry("details is not a JSON object.", field="details") from None
    if "\\u0000" in text:
        raise MalformedEntry("details holds a character that can't be stored.", field="details")
    if size > DETAILS_BYTES_MAX:
        raise MalformedEntry(f"details is larger than {DETAILS_BYTES_MAX} bytes.", field="details")
    return text


def _plain(value: object) -> str:
    if isinstance(value, Decimal | UUID | date):
        return str(value)
    raise TypeError


def _check_leg(leg: Leg) -> tuple[object, ...]:
    """Check one leg and give its canonical form."""
    check_account(leg.account)
    amount = check_amount(leg.amount)
    if leg.debitcredit not in ("D", "C"):
        raise MalformedEntry("debitcredit is D or C.", field="debitcredit")
    if type(leg.eventcode) is not int or not 0 < leg.eventcode <= EVENT_CODE_MAX:
        raise MalformedEntry("eventcode is a whole number above zero.", field="eventcode")
    check_text("description", leg.description, DESCRIPTION_CHARACTERS_MAX)
    return (*leg.account, str(amount), leg.debitcredit, leg.eventcode, leg.description, details_text(leg.details))


_BODY = json.JSONEncoder(separators=(",", ":"))  # json.dumps would make one for each entry


def _check_balanced(entry: Entry) -> None:
    net: dict[str, Decimal] = {}
    for leg in entry.legs:
        signed = leg.amount if leg.debitcredit == CREDIT else -leg.amount
        net[leg.account.currency] = net.get(leg.account.currency, ZERO) + signed
    for currency, difference in net.items():
        if difference:
            raise UnbalancedEntry(f"In {currency}, credits less debits are {difference}.", field="legs")


def check_leg_count(count: int) -> None:
    """Raises MalformedEntry unless an entry may have so many legs."""
    if not 1 <= count <= ENTRY_LEGS_MAX:
        raise MalformedEntry(f"An entry has 1 to {ENTRY_LEGS_MAX} legs.", field="legs")


def fingerprint(entry: Entry, *, also: UUID | None = None) -> bytes:
    """Check an entry's form and give the hash of its body. Raises MalformedEntry or UnbalancedEntry.

    The dateref enters as it was given: a repeat after midnight that leaves it out is still the same request.
    """
    if not isinstance(entry.tracekey, UUID):
        raise MalformedEntry("tracekey is a UUID.", field="tracekey")
    check_leg_count(len(entry.legs))
    legs = [_check_leg(leg) for leg in entry.legs]
    if len(legs) > 1:
        _check_balanced(entry)
    dateref = entry.dateref.isoformat() if entry.dateref else None
    body = _BODY.encode([dateref, legs, str(also) if also else None])
    return hashlib.sha256(body.encode()).digest()


def check_form(entry: Entry) -> None:
    """Raises MalformedEntry or UnbalancedEntry for an entry that the engine would refuse whatever the accounts hold."""
    fingerprint(entry)


def is_in_window(dateref: date, *, today: date) -> bool:
    """May a line be dated so: today, or at most BACKDATE_DAYS_MAX days before it?"""
    return today - timedelta(days=BACKDATE_DAYS_MAX) <= dateref <= today


def check_dateref(dateref: date, *, today: date) -> None:
    """Raises DateRefused for the future, and for more than BACKDATE_DAYS_MAX days before ``today``."""
    if is_in_window(dateref, today=today):
        return
    if dateref > today:
        raise DateRefused(f"{dateref} lies in the future: today is {today}.", field="dateref")
    raise DateRefused(f"{dateref} is more than {BACKDATE_DAYS_MAX} days before {today}.", field="dateref")

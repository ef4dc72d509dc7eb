"""Pure rules and values: what an entry is, and what its parts may be. Whether a whole one is well formed: ``forms``."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple
from uuid import UUID

from django.conf import settings

from apps.common.errors import DomainError, MalformedJson
from apps.common.json_text import has_nul, strict_json
from apps.common.money import AMOUNT_MAX, CURRENCY, exact_cents

# How far back a dateref may lie, in days (Flow: "exemplo 7 dias"). It bounds the day rows that one posting can shift.
BACKDATE_DAYS_MAX: int = settings.LEDGER_BACKDATE_DAYS_MAX
# Lines in one batch: its fold is held in memory and its locks are held for its whole length (about 0.3 s at the limit).
BATCH_LINES_MAX = 10_000
# Legs of one entry: a sale split among many receivers is tens; hundreds are several entries.
ENTRY_LEGS_MAX = 100
GROUP_CHARACTERS_MAX = 64  # a UUID, or a name within its batch
BATCH_KEY_CHARACTERS_MAX = 200  # as a hold's key; the account that sent it stands before it
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

    ``dateref`` None is the business day of the moment of posting. ``group``: entries of a batch that stand next to each
    other with the same group are linked: all are posted, or none. ``up_to``: the legs' amount is the most; what is posted
    is what the first leg's account has available, on every day from dateref on, without its credit limit.
    """

    tracekey: UUID
    legs: tuple[Leg, ...]
    dateref: date | None = None
    group: str | None = None
    up_to: bool = False

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


# Answers are named tuples: a batch makes four of them for each line, and a frozen dataclass takes four times as long.
class Balances(NamedTuple):
    """An account right after something happened to it. ``available`` = posted − pending; ``day``: at the end of dateref."""

    posted: Decimal
    pending: Decimal
    available: Decimal
    day: Decimal | None = None


class PostedLine(NamedTuple):
    """A line that was written. ``balances`` None: its account is deferred, so nobody knows yet."""

    id: UUID
    account: AccountRef
    debitcredit: Side
    amount: Decimal
    eventcode: int
    dateref: date
    balances: Balances | None


class PostResult(NamedTuple):
    """An entry that was posted. ``replayed``: it had been posted before, and this is what was answered then.

    A repeat's answer equals the first one.
    """

    tracekey: UUID
    lines: tuple[PostedLine, ...]
    replayed: bool = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PostResult) and self[:2] == other[:2]

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self[:2])


class EntryResult(NamedTuple):
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


def amount_and_text(amount: Decimal) -> tuple[Decimal, str]:
    """The amount with two places, and as text. Raises MalformedEntry as ``check_amount``."""
    text = str(amount)  # as it should be: two places, above zero; everything else is looked at more closely
    if amount.__class__ is not Decimal or text[-3:-2] != "." or not ZERO < amount <= AMOUNT_MAX:
        text = str(amount := check_amount(amount))
    return amount, text


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


def _plain(value: object) -> str:
    if isinstance(value, Decimal | UUID | date):
        return str(value)
    raise TypeError


# json.dumps would make one for each text.
_DETAILS = json.JSONEncoder(allow_nan=False, ensure_ascii=False, sort_keys=True, default=_plain)


def details_text(details: Mapping[str, Any] | None) -> str | None:
    """The details as canonical JSON; decimals become texts. Raises MalformedEntry when they are too large or no JSON."""
    if details is None:
        return None
    try:
        if not isinstance(details, Mapping):
            raise TypeError
        text = _DETAILS.encode(dict(details))
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError):
        raise MalformedEntry("details is not a JSON object.", field="details") from None
    if "\\u0000" in text and has_nul(text):
        raise MalformedEntry("details holds a character that can't be stored.", field="details")
    if size > DETAILS_BYTES_MAX:
        raise MalformedEntry(f"details is larger than {DETAILS_BYTES_MAX} bytes.", field="details")
    return text


def read_details(text: str) -> dict[str, Any]:
    """Details that came as text, read as the API reads them, so that one entry has one fingerprint on either way.

    Raises MalformedEntry.
    """
    try:
        value = strict_json(text.encode())
    except (MalformedJson, ValueError):
        raise MalformedEntry("details is not a JSON object that can be kept.", field="details") from None
    if not isinstance(value, dict):
        raise MalformedEntry("details is not a JSON object.", field="details")
    return value


class CheckedLeg(NamedTuple):
    """A leg whose form is right: its amount has two places, its details are canonical JSON."""

    account: AccountRef
    amount: Decimal
    debitcredit: Side
    eventcode: int
    description: str
    details: str | None


def check_leg_count(count: int) -> None:
    """Raises MalformedEntry unless an entry may have so many legs."""
    if not 1 <= count <= ENTRY_LEGS_MAX:
        raise MalformedEntry(f"An entry has 1 to {ENTRY_LEGS_MAX} legs.", field="legs")


def first_day(today: date) -> date:
    """The earliest day that a line may be dated: BACKDATE_DAYS_MAX days before today."""
    return today - timedelta(days=BACKDATE_DAYS_MAX)


def is_in_window(dateref: date, *, today: date) -> bool:
    """May a line be dated so: today, or at most BACKDATE_DAYS_MAX days before it?"""
    return first_day(today) <= dateref <= today


def check_dateref(dateref: date, *, today: date) -> None:
    """Raises DateRefused for the future, and for more than BACKDATE_DAYS_MAX days before ``today``."""
    if is_in_window(dateref, today=today):
        return
    if dateref > today:
        raise DateRefused(f"{dateref} lies in the future: today is {today}.", field="dateref")
    raise DateRefused(f"{dateref} is more than {BACKDATE_DAYS_MAX} days before {today}.", field="dateref")

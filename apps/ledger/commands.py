"""What goes through the engine: an entry as a command, and the rows that it needs and makes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from apps.common.errors import DomainError
from apps.ledger.forms import LineForms, fingerprint
from apps.ledger.rules import AccountRef, CheckedLeg, Entry, EntryResult, PostedLine, PostResult


@dataclass(frozen=True, slots=True)
class EventRule:
    """What an event allows."""

    active: bool
    allow_debit: bool
    allow_credit: bool


@dataclass(slots=True)
class HeldRow:
    """A hold as it stands behind its account's lock."""

    id: UUID
    status: str
    amount: Decimal
    dateref: date
    expires_at: datetime | None


class Suspended(NamedTuple):
    """A suspension that nobody has lifted, as a writer reads it."""

    id: UUID
    branch: str | None
    account: str | None
    currency: str | None
    mode: str
    until: datetime

    def covers(self, ref: AccountRef) -> bool:
        """Does it speak of this account?"""
        if self.branch is None:
            return True
        return self.branch == ref.branch and self.account in (None, ref.account) and self.currency in (None, ref.currency)


class NewLine(NamedTuple):
    """A line to write, with what its answer says."""

    posted: PostedLine
    tracekey: UUID
    description: str
    details: str | None
    balanced: bool
    day_net: Decimal
    deferred: bool = False


@dataclass(slots=True)
class Command:
    """An entry on its way through the engine."""

    entry: Entry
    dateref: date
    body_hash: bytes = b""  # none yet: nobody has checked the form
    legs: Sequence[CheckedLeg] = ()
    reverses: UUID | None = None  # the entry takes this one back; events then don't mind the side
    hold_id: UUID | None = None  # the first leg's account lets go of this hold
    refusal: DomainError | None = None
    posting: PostResult | None = None
    is_line: bool = False  # well formed, one leg, and nothing else to look at

    @property
    def tracekey(self) -> UUID:
        return self.entry.tracekey

    @property
    def key(self) -> int:
        """The tracekey as a number, which is a much faster key of a dict."""
        return self.entry.tracekey.int

    @property
    def concerns(self) -> UUID | None:
        """What it takes back, or which hold it ends: then it comes alone, and that is part of its body."""
        return self.reverses or self.hold_id

    def check_form(self) -> bool:
        """Is the entry well formed? Otherwise it carries its refusal from here on. May be called again.

        What an entry takes back, or which hold it ends, is part of its body: the same legs alone are no repeat of it.
        """
        if not self.body_hash and self.refusal is None:
            try:
                self.body_hash, self.legs = fingerprint(self.entry, also=self.concerns)
            except DomainError as refusal:
                self.refusal = refusal
        return self.refusal is None


def results_of(commands: Iterable[Command]) -> list[EntryResult]:
    """What became of each."""
    make = tuple.__new__  # a named tuple without the detour over its own constructor
    return [make(EntryResult, (command.entry.tracekey, command.posting, command.refusal)) for command in commands]


def check_forms(commands: Iterable[Command], forms: LineForms | None = None) -> None:
    """As ``check_form`` of each. Lines of a batch have much in common, so most texts are made once."""
    fingerprint_of = (forms or LineForms()).of
    for command in commands:
        if command.body_hash or command.refusal is not None:
            continue
        line = None if command.concerns else fingerprint_of(command.entry)
        if line is None:
            command.check_form()
        else:
            command.body_hash, command.legs = line
            command.is_line = True

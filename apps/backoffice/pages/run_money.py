"""The money of a run: its holds and its posted lines, told from the keys that its steps left behind."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from apps.backoffice.components.links import list_link
from apps.common.doors import address
from apps.ledger import public as ledger
from apps.saga.public import RunState

KEYS_MAX = 10  # a run holds and posts once or twice; each key is one query


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyLine:
    """A hold, or a posted line. ``debit`` and ``credit``: one of them, none of a hold. ``state``: of a hold.

    ``href``: the page of the account; ``entry``: of the entry, or the row of the hold.
    """

    what: str
    account: str
    held: Decimal | None = None
    debit: Decimal | None = None
    credit: Decimal | None = None
    at: datetime | None = None
    state: str = ""
    href: str = ""
    entry: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """All of it, and a word for the head of its card."""

    lines: tuple[MoneyLine, ...]
    says: str


def outputs_of(run: RunState, name: str) -> list[str]:
    """What the steps left behind under this name."""
    return [str(step.output[name]) for step in run.steps if step.output.get(name)]


def as_uuid(text: str) -> UUID | None:
    """The UUID that a text is, if it is one."""
    try:
        return UUID(text)
    except ValueError:
        return None


def money_of(run: RunState) -> Money:
    """The money of a run."""
    holds = [hold for key in outputs_of(run, "hold_key")[:KEYS_MAX] if (hold := ledger.hold_by_key(key)) is not None]
    keys = [key for text in outputs_of(run, "tracekey")[:KEYS_MAX] if (key := as_uuid(text)) is not None]
    try:
        posted = [line for key in keys for line in ledger.transactions_by_tracekey(key)]
    except ledger.MonthArchived:  # a run that is older than the months that the ledger keeps at hand
        return Money(lines=tuple(map(_hold, holds)), says="its lines are in the ledger's archive")
    return Money(lines=(*map(_hold, holds), *map(_posted, posted)), says=_says(holds, posted))


def _hold(hold: ledger.HoldView) -> MoneyLine:
    account = f"{hold.account.branch} · {hold.account.account}" if hold.account is not None else "never placed"
    return MoneyLine(
        what="Hold",
        account=account,
        held=hold.amount,
        at=hold.created_at,
        state=hold.status,
        href=address("backoffice_account", *hold.account) if hold.account is not None else "",
        entry=list_link("ledger_hold", q=hold.key),
    )


def _posted(line: ledger.TransactionLine) -> MoneyLine:
    debit = line.debitcredit == "D"
    return MoneyLine(
        what=line.description or "Posting",
        account=f"{line.account.branch} · {line.account.account}",
        debit=line.amount if debit else None,
        credit=None if debit else line.amount,
        at=line.created_at,
        href=address("backoffice_account", *line.account),
        entry=address("backoffice_entry", line.tracekey),
    )


def _says(holds: list[ledger.HoldView], posted: list[ledger.TransactionLine]) -> str:
    if posted:
        balanced = sum((line.amount if line.debitcredit == "D" else -line.amount for line in posted), Decimal(0)) == 0
        return "debits and credits agree" if balanced else "debits and credits differ"
    if any(hold.status == "OPEN" for hold in holds):
        return "a hold, nothing posted"
    return "nothing held, nothing posted" if holds else ""

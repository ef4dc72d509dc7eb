"""Batches of requests for the ledger, good and bad, and what must become of each: for processes that die over them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

from django.db import connection, transaction

from apps.common.clock import business_date
from apps.ledger import public as ledger
from apps.ledger.public import AccountRef
from apps.messaging.contracts.ledger import POSTING_EVENT, POSTING_IN, PostingRequested
from apps.messaging.envelope import encode
from apps.messaging.transports.base import OutgoingRecord

BRANCH = "9001"
A, B, C, FEES = (AccountRef(BRANCH, name) for name in ("A", "B", "C", "FEES"))  # FEES is deferred
ACCOUNTS = (A, B, C, FEES)
EVENT = 9001
KEY = "/".join(A)  # of all requests: they share a partition, and so a batch
ERROR = POSTING_IN.removesuffix(".in") + ".error"
ANSWERS = POSTING_EVENT
ANSWERED_BY_ERROR = "buried"
POISON = "poison"
TRANSFERS = 100  # so many that the engine writes by COPY
_NAMES = UUID(int=9001)


@dataclass(frozen=True)
class Asked:
    """One request: its tracekey, what is sent, what must become of it, and what it then moves."""

    tracekey: UUID
    record: OutgoingRecord
    outcome: str
    moves: tuple[tuple[AccountRef, Decimal], ...] = ()


def open_bank(now: datetime) -> None:
    """The branch, its accounts and its event."""
    with transaction.atomic():
        ledger.open_branch(branch=BRANCH, now=now)
        ledger.ensure_event(code=EVENT, description="kill", now=now)
        for ref, floor in ((A, Decimal(0)), (B, Decimal(0)), (C, None)):
            ledger.open_account(branch=BRANCH, account=ref.account, min_balance=floor, now=now)
        ledger.open_account(branch=BRANCH, account=FEES.account, min_balance=None, deferred=True, now=now)


def break_for_poison() -> None:
    """The database refuses lines of one description, as a bug or a full disk might."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE OR REPLACE FUNCTION refuse_poison() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN IF NEW.description = '{POISON}' THEN RAISE 'the disk says no'; END IF; RETURN NEW; END $$;"
            "CREATE OR REPLACE TRIGGER refuse_poison BEFORE INSERT ON ledger_transaction "
            "FOR EACH ROW EXECUTE FUNCTION refuse_poison();"
        )


def mend() -> None:
    """Undo ``break_for_poison``."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DROP TRIGGER IF EXISTS refuse_poison ON ledger_transaction; DROP FUNCTION IF EXISTS refuse_poison()"
        )


class Batch:
    """The requests of one process's death, made from its name: whoever names it finds the same ones."""

    def __init__(self, name: str, *, today: date) -> None:
        self._name, self._today = name, today
        self.asked: list[Asked] = []

    def add(self, outcome: str, *moves: tuple[AccountRef, str], back: int = 0, **changes: Any) -> None:
        """One more request, whose moves are its legs unless ``changes`` says otherwise."""
        tracekey = uuid5(_NAMES, f"{self._name}/{len(self.asked)}")
        legs = [
            {
                "branch": ref.branch,
                "account": ref.account,
                "currency": ref.currency,
                "amount": amount.lstrip("-"),
                "debitcredit": "D" if amount.startswith("-") else "C",
                "eventcode": EVENT,
                "description": changes.get("description", ""),
                "details": None,
            }
            for ref, amount in moves
        ]
        body = {
            "tracekey": str(tracekey),
            "dateref": (self._today - timedelta(days=back)).isoformat(),
            "legs": changes.get("legs", legs),
        }
        meta = {"message-id": str(uuid5(tracekey, "message")), "schema": PostingRequested.schema}
        value = changes.get("value", encode(meta, body))
        moved = tuple((ref, Decimal(amount)) for ref, amount in moves) if outcome == "POSTED" else ()
        self.asked.append(Asked(tracekey, OutgoingRecord(POSTING_IN, KEY, value), outcome, moved))


def large(name: str, *, today: date) -> list[Asked]:
    """More than a hundred, back-dated, of every way to be refused, with two that cannot even be read among them."""
    batch = Batch(name, today=today)
    batch.add("POSTED", (A, "1000.00"), back=3)
    for n in range(TRANSFERS):
        batch.add("POSTED", (A, "-1.00"), (B, "1.00"), back=n % 4)
    batch.add("R103", (A, "-1000000.00"))
    batch.add("R110", (A, "0.00"))
    batch.add("POSTED", (B, "-1.00"), (FEES, "1.00"))
    batch.add(ANSWERED_BY_ERROR, legs=[{"branch": BRANCH}])
    batch.add("POSTED", (C, "-7.77"))
    batch.add(ANSWERED_BY_ERROR, value=f"no envelope: {name}".encode())
    batch.add("POSTED", (A, "-5.00"), back=2)
    return batch.asked


def small(name: str, *, today: date) -> list[Asked]:
    """One to post, one to refuse, one that cannot be read, and one behind it."""
    batch = Batch(name, today=today)
    batch.add("POSTED", (A, "10.00"), back=3)
    batch.add("R103", (A, "-1000000.00"))
    batch.add(ANSWERED_BY_ERROR, value=f"no envelope: {name}".encode())
    batch.add("POSTED", (A, "-5.00"), (B, "5.00"), back=2)
    return batch.asked


def breaking(name: str, *, today: date) -> list[Asked]:
    """Few, of which one breaks our code: they are taken apart, and what comes after it waits for its last attempt."""
    batch = Batch(name, today=today)
    batch.add("POSTED", (A, "10.00"), back=3)
    batch.add(ANSWERED_BY_ERROR, (A, "1.00"), description=POISON)
    batch.add("POSTED", (A, "-4.00"), (B, "4.00"), back=1)
    batch.add("R103", (A, "-1000000.00"))
    return batch.asked


BATCHES = {"small": small, "large": large, "breaking": breaking}


def all_of(kind: str, names: list[str], *, now: datetime) -> Iterator[tuple[str, list[Asked]]]:
    """The batches of these names, with their names."""
    for name in names:
        yield name, BATCHES[kind](f"{kind}/{name}", today=business_date(now))

"""A small bank: one branch, accounts with and without a floor, events for both sides and for one."""

import time
from datetime import UTC, datetime
from decimal import Decimal
from threading import Event
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.utils import timezone

from apps.common.clock import uuid7
from apps.ledger import public as ledger
from apps.ledger.public import AccountRef, Entry, Leg
from tests.again import again

NOW = datetime(2026, 3, 18, 15, 0, tzinfo=UTC)  # noon of a Wednesday in São Paulo
TODAY = NOW.date()

ANY, CREDIT_ONLY, INACTIVE = 1, 2, 3
ANA = AccountRef("0001", "000000001")  # floor 0
BOB = AccountRef("0001", "000000002")  # floor 0
LIMITED = AccountRef("0001", "LIMITED")  # credit limit of 100
CLEARING = AccountRef("0001", "CLEARING")  # no floor


def open_todays_bank() -> None:
    """The same bank, opened some minutes ago: what reads the clock by itself comes to it."""
    again("bank of today", lambda: open_bank(timezone.now()))


def money(text: str | int) -> Decimal:
    return Decimal(text).quantize(Decimal("0.01"))


def open_bank(now: datetime = NOW) -> None:
    with transaction.atomic():
        ledger.open_branch(branch="0001", now=now)
        for ref, floor in ((ANA, money(0)), (BOB, money(0)), (LIMITED, money(-100)), (CLEARING, None)):
            ledger.open_account(branch=ref.branch, account=ref.account, min_balance=floor, now=now)
        ledger.ensure_event(code=ANY, description="anything", now=now)
        ledger.ensure_event(code=CREDIT_ONLY, description="credits", allow_debit=False, now=now)
        ledger.ensure_event(code=INACTIVE, description="gone", now=now)
    from apps.ledger import models

    models.Event.objects.filter(code=INACTIVE).update(active=False)


def line(account: AccountRef, side: str, amount: str | int, *, tracekey: UUID | None = None, **options: object) -> Entry:
    values = {"eventcode": ANY, **options}
    return Entry.line(tracekey=tracekey or uuid7(), account=account, amount=money(amount), debitcredit=side, **values)


def move(
    debit: AccountRef, credit: AccountRef, amount: str | int, *, tracekey: UUID | None = None, **options: object
) -> Entry:
    values = {"eventcode": ANY, **options}
    return Entry.transfer(tracekey=tracekey or uuid7(), debit=debit, credit=credit, amount=money(amount), **values)


def leg(account: AccountRef, side: str, amount: str | int) -> Leg:
    return Leg(account=account, amount=money(amount), debitcredit=side, eventcode=ANY)


def post(entry: Entry, now: datetime = NOW) -> ledger.PostResult:
    with transaction.atomic():
        return ledger.post(entry, now=now)


def post_batch(entries: list[Entry], now: datetime = NOW) -> list[ledger.EntryResult]:
    with transaction.atomic():
        return ledger.post_batch(entries, now=now)


def fund(account: AccountRef, amount: str | int, **options: object) -> ledger.PostResult:
    return post(line(account, "C", amount, **options))


def posted(account: AccountRef) -> Decimal:
    return ledger.balance(account).posted


@pytest.fixture
def bank(db: None) -> None:
    again("bank", open_bank)


@pytest.fixture
def committed_bank(transactional_db: None) -> None:
    again("bank", open_bank)


OTHERS_END_S = 250  # a limit for a broken build; the longest test that runs beside this one is far below it


def let_others_end() -> None:
    """Wait for every transaction that is older than this moment: a check looks twice at what may be theirs.

    Transactions of other databases count, too, and so does a test in another process.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()::text::bigint")
        (mine,) = cursor.fetchone()
        end = time.monotonic() + OTHERS_END_S
        while time.monotonic() < end:
            cursor.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
            if cursor.fetchone()[0] > mine:
                return
            Event().wait(0.01)
    raise AssertionError("a transaction of somebody else does not end")

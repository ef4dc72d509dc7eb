"""Go through the scenario of the Flow design: transactions by the queue, every tracekey awaited, everything compared."""

import json
import sys
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from apps.common.clock import business_date
from apps.common.errors import DomainError
from apps.ledger import scenario
from apps.ledger.queries import Outcome
from apps.ledger.rules import BACKDATE_DAYS_MAX, AccountRef, Entry

BY = "ledger_scenario"
LOOK_S = 0.1  # between two questions for what is not answered yet
TELL_S = 1.0  # between two words about how far it is
MARGIN = timedelta(minutes=1)  # of a suspension that nobody lifts, after the time a run may take
TIMEOUT_S_MAX = 3_600
SUSPEND_ATTEMPTS = 3  # on a ledger that writes all the time, each waits for some seconds
MISMATCHES_SHOWN = 20
DIFFERENT, UNANSWERED = 1, 2  # exit codes


class Command(BaseCommand):
    help = (
        "Put transactions on the ledger's queue, wait until each is answered, and compare statements and balances to the "
        "cent. Posts to accounts of its own in the branch SCENARIO; meanwhile posting to all other branches is suspended. "
        "Ends with 1 when something differs, with 2 when not all is answered in time. A relay and a consumer must run."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--transactions", type=int, default=1_000, help="how many (1000)")
        parser.add_argument("--accounts", type=int, default=20, help="on how many accounts (20)")
        parser.add_argument("--timeout", type=int, default=120, metavar="S", help="seconds to wait for all answers (120)")
        parser.add_argument("--seed", type=int, default=None, help="draws the same amounts, accounts and days again")
        parser.add_argument("--shared", action="store_true", help="suspend nobody: others post to their branches meanwhile")
        parser.add_argument("--history", type=Path, metavar="FILE", help="append the result, and compare with the last one")
        parser.add_argument("--json", action="store_true", help="one JSON document on standard output")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["timeout"] <= TIMEOUT_S_MAX:
            raise CommandError(f"--timeout is 1 to {TIMEOUT_S_MAX} seconds.")
        try:
            with scenario.alone():
                found = self._run(options)
        except DomainError as refusal:
            raise CommandError(f"{refusal.code} {refusal.detail}") from None
        self._tell(found, options)
        if found["unanswered"]:
            sys.exit(UNANSWERED)
        if found["differences"]:
            sys.exit(DIFFERENT)

    def _run(self, options: dict[str, Any]) -> dict[str, Any]:
        now = timezone.now()
        today, seed = business_date(now), options["seed"] if options["seed"] is not None else int(now.timestamp())
        days_back_max = _days_back_max(now, options["timeout"])
        with transaction.atomic(durable=True):
            refs = scenario.prepare(options["accounts"], now=now)
        entries = scenario.draw_entries(options["transactions"], refs, today=today, days_back_max=days_back_max, seed=seed)
        exclusive = not options["shared"]
        with _others_suspended(exclusive, timeout_s=options["timeout"]) as suspensions:
            before = scenario.take_snapshot(refs, today=today, with_others=exclusive)
            began = time.monotonic()
            requests = scenario.ask(entries, seed=seed)
            outcomes = self._wait(entries, deadline=began + options["timeout"], began=began)
            seconds = time.monotonic() - began
            after = scenario.take_snapshot(refs, today=today, with_others=exclusive)
        self._settle(refs)
        return {
            "transactions": len(entries),
            "requests": requests,
            "lines": sum(len(entry.legs) for entry in entries),
            "back_dated": sum(entry.dateref != today for entry in entries),
            "accounts": len(refs),
            "suspended_branches": len(suspensions),
            "seed": seed,
            "began_at": now.isoformat(),
            "seconds": round(seconds, 3),
            "per_s": round(len(outcomes) / seconds, 1),
            "unanswered": len(entries) - len(outcomes),
            "differences": [asdict(one) for one in scenario.compare(before, after, entries, outcomes)],
        }

    def _wait(self, entries: Sequence[Entry], *, deadline: float, began: float) -> dict[UUID, Outcome]:
        """What became of each, until all are answered or the time is over. Tells how far it is."""
        outcomes: dict[UUID, Outcome] = {}
        waiting, told = [entry.tracekey for entry in entries], began
        pause = threading.Event()
        while True:
            outcomes.update(scenario.answered(waiting))
            waiting = [tracekey for tracekey in waiting if tracekey not in outcomes]
            now = time.monotonic()
            if not waiting or now >= deadline:
                return outcomes
            if now - told >= TELL_S:
                told = now
                sys.stderr.write(f"{len(outcomes):,} of {len(entries):,} answered after {now - began:.0f} s\n")
            pause.wait(LOOK_S)

    @staticmethod
    def _settle(refs: Sequence[AccountRef]) -> None:
        with transaction.atomic(durable=True):
            scenario.settle(refs, now=timezone.now())

    def _tell(self, found: dict[str, Any], options: dict[str, Any]) -> None:
        last = _keep(options["history"], found) if options["history"] else None
        if options["json"]:
            self.stdout.write(json.dumps(found, indent=2))
            return
        self.stdout.write(
            f"{found['transactions']:,} transactions ({found['lines']:,} lines, {found['back_dated']:,} back-dated) on "
            f"{found['accounts']} accounts of branch {scenario.BRANCH}; {found['suspended_branches']} branches suspended"
        )
        self.stdout.write(f"answered in {found['seconds']:.2f} s: {found['per_s']:,.0f} a second")
        if last:
            self.stdout.write(f"the last run: {last['transactions']:,} transactions, {last['per_s']:,.0f} a second")
        for one in found["differences"][:MISMATCHES_SHOWN]:
            self.stdout.write(
                f"{one['what']}: {one['where']}: expected {one['expected'] or '-'}, found {one['found'] or '-'}"
            )
        self.stdout.write(f"{len(found['differences'])} differences (seed {found['seed']})")
        if found["unanswered"]:
            self.stdout.write(f"{found['unanswered']:,} are not answered. Do a relay and a consumer of group ledger run?")


def _days_back_max(now: datetime, timeout_s: int) -> int:
    """How far back entries may be dated: if midnight may come before the last one is posted, a day less."""
    is_same_day = business_date(now + timedelta(seconds=timeout_s)) == business_date(now)
    return BACKDATE_DAYS_MAX if is_same_day else max(BACKDATE_DAYS_MAX - 1, 0)


@contextmanager
def _others_suspended(exclusive: bool, *, timeout_s: int) -> Iterator[list[UUID]]:
    """Suspend the other branches meanwhile. What a killed process does not lift is over soon after."""
    suspensions = _suspend(timeout_s) if exclusive else []
    try:
        yield suspensions
    finally:
        if suspensions:
            scenario.resume_others(suspensions, by=BY, now=timezone.now())


def _suspend(timeout_s: int) -> list[UUID]:
    for attempt in range(1, SUSPEND_ATTEMPTS + 1):
        now = timezone.now()
        try:
            return scenario.suspend_others(by=BY, now=now, until=now + timedelta(seconds=timeout_s) + MARGIN)
        except DomainError as refusal:
            if attempt == SUSPEND_ATTEMPTS or not refusal.retryable:
                raise
    raise AssertionError("the last attempt returns or raises")


def _keep(path: Path, found: dict[str, Any]) -> dict[str, Any] | None:
    """Append a result to the file; the last one before it."""
    last: dict[str, Any] | None = None
    if path.exists() and (lines := path.read_text().splitlines()):
        last = json.loads(lines[-1])
    with path.open("a") as file:
        file.write(json.dumps({**found, "differences": len(found["differences"])}) + "\n")
    return last

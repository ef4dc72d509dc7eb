"""``manage.py seal_month 2026-01``: prove a month that is over, write its closing balances, and close it for good."""

from argparse import ArgumentParser
from datetime import date
from pathlib import Path
from typing import Any

from django.utils import timezone

from apps.ledger import chain, seals
from apps.ledger.management.month_command import MonthCommand

CALLS_MAX = 1_000  # of the chain: a hundred million lines that nobody has chained so far


class Command(MonthCommand):
    help = "Prove a month that is over and closed in all branches, write its closing balances, and let it take no line."
    needs_folder = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--close-days", action="store_true", help="first close its days in every branch, for ever")

    def step(self, month: date, directory: Path, options: dict[str, Any]) -> str:
        seals.check_clock(timezone.now())
        if options["close_days"] and (branches := seals.close_days(month, now=timezone.now())):
            self.stdout.write(f"{month:%Y-%m} is closed in {', '.join(branches)}")
        for _ in range(CALLS_MAX):
            if not chain.chain(now=timezone.now()):
                break
        row = seals.seal_month(month, **self.given(options))
        return f"{row.month:%Y-%m} is {row.state}: {row.lines} lines, sealed by {row.sealed_by}, {bytes(row.hash).hex()}"

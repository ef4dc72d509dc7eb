"""``manage.py detach_month 2026-01``: take an exported month out of the table. Its own table stays, unless --drop."""

from argparse import ArgumentParser
from datetime import date
from pathlib import Path
from typing import Any

from apps.ledger import detaching
from apps.ledger.management.month_command import MonthCommand


class Command(MonthCommand):
    help = "Read an exported month's file once more, and take the month out of the table."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--drop", action="store_true", help="also drop its own table: then its lines are in the file alone"
        )

    def step(self, month: date, directory: Path, options: dict[str, Any]) -> str:
        row = detaching.detach_month(month, directory=directory, **self.given(options))
        dropped = options["drop"] and detaching.drop_detached(month, directory=directory)
        return f"{row.month:%Y-%m} is {row.state}{', and its table is dropped' if dropped else ''}: see {row.path}"

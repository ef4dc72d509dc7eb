"""``manage.py ledger_statement BRANCH ACCOUNT``: an account's statement as text, CSV or OFX."""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.common.clock import business_date
from apps.common.errors import DomainError
from apps.common.money import CURRENCY
from apps.ledger.public import AccountRef, export_statement


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a date such as 2025-01-31") from None


def _write(path: Path, parts: Iterable[str]) -> None:
    # As bytes: a text file would turn the line ends of CSV into those of the system.
    with path.open("wb") as file:
        for part in parts:
            file.write(part.encode())


class Command(BaseCommand):
    """Print a statement, or write it into a file."""

    help = "Print an account's statement for a period, with the balance after each line. Changes nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("branch")
        parser.add_argument("account")
        parser.add_argument("--currency", default=CURRENCY)
        parser.add_argument("--from", type=_day, dest="date_from", help="first day; default: the first of --to's month")
        parser.add_argument("--to", type=_day, dest="date_to", help="last day; default: today in São Paulo")
        parser.add_argument("--format", choices=["text", "csv", "ofx"], default="text")
        parser.add_argument(
            "--output", type=Path, metavar="FOLDER", help="write a file into this folder instead of printing it"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Raises CommandError for an unknown account, a wrong period, or more lines than one file takes."""
        now = timezone.now()
        date_to = options["date_to"] or business_date(now)
        try:
            export = export_statement(
                AccountRef(options["branch"], options["account"], options["currency"]),
                date_from=options["date_from"] or date_to.replace(day=1),
                date_to=date_to,
                format=options["format"],
                now=now,
            )
        except DomainError as refusal:
            raise CommandError(f"{refusal.code}: {refusal.detail}") from None
        if options["output"] is None:
            for part in export.parts:
                self.stdout.write(part, ending="")
            return
        file = options["output"] / export.name
        try:
            _write(file, export.parts)
        except OSError as error:
            raise CommandError(f"{file} cannot be written: {error.strerror}.") from None
        self.stdout.write(f"{file}: {export.line_count} lines")

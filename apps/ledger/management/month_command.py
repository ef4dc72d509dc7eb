"""What the commands for one month share: the month, the folder, who does it, and refusals as words."""

import getpass
from argparse import ArgumentParser
from datetime import date
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.common.errors import DomainError


def parse_month(text: str) -> date:
    """YYYY-MM as its first day. Raises ValueError, which argparse tells."""
    return date.fromisoformat(f"{text}-01")


parse_month.__name__ = "month (YYYY-MM)"  # argparse: invalid month (YYYY-MM) value


def system_user() -> str:
    """Who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return "command"


class MonthCommand(BaseCommand):
    """One step of one month."""

    needs_folder = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("month", type=parse_month, metavar="YYYY-MM")
        parser.add_argument("--by", default="", help="who does it, for the record; empty: the system's user")
        if self.needs_folder:
            parser.add_argument("--directory", default=settings.LEDGER_ARCHIVE_DIR, help="instead of LEDGER_ARCHIVE_DIR")

    def handle(self, *args: Any, **options: Any) -> None:
        if self.needs_folder and not options["directory"]:
            raise CommandError("Say where the archive is: LEDGER_ARCHIVE_DIR is empty, and there is no --directory.")
        folder = Path(options["directory"]) if self.needs_folder else Path()
        try:
            self.stdout.write(self.step(options["month"], folder, options))
        except DomainError as refusal:
            raise CommandError(f"{refusal.code} {refusal.detail}") from None
        except OSError as error:  # full, read-only, or not there: the month is as it was
            raise CommandError(f"the archive's folder {folder} can't be used: {error}") from error

    def step(self, month: date, directory: Path, options: dict[str, Any]) -> str:
        """Do it, and say what was done."""
        raise NotImplementedError

    def given(self, options: dict[str, Any]) -> dict[str, Any]:
        """Who and when."""
        return {"by": options["by"] or system_user(), "now": timezone.now()}

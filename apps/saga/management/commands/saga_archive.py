"""``manage.py saga_archive``: export and delete the finished runs that are older than they are kept for."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.saga import retention


class Command(BaseCommand):
    """Archive old runs."""

    help = "Export the finished runs that are older than their use case keeps them to Parquet files, and delete them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only count them")
        parser.add_argument("--directory", default=settings.SAGA_ARCHIVE_DIR, help="instead of SAGA_ARCHIVE_DIR")
        parser.add_argument("--batches", type=int, default=retention.BATCHES_MAX, help="at most so many batches of 5,000")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        if options["dry_run"]:
            self._tell(retention.count(now=now), "would be archived")
            return
        if not options["directory"]:
            raise CommandError("Say where to: SAGA_ARCHIVE_DIR is empty, and there is no --directory.")
        done = retention.archive_runs(directory=Path(options["directory"]), now=now, batches_max=options["batches"])
        self._tell(done, "archived")
        for name in done.months:
            self.stdout.write(f"{name} was empty and is dropped")
        if not done.is_complete:
            self.stdout.write("There is more, or another process is at it.")

    def _tell(self, found: retention.Archived, what: str) -> None:
        for use_case, runs in sorted(found.runs.items()):
            self.stdout.write(f"{use_case}: {runs} {what}")
        if not found.runs:
            self.stdout.write("No run is older than it is kept for.")

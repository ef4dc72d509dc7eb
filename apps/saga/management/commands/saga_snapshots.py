"""``manage.py saga_snapshots``: are the steps of every version as they were written down?"""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from apps.saga.snapshots import Snapshots


class Command(BaseCommand):
    """Compare the definitions with their snapshots."""

    help = (
        "Compare every definition's steps with the snapshot of its version (apps/<app>/sagas/snapshots). With --write, "
        "first write the snapshots of new versions; one that differs is never overwritten. Needs no database."
    )
    requires_system_checks: list[str] = []  # they would refuse what this command is there to write

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--write", action="store_true", help="write the snapshots of versions that have none")

    def handle(self, *args: Any, **options: Any) -> None:
        snapshots = Snapshots()
        if options["write"]:
            for path in snapshots.write():
                self.stdout.write(f"written: {path.name}")
        problems = list(snapshots.problems())
        if problems:
            raise CommandError("\n".join(f"{problem}." for problem in problems))
        self.stdout.write("Every version has the steps of its snapshot.")

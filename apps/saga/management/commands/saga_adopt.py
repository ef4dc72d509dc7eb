"""``manage.py saga_adopt FILE --reason …``: take over transactions that another system began."""

from argparse import ArgumentParser
from collections import Counter
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.common.errors import DomainError
from apps.saga.adoption import adopt_many
from apps.saga.adoption_rows import read
from apps.saga.audit import command_actor


class Command(BaseCommand):
    """Take over the rows of a file, one commit each."""

    help = (
        "Take over transactions that another system began: each row names a use case, the step with which it goes on here, "
        "its input, and what the steps before have left. JSON Lines, or CSV when the name ends in .csv; see "
        "docs/adopting-and-forking.md. Each row is told; safe to repeat. Ends with status 1 when a row was refused."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--reason", required=True, help="why: the audit keeps it")
        parser.add_argument("--use-case", help="of rows that name none")
        parser.add_argument("--at-step", help="of rows that name none")
        parser.add_argument("--dry-run", action="store_true", help="check everything, and write nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        defaults = {"use_case": options["use_case"], "at_step": options["at_step"]}
        counted: Counter[str] = Counter()
        try:
            outcomes = adopt_many(
                read(options["file"], {name: value for name, value in defaults.items() if value}),
                reason=options["reason"],
                by=command_actor("saga_adopt"),
                now=timezone.now(),
                dry_run=options["dry_run"],
            )
            for each in outcomes:
                counted[each.outcome] += 1
                told = f"{each.code} {each.detail}" if each.code else str(each.run_id or "would be a new run")
                self.stdout.write(f"{each.number}  {each.business_key or '-'}  {each.outcome}  {told}")
        except DomainError as refusal:
            raise CommandError(f"{refusal.code} {refusal.detail}") from refusal
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{options['file']}: {error}") from error
        summary = ", ".join(f"{counted[word]} {word}" for word in ("adopted", "known", "refused"))
        self.stdout.write(f"{'dry run: ' if options['dry_run'] else ''}{summary}.")
        if counted["refused"]:
            raise CommandError(f"{counted['refused']} of {counted.total()} rows were refused.")

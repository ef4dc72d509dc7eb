"""``manage.py saga_migrate USE_CASE --from 1 --to 2 --reason …``: move live runs to a newer version."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.common.errors import DomainError
from apps.saga.audit import command_actor
from apps.saga.versions import RUNS_MAX, move


class Command(BaseCommand):
    """Move runs, one commit each."""

    help = (
        "Move the live and stuck runs of a use case from one version to a newer one, by the mapping that the newer one "
        "declares. Runs that may not move stay and finish on their own version; each is told. Safe to repeat."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("use_case")
        parser.add_argument("--from", type=int, required=True, dest="older", metavar="VERSION")
        parser.add_argument("--to", type=int, required=True, dest="newer", metavar="VERSION")
        parser.add_argument("--reason", required=True, help="why: the audit keeps it")
        parser.add_argument("--dry-run", action="store_true", help="tell what would happen, and change nothing")
        parser.add_argument("--limit", type=int, default=RUNS_MAX, help=f"runs to look at, at most; default {RUNS_MAX}")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            outcomes = move(
                options["use_case"],
                older=options["older"],
                newer=options["newer"],
                reason=options["reason"],
                by=command_actor("saga_migrate"),
                now=timezone.now(),
                dry_run=options["dry_run"],
                runs_max=options["limit"],
            )
        except DomainError as refusal:
            raise CommandError(f"{refusal.code} {refusal.detail}") from refusal
        moved = stayed = 0
        verb = "would move" if options["dry_run"] else "moved"
        for outcome in outcomes:
            moved, stayed = moved + (not outcome.refusal), stayed + bool(outcome.refusal)
            told = f"stays: {outcome.refusal}" if outcome.refusal else verb
            self.stdout.write(f"{outcome.run_id}  {outcome.business_key}  {outcome.status}  {told}")
        self.stdout.write(f"{moved} {verb}, {stayed} stayed.")

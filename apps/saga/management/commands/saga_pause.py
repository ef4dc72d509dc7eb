"""``manage.py saga_pause USE_CASE [STEP] --reason …``: begin no new run, or this step in no run."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.common.errors import DomainError
from apps.saga.audit import command_actor
from apps.saga.pauses import pause


class Command(BaseCommand):
    """Pause a use case or a step."""

    help = "Begin no new run of a use case (they wait) or, with a step, do not begin this step in any run."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("use_case")
        parser.add_argument("step", nargs="?", default="")
        parser.add_argument("--reason", required=True, help="why: the audit keeps it")
        parser.add_argument("--refuse", action="store_true", help="of a use case: new runs are refused instead of waiting")
        parser.add_argument("--undo-goes-on", action="store_true", help="of a step: its undo does not wait")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            pause(
                options["use_case"],
                options["step"],
                reason=options["reason"],
                by=command_actor("saga_pause"),
                now=timezone.now(),
                refuses=options["refuse"],
                holds_undo=not options["undo_goes_on"],
            )
        except DomainError as refusal:
            raise CommandError(f"{refusal.code} {refusal.detail}") from refusal
        self.stdout.write("Paused.")

"""``manage.py saga_resume USE_CASE [STEP] --reason …``: what is paused goes on."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.common.errors import DomainError
from apps.saga.audit import command_actor
from apps.saga.pauses import lift


class Command(BaseCommand):
    """Lift a pause."""

    help = "Let new runs of a paused use case begin, or a paused step go on, also when its breaker paused it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("use_case")
        parser.add_argument("step", nargs="?", default="")
        parser.add_argument("--reason", required=True, help="why: the audit keeps it")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            lift(
                options["use_case"],
                options["step"],
                reason=options["reason"],
                by=command_actor("saga_resume"),
                now=timezone.now(),
            )
        except DomainError as refusal:
            raise CommandError(f"{refusal.code} {refusal.detail}") from refusal
        self.stdout.write("It goes on.")

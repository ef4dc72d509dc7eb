"""``manage.py saga_retry RUN``: let a stuck run go on."""

from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.common.errors import DomainError
from apps.saga.triage import retry


class Command(BaseCommand):
    """Retry a stuck run."""

    help = "Let a stuck run go on, with a fresh budget of attempts for the step at which it is stuck."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("run_id", type=UUID)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            retry(options["run_id"], now=timezone.now())
        except DomainError as refusal:
            raise CommandError(f"{refusal.code} {refusal.detail}") from refusal
        self.stdout.write("The run goes on.")

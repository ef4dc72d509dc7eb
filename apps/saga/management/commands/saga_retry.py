"""``manage.py saga_retry RUN --reason …``: let a stuck run go on. For many runs see saga_triage."""

from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.common.errors import DomainError
from apps.saga import bulk
from apps.saga.audit import command_actor
from apps.saga.bulk_state import action_items, action_state
from apps.saga.selection import Selection
from apps.saga.triage import Action, wanted


class Command(BaseCommand):
    """Retry a stuck run."""

    help = "Let a stuck run go on, with a fresh budget of attempts for the step at which it is stuck."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("run_id", type=UUID)
        parser.add_argument("--reason", required=True, help="why: the audit keeps it")

    def handle(self, *args: Any, **options: Any) -> None:
        now, by = timezone.now(), command_actor("saga_retry")
        which = Selection(run_ids=(options["run_id"],))
        try:
            action_id = bulk.request(which, wanted(Action.RETRY), reason=options["reason"], by=by, now=now)
            bulk.work(action_id, now=now)
        except DomainError as refusal:
            raise CommandError(f"{refusal.code} {refusal.detail}") from refusal
        (item,), _ = action_items(action_id, limit=1)
        if action_state(action_id).waits:
            self.stdout.write(f"It waits for a second person: saga_triage approve {action_id}")
        elif item.code:
            raise CommandError(f"{item.code} {item.detail}")
        else:
            self.stdout.write("The run goes on.")

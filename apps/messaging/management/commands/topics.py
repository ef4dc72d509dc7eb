"""manage.py topics: create and check the broker's topics."""

from argparse import ArgumentParser
from typing import Any

from django.core.management import BaseCommand, CommandError

from apps.messaging import topics
from apps.messaging.transports.base import TransportDown, TransportMisconfigured


class Command(BaseCommand):
    """Edge: print the plan, or make it true."""

    help = "Compare the broker's topics with the contracts (--plan: exit 1 on a difference) or create them (--apply)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        chosen = parser.add_mutually_exclusive_group(required=True)
        chosen.add_argument("--plan", action="store_true", help="only compare; exit 1 when something differs")
        chosen.add_argument("--apply", action="store_true", help="create what is missing; nothing is changed or deleted")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["apply"]:
                topics.apply()
            plan = topics.plan()
        except (TransportDown, TransportMisconfigured) as error:
            raise CommandError(str(error)) from error
        for found in plan:
            self.stdout.write(f"{found.state:8} {found.name}{f'  ({found.detail})' if found.detail else ''}")
        different = [found.name for found in plan if found.state != "ok"]
        if different and options["apply"]:
            raise CommandError(f"These differ and are left as they are: {', '.join(different)}. Change them by hand.")
        if different:
            raise CommandError(f"{len(different)} of {len(plan)} topics are not as the contracts want them.")

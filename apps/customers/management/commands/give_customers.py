"""manage.py give_customers: say whose customers these are."""

import sys
from typing import Any
from uuid import UUID

from django.core.management import BaseCommand, CommandError
from django.core.management.base import CommandParser
from django.utils import timezone

from apps.common.errors import DomainError
from apps.common.transactions import transaction
from apps.customers import operations
from apps.identity import public as identity

# One at a time, each a commit: interrupted, the command is repeated.
_give = transaction(operations.give_customer)


class Command(BaseCommand):
    """Edge: one customer after the other; those that cannot be given are told."""

    help = (
        "Give customers to a merchant's account, which alone may charge them from then on: nobody's customers, or with "
        "--from those of another account. Ids are arguments, or else lines of the standard input. Safe to repeat."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("account", help="acc_…")
        parser.add_argument("ids", nargs="*", type=UUID, help="customers' ids")
        parser.add_argument("--from", dest="taken_from", default="", help="the account that had them; absent: nobody")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            to = identity.account(options["account"]).account_id
        except DomainError as refusal:
            raise CommandError(f"{refusal.code} {refusal.detail}") from None
        refused = given = 0
        for customer_id in options["ids"] or _read():
            try:
                _give(customer_id, to=to, taken_from=options["taken_from"], now=timezone.now())
                given += 1
            except DomainError as refusal:
                refused += 1
                self.stderr.write(f"{customer_id}: {refusal.code} {refusal.detail}")
        self.stdout.write(f"{given} given to {to}, {refused} refused")
        if refused:
            raise CommandError("Some were refused: see above.")


def _read() -> list[UUID]:
    try:
        return [UUID(line.strip()) for line in sys.stdin if line.strip()]
    except ValueError as error:
        raise CommandError(f"A line is no id: {error}") from None

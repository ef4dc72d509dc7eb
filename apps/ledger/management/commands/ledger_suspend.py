"""Suspend posting for a while, lift a suspension, or list those that hold."""

import json
from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from apps.common.errors import DomainError
from apps.common.money import CURRENCY
from apps.ledger import suspensions
from apps.ledger.management.month_command import system_user
from apps.ledger.rules import AccountRef


def account_of(text: str) -> AccountRef:
    """An account as an argument: branch/account, or branch/account/currency."""
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise ArgumentTypeError("an account is written branch/account or branch/account/currency")
    return AccountRef(parts[0], parts[1], parts[2] if len(parts) == 3 else CURRENCY)


class Command(BaseCommand):
    help = "Suspend posting to the ledger, a branch or an account; lift a suspension; or, without options, list them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--all", action="store_true", help="suspend the whole ledger")
        what.add_argument("--branch", help="suspend a branch")
        what.add_argument("--account", type=account_of, help="suspend an account: branch/account[/currency]")
        what.add_argument("--resume", type=UUID, metavar="ID", help="lift this suspension")
        parser.add_argument("--reason", default="", help="why; needed to suspend")
        parser.add_argument("--wait", action="store_true", help="writers wait a few seconds before they are refused")
        parser.add_argument("--minutes", type=int, default=60, help="it ends by itself after so many (60)")
        parser.add_argument("--by", default=system_user(), help="who does it (the user of the system)")
        parser.add_argument("--json", action="store_true", help="one JSON document on standard output")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            shown = self._do(options)
        except DomainError as refusal:
            raise CommandError(f"{refusal.code} {refusal.detail}") from None
        if options["json"]:
            self.stdout.write(json.dumps([suspensions.as_dict(view) for view in shown], indent=2))
            return
        for view in shown:
            state = "lifted" if view.lifted_at else f"until {view.until:%Y-%m-%d %H:%M:%SZ}"
            self.stdout.write(f"{view.id}  {suspensions.scope_text(view)}  {view.mode}  {state}  {view.reason}")
        if not shown:
            self.stdout.write("Nothing is suspended.")

    def _do(self, options: dict[str, Any]) -> list[suspensions.SuspensionView]:
        now = timezone.now()
        if options["resume"]:
            with transaction.atomic(durable=True):
                return [suspensions.resume(suspension_id=options["resume"], by=options["by"], now=now)]
        if not (options["all"] or options["branch"] or options["account"]):
            return suspensions.suspended(now=now)
        with transaction.atomic(durable=True):
            view = suspensions.suspend(
                mode="WAIT" if options["wait"] else "REFUSE",
                reason=options["reason"],
                by=options["by"],
                branch=options["branch"],
                account=options["account"],
                until=now + timedelta(minutes=options["minutes"]),
                now=now,
            )
        return [view]

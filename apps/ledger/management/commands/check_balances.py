"""Prove the ledger's balances and holds from its rows. Ends with 1 when something differs."""

import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error as AnyDatabaseError
from django.utils import timezone

from apps.common.errors import DomainError
from apps.ledger.checks import CheckResult, PassView, open_pass, run_check
from apps.ledger.management.commands.ledger_suspend import account_of


class Command(BaseCommand):
    help = (
        "Prove the ledger's balances and holds from its rows: what changed since the last check, or all with --full. "
        "Ends with 1 when something differs. Differences are written down for people to see; nothing is corrected."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--full", action="store_true", help="read every line, not only what changed")
        parser.add_argument("--anew", action="store_true", help="with --full: don't go on with one that was cut off")
        parser.add_argument("--exclusive", action="store_true", help="keep writers waiting meanwhile")
        scope = parser.add_mutually_exclusive_group()
        scope.add_argument("--branch", help="only this branch")
        scope.add_argument("--account", type=account_of, help="only this account: branch/account[/currency]")
        parser.add_argument("--json", action="store_true", help="one JSON document on standard output")

    def tell(self, so_far: PassView) -> None:
        """A line for each piece, where it disturbs no document."""
        percent = "" if so_far.percent is None else f" ({so_far.percent} %)"
        self.stderr.write(f"{so_far.looked} rows{percent}, {so_far.differences} differences", self.style.NOTICE)

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["full"] and options["anew"]:
            raise CommandError("--anew goes with --full.", returncode=2)
        running = open_pass() if options["full"] and not options["anew"] else None
        if running and not (options["exclusive"] or options["branch"] or options["account"]):
            self.stderr.write(
                f"goes on with the check that began {running.began_at:%Y-%m-%d %H:%M} UTC; --anew begins again",
                self.style.NOTICE,
            )
        try:
            result = run_check(
                kind="FULL" if options["full"] else "INCREMENTAL",
                branch=options["branch"],
                account=options["account"],
                exclusive=options["exclusive"],
                anew=options["anew"],
                tell=self.tell,
                now=timezone.now(),
            )
        except DomainError as refusal:
            raise CommandError(f"{refusal.code} {refusal.detail}", returncode=2) from None
        except AnyDatabaseError as error:  # with 1 it would say that something differs
            raise CommandError(f"The check broke off: {error}", returncode=2) from error
        self.stdout.write(json.dumps(_document(result), indent=2) if options["json"] else _text(result))
        if result.differences:
            sys.exit(1)


def _document(result: CheckResult) -> dict[str, Any]:
    return {
        "check": str(result.id),
        "kind": result.kind,
        "exclusive": result.exclusive,
        "snapshot_at": result.snapshot_at.isoformat(),
        "ended_at": result.ended_at.isoformat(),
        "checks": result.rules,
        "accounts": result.accounts,
        "days": result.days,
        "lines": result.lines,
        "unproven": result.unproven,
        "differences": [difference.as_dict() for difference in result.differences],
    }


def _text(result: CheckResult) -> str:
    found = []
    for difference in result.differences:
        found.append("  ".join(f"{name}={value}" for name, value in difference.as_dict().items() if value is not None))
    size = f"{result.accounts} accounts, {result.days} days, {result.lines} lines"
    left = (
        f", {result.unproven} accounts are still to be proven (--full)"
        if result.unproven and result.kind == "INCREMENTAL"
        else ""
    )
    end = f"{result.kind}: {size}, {result.rules} checks, {len(result.differences)} differences{left}"
    return "\n".join([*found, end])

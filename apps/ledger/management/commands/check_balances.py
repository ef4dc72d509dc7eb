"""Prove the ledger's balances and holds from its rows. Ends with 1 when something differs."""

import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from apps.ledger.reconciliation import CHECKS, check_balances


class Command(BaseCommand):
    help = "Prove the ledger's balances and holds from its rows. Ends with 1 when something differs; changes nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON document on standard output")

    def handle(self, *args: Any, **options: Any) -> None:
        differences = check_balances()
        if options["json"]:
            document = {"checks": len(CHECKS), "differences": [difference.as_dict() for difference in differences]}
            self.stdout.write(json.dumps(document, indent=2))
        else:
            for difference in differences:
                facts = [f"{name}={value}" for name, value in difference.as_dict().items() if value is not None]
                self.stdout.write("  ".join(facts))
            self.stdout.write(f"{len(CHECKS)} checks, {len(differences)} differences")
        if differences:
            sys.exit(1)

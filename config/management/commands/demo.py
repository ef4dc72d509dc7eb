"""Fill a running `make run` with life: a newcomer opens the back office and sees a system at work, not empty lists."""

import sys
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apps.common.errors import DemoOnly, DomainError
from config import demo
from config.scenes import plan
from config.scenes.play import Played, play, was_played
from config.scenes.progress import Progress
from config.scenes.web import NobodyThere, Refused, check_answers

UNAUTHENTICATED = 401  # it does not know a secret that we have just made
INTERRUPTED = 130  # as the shell says of Ctrl-C
PAGES = {
    "Home": "",
    "Triage": "triage/",
    "Approvals": "approvals/",
    "Use cases": "use-cases/",
    "Runs": "saga/run/",
    "Orders": "orders/order/",
    "Payments": "payments/payment/",
    "Ledger accounts": "ledger/account/",
    "Documents": "fiscal_docs/document/",
    "Webhook deliveries": "webhooks/delivery/",
}


class Command(BaseCommand):
    help = (
        "Make orders, payments, returns, postings and trouble in a running `make run`, over the API and through the doors "
        "that everybody uses: paid, refused, given back, stuck, waiting for you. Once for each seed: a second run adds "
        "nothing. Only for the embedded mode with its sandbox authority."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--orders", type=int, default=plan.ORDERS_DEFAULT, help=f"how many ({plan.ORDERS_DEFAULT})")
        parser.add_argument("--seed", type=int, default=1, help="another seed adds other customers and orders (1)")

    def handle(self, *args: Any, **options: Any) -> None:
        orders, seed = options["orders"], options["seed"]
        try:
            refuse_elsewhere()
            if not plan.ORDERS_MIN <= orders <= plan.ORDERS_MAX:
                raise CommandError(f"--orders is {plan.ORDERS_MIN} to {plan.ORDERS_MAX}.")
            if not 0 <= seed <= plan.SEED_MAX:
                raise CommandError(f"--seed is 0 to {plan.SEED_MAX}.")
            self._play(orders, seed, base=f"http://localhost:{settings.PORT}")
        except DomainError as refusal:
            raise CommandError(f"{refusal.code} {refusal.detail}") from None
        except KeyboardInterrupt:
            self.stdout.write("\nCut off. The same command goes on where it stopped.")
            sys.exit(INTERRUPTED)

    def _play(self, orders: int, seed: int, *, base: str) -> None:
        try:
            check_answers(settings.PORT)  # first: a database that `make run` has never seen has no tables
            if was_played(seed):
                self.stdout.write(f"Seed {seed} is there already, and nothing was added: --seed {seed + 1} adds more.")
                self._tell_pages(base)
                return
            played = play(orders=orders, seed=seed, port=settings.PORT, progress=Progress(self.stdout))
        except NobodyThere as error:
            raise CommandError(
                f"{base} does not answer ({error}). Start `make run` with the same PORT and DATA_DIR."
            ) from None
        except Refused as refusal:
            hint = " Is it a `make run` with the same DATA_DIR?" if refusal.status == UNAUTHENTICATED else ""
            raise CommandError(f"{base} refused us: {refusal}{hint}") from None
        self._tell(played, base)

    def _tell(self, played: Played, base: str) -> None:
        told = ", ".join(f"{count} {status}" for status, count in played.statuses.most_common())
        self.stdout.write(
            f"\nOrders: {told}; {played.differences} differences in the ledger.\n"
            "Some go on by themselves for minutes, two holds expire within half a minute."
        )
        self._tell_pages(base)
        self.stdout.write("\nWorth a look:")
        for what, path in played.worth.items():
            self.stdout.write(f"  {what}\n    {base}{path}")

    def _tell_pages(self, base: str) -> None:
        self.stdout.write(f"\nOpen the back office; login {demo.BACKOFFICE_USER} / {demo.BACKOFFICE_PASSWORD}")
        for name, path in PAGES.items():
            self.stdout.write(f"  {name:<20}{base}/admin/{path}")


def refuse_elsewhere() -> None:
    """Raises DemoOnly unless this is the embedded mode with its own sandbox authority."""
    if not settings.EMBEDDED:
        raise DemoOnly("DATABASE_URL makes this a deployment. Run it where `make run` keeps its own PostgreSQL.")
    if settings.FISCAL_AUTHORITY_URL:
        raise DemoOnly("FISCAL_AUTHORITY_URL names an authority: made-up documents are sent to the sandbox alone.")

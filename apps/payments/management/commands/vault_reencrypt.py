"""manage.py vault_reencrypt: bring every saved card under the vault's newest key, so that the older ones may go."""

from typing import Any

from django.core.management import BaseCommand

from apps.common.transactions import transaction
from apps.payments import vault

# A batch is a commit of its own: interrupted, the command goes on where it was.
_batch = transaction(vault.reencrypt)


class Command(BaseCommand):
    """Edge: batch after batch until nothing is under an older key."""

    help = (
        "Encrypt every saved card with the vault's newest key. Run it when every process has been started with the new "
        "key in front: one that still has it behind saves cards under the old one. Safe to repeat and to interrupt."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        total = 0
        while cards := _batch():  # It ends: new cards are under the newest key, and each batch takes from the others.
            total += cards
            self.stdout.write(f"{total} cards")
        self.stdout.write(f"{total} cards were encrypted anew. No card is under an older key: those may go.")

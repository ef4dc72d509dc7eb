"""manage.py merchants_money: is the money of merchants' own payments in the ledger, to the cent?"""

from typing import Any

from django.core.management import BaseCommand, CommandError
from django.utils import timezone

from apps.common.errors import DomainError
from apps.ledger import public as ledger
from apps.orders import merchant_money
from apps.orders.merchant_money import Posted
from apps.orders.sagas import money


class Command(BaseCommand):
    """Edge: batch after batch, each a commit of its own."""

    help = (
        "Post what was captured and refunded of merchants' own payments and is not in the ledger: of before "
        "LEDGER_MERCHANTS_ACCOUNT was set, or what a dead letter stands for. Then tell the sums. Safe to repeat and to "
        "interrupt. The account's balance is captured less refunded, and less what was paid out to merchants."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        account = money.merchants_account()
        if account is None:
            raise CommandError("LEDGER_MERCHANTS_ACCOUNT is empty: merchants' own payments are not posted here.")
        total = Posted()
        try:
            while (batch := merchant_money.post_batch(after=total.last, now=timezone.now())).payments:
                total += batch
            balance = ledger.balance(account).posted
        except DomainError as refusal:
            done = f"After {total.payments} payments" if total.payments else "At the first payments"
            raise CommandError(f"{done}: {refusal.code} {refusal.detail}") from None
        self.stdout.write(f"{total.payments} payments: captured {total.captured}, refunded {total.refunded}")
        self.stdout.write(f"{total.missing} entries were missing, and are posted now")
        self.stdout.write(f"balance of {account.account}: {balance}")

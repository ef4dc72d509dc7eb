"""``manage.py ledger_months``: every month with lines, its state, and what may be done next."""

from datetime import date
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db.models import Sum
from django.utils import timezone

from apps.ledger import seals
from apps.ledger.chain_models import BlockPart, Month

NEXT = {
    Month.State.SEALED: "export_month",
    Month.State.EXPORTED: "detach_month",
    Month.State.DETACHED: "",
}


class Command(BaseCommand):
    help = "Tell of every month that has lines: how many were chained, its state, and the command that may come next."

    def handle(self, *args: Any, **options: Any) -> None:
        lines = dict(BlockPart.objects.values("month").annotate(sum=Sum("lines")).values_list("month", "sum"))
        rows = {row.month: row for row in Month.objects.all()}
        for month in sorted({*lines, *rows}):
            state, text = self._of(month, rows.get(month))
            self.stdout.write(f"{month:%Y-%m}  {state:8}  {lines.get(month, 0):>12} lines  {text}".rstrip())
        online = settings.LEDGER_MONTHS_ONLINE
        self.stdout.write(f"LEDGER_MONTHS_ONLINE is {online}" + ("" if online else ": nothing happens by itself"))

    def _of(self, month: date, row: Month | None) -> tuple[str, str]:
        if row is None:
            reason = seals.why_not(month, now=timezone.now())
            return "OPEN", reason or "next: seal_month"
        if row.state == Month.State.DETACHED:
            return row.state, row.path
        return row.state, f"next: {NEXT[Month.State(row.state)]}"

"""``manage.py attach_month 2026-01``: bring a detached month back into the table, from its own table or from its file."""

from datetime import date
from pathlib import Path
from typing import Any

from apps.ledger import detaching
from apps.ledger.management.month_command import MonthCommand


class Command(MonthCommand):
    help = "Bring a detached month back into the table. Its lines are proved before anybody sees them."

    def step(self, month: date, directory: Path, options: dict[str, Any]) -> str:
        row = detaching.attach_month(month, directory=directory)
        return f"{row.month:%Y-%m} is {row.state}: {row.lines} lines are in the table again"

"""``manage.py export_month 2026-01``: write a sealed month to its Parquet file, and read it back."""

from datetime import date
from pathlib import Path
from typing import Any

from apps.ledger import detaching
from apps.ledger.management.month_command import MonthCommand


class Command(MonthCommand):
    help = "Write a sealed month to its Parquet file, and read it back."

    def step(self, month: date, directory: Path, options: dict[str, Any]) -> str:
        row = detaching.export_month(month, directory=directory, **self.given(options))
        return f"{row.month:%Y-%m} is {row.state}: {row.lines} lines in {row.path}, file {bytes(row.file_hash).hex()}"

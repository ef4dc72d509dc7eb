"""Columns that several of the ledger's tables have."""

from decimal import Decimal

from django.db import models

from apps.ledger.rules import SUM_DIGITS_MAX

# Keys are compared byte by byte: the same order on every server, and cheaper than a language's order.
KEY_COLLATION = "C"


def key_column(column: str, **options: object) -> "models.TextField[str, str]":
    return models.TextField(db_column=column, db_collation=KEY_COLLATION, **options)  # type: ignore[arg-type]


def sum_column(column: str) -> "models.DecimalField[Decimal | int, Decimal]":
    return models.DecimalField(db_column=column, max_digits=SUM_DIGITS_MAX, decimal_places=2, default=0)

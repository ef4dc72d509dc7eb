"""HTTP in, HTTP out, in the words of the tables. Parsing only: every rule is the engine's."""

import re
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from rest_framework import serializers

from apps.common.money import CURRENCY
from apps.ledger.public import AccountRef, Entry, Leg
from apps.ledger.rules import ENTRY_LEGS_MAX, EVENT_CODE_MAX, SUM_DIGITS_MAX

# Digits and at most two decimals: no sign, no exponent, no NaN. "1e2" is a number to JSON, and a mistake here.
_AMOUNT = re.compile(r"[0-9]{1,13}(\.[0-9]{1,2})?")


class AmountField(serializers.DecimalField):
    """An amount as a JSON number or a text, exactly as written."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_digits=15, decimal_places=2, **options)

    def to_internal_value(self, data: Any) -> Decimal:
        if isinstance(data, bool) or not isinstance(data, int | Decimal | str) or not _AMOUNT.fullmatch(str(data)):
            raise serializers.ValidationError("An amount has digits and at most two decimal places, such as 10.50.")
        return Decimal(str(data))


class SumField(serializers.DecimalField):
    """An amount or a sum, as a text with two decimal places."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_digits=SUM_DIGITS_MAX, decimal_places=2, **options)


class LegSerializer(serializers.Serializer[Leg]):
    """One line to post."""

    branch = serializers.CharField(max_length=20)
    account = serializers.CharField(max_length=40)
    currency = serializers.CharField(max_length=3, default=CURRENCY)
    amount = AmountField()
    debitcredit = serializers.ChoiceField(choices=[("D", "debit"), ("C", "credit")])
    eventcode = serializers.IntegerField(min_value=1, max_value=EVENT_CODE_MAX)
    description = serializers.CharField(max_length=255, default="", allow_blank=True)
    details = serializers.JSONField(
        default=None, allow_null=True, help_text="An object of the origin's own, up to 16 KiB; decimals are kept as texts."
    )

    def validate_details(self, value: Any) -> Any:
        if value is not None and not isinstance(value, dict):
            raise serializers.ValidationError("details is an object.")
        return value


class LineRequestSerializer(LegSerializer):
    """POST /ledger/transactions with a single line."""

    tracekey = serializers.UUIDField(help_text="Yours; a repeat with the same body answers the same and posts nothing.")
    dateref = serializers.DateField(
        default=None, allow_null=True, help_text="The day it counts for, up to 7 days back; absent: today in São Paulo."
    )


class EntryRequestSerializer(serializers.Serializer[Entry]):
    """POST /ledger/transactions with several legs whose debits equal their credits."""

    tracekey = serializers.UUIDField()
    dateref = serializers.DateField(default=None, allow_null=True)
    legs = LegSerializer(many=True, allow_empty=False, max_length=ENTRY_LEGS_MAX)  # type: ignore[call-arg]  # of the list


def read_entry(data: Any) -> Entry:
    """The entry that a body asks to post: ``legs``, or the fields of one line. Raises DRF's ValidationError."""
    is_compound = isinstance(data, dict) and "legs" in data
    form = EntryRequestSerializer(data=data) if is_compound else LineRequestSerializer(data=data)
    form.is_valid(raise_exception=True)
    values: dict[str, Any] = form.validated_data
    tracekey: UUID = values["tracekey"]
    dateref: date | None = values["dateref"]
    legs = values["legs"] if is_compound else [values]
    return Entry(tracekey=tracekey, legs=tuple(_leg(leg) for leg in legs), dateref=dateref)


def _leg(values: dict[str, Any]) -> Leg:
    return Leg(
        account=AccountRef(values["branch"], values["account"], values["currency"]),
        amount=values["amount"],
        debitcredit=values["debitcredit"],
        eventcode=values["eventcode"],
        description=values["description"],
        details=values["details"],
    )


class BalancesSerializer(serializers.Serializer[Any]):
    posted = SumField()
    pending = SumField()
    available = SumField(help_text="posted − pending")
    day = SumField(allow_null=True, help_text="The balance at the end of dateref.")


class PostedLineSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    branch = serializers.CharField(source="account.branch")
    account = serializers.CharField(source="account.account")
    currency = serializers.CharField(source="account.currency")
    amount = SumField()
    debitcredit = serializers.CharField()
    eventcode = serializers.IntegerField()
    dateref = serializers.DateField()
    balances = BalancesSerializer(help_text="Right after this line was posted.")


class PostResultSerializer(serializers.Serializer[Any]):
    tracekey = serializers.UUIDField()
    result = serializers.CharField(read_only=True, default="POSTED")
    replayed = serializers.BooleanField(help_text="Was it posted by an earlier request?")
    lines = PostedLineSerializer(many=True)


class TransactionSerializer(PostedLineSerializer):
    description = serializers.CharField()
    tracekey = serializers.UUIDField()
    details = serializers.JSONField(allow_null=True)
    createdat = serializers.DateTimeField(source="created_at")


class TransactionsSerializer(serializers.Serializer[Any]):
    transactions = TransactionSerializer(many=True)


class BalanceSerializer(serializers.Serializer[Any]):
    branch = serializers.CharField(source="account.branch")
    account = serializers.CharField(source="account.account")
    currency = serializers.CharField(source="account.currency")
    status = serializers.CharField()
    minbalance = SumField(source="min_balance", allow_null=True, help_text="The floor; null is no floor.")
    posted = SumField()
    pending = SumField()
    available = SumField()


class DayBalanceSerializer(serializers.Serializer[Any]):
    branch = serializers.CharField(source="account.branch")
    account = serializers.CharField(source="account.account")
    currency = serializers.CharField(source="account.currency")
    dateref = serializers.DateField()
    balance = SumField()
    totaldebit = SumField(source="total_debit")
    totalcredit = SumField(source="total_credit")
    accumulateddebit = SumField(source="accumulated_debit")
    accumulatedcredit = SumField(source="accumulated_credit")


class StatementLineSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    dateref = serializers.DateField()
    debitcredit = serializers.CharField()
    amount = SumField()
    eventcode = serializers.IntegerField()
    description = serializers.CharField()
    tracekey = serializers.UUIDField()
    createdat = serializers.DateTimeField(source="created_at")
    running = SumField(help_text="The balance after this line, in the statement's order.")


class StatementSerializer(serializers.Serializer[Any]):
    branch = serializers.CharField(source="account.branch")
    account = serializers.CharField(source="account.account")
    currency = serializers.CharField(source="account.currency")
    date_from = serializers.DateField()
    date_to = serializers.DateField()
    opening = SumField(help_text="Before the first line of the period.")
    closing = SumField(help_text="After its last line.")
    lines = StatementLineSerializer(many=True)
    next_cursor = serializers.CharField(allow_null=True)

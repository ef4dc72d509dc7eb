"""HTTP in, HTTP out, in the words of the tables. Parsing only: every rule is the engine's."""

from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.core.serializers.json import DjangoJSONEncoder
from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema_field
from rest_framework import serializers

from apps.common.json_text import WithExponent
from apps.common.known_fields import KnownFields
from apps.common.money import AMOUNT_TEXT, CURRENCY
from apps.common.openapi import amount_schema
from apps.ledger import public
from apps.ledger.public import BATCH_LINES_MAX, AccountRef, BatchTooLarge, Entry, EntryResult, Leg
from apps.ledger.rules import BATCH_KEY_CHARACTERS_MAX, ENTRY_LEGS_MAX, EVENT_CODE_MAX, GROUP_CHARACTERS_MAX, SUM_DIGITS_MAX

BATCH_ERRORS_MAX = 20  # malformed entries that an answer names; whoever sent more has one mistake, not twenty


@extend_schema_field(amount_schema(minimum=0))
class AmountField(serializers.DecimalField):
    """An amount as a JSON number or a text, exactly as written."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_digits=15, decimal_places=2, **options)

    def to_internal_value(self, data: Any) -> Decimal:
        is_plain = isinstance(data, int | Decimal | str) and not isinstance(data, bool | WithExponent)
        if not is_plain or not AMOUNT_TEXT.fullmatch(str(data)):
            raise serializers.ValidationError("An amount has digits and at most two decimal places, such as 10.50.")
        return Decimal(str(data))


@extend_schema_field({"type": ["object", "null"]})
class DetailsField(serializers.JSONField):
    """An object, or nothing."""


class SumField(serializers.DecimalField):
    """An amount or a sum, as a text with two decimal places."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_digits=SUM_DIGITS_MAX, decimal_places=2, **options)


class TracekeyField(serializers.UUIDField):
    """A UUID as a text. DRF alone takes whole numbers, and true for 00000000-0000-0000-0000-000000000001."""

    def to_internal_value(self, data: Any) -> UUID:
        if not isinstance(data, str):
            self.fail("invalid", value=data)
        found: UUID = super().to_internal_value(data)
        return found


class LegSerializer(KnownFields):
    """One line to post."""

    branch = serializers.CharField(max_length=20)
    account = serializers.CharField(max_length=40)
    currency = serializers.CharField(max_length=3, default=CURRENCY)
    amount = AmountField()
    debitcredit = serializers.ChoiceField(choices=[("D", "debit"), ("C", "credit")])
    eventcode = serializers.IntegerField(min_value=1, max_value=EVENT_CODE_MAX)
    description = serializers.CharField(max_length=255, default="", allow_blank=True)
    details = DetailsField(
        default=None,
        allow_null=True,
        encoder=DjangoJSONEncoder,  # our parser reads numbers as Decimal, which JSONField alone calls no JSON
        help_text="An object of the origin's own, up to 16 KiB; decimals are kept as texts.",
    )

    def validate_details(self, value: Any) -> Any:
        if value is not None and not isinstance(value, dict):
            raise serializers.ValidationError("details is an object.")
        return value


class EntryOptionsSerializer(KnownFields):
    """What may be said of any entry."""

    group = serializers.CharField(
        max_length=GROUP_CHARACTERS_MAX,
        default=None,
        allow_null=True,
        help_text="Within a batch: neighbours of one group are posted all, or none.",
    )


class LineRequestSerializer(LegSerializer, EntryOptionsSerializer):
    """POST /ledger/transactions with a single line."""

    tracekey = TracekeyField(help_text="Yours; a repeat with the same body answers the same and posts nothing.")
    dateref = serializers.DateField(
        default=None, allow_null=True, help_text="The day it counts for, up to 7 days back; absent: today in São Paulo."
    )


class EntryRequestSerializer(EntryOptionsSerializer):
    """POST /ledger/transactions with several legs whose debits equal their credits."""

    tracekey = TracekeyField()
    up_to = serializers.BooleanField(
        default=False, help_text="Of a transfer: post what the debited account has available, at most the legs' amount."
    )
    dateref = serializers.DateField(default=None, allow_null=True)
    legs = LegSerializer(many=True, allow_empty=False, max_length=ENTRY_LEGS_MAX)  # type: ignore[call-arg]  # of the list


def either_entry(*, many: bool = False) -> PolymorphicProxySerializer:
    """For the OpenAPI document: an entry is one line, or legs."""
    return PolymorphicProxySerializer(
        component_name="LedgerPosting",
        serializers=[LineRequestSerializer, EntryRequestSerializer],
        resource_type_field_name=None,
        many=many,
    )


@extend_schema_field(either_entry(many=True))
class EntriesField(serializers.ListField):
    """A list of entries."""


class PostingBatchRequestSerializer(serializers.Serializer[Any]):
    """POST /ledger/transactions/batch: entries, each a line or legs, with a tracekey of its own."""

    # For the document. ``read_batch`` reads it, for a form of its own for each entry would take most of the time.

    transactions = EntriesField(max_length=BATCH_LINES_MAX)
    key = serializers.CharField(
        max_length=BATCH_KEY_CHARACTERS_MAX,
        default=None,
        allow_null=True,
        help_text="Yours; a repeat of the same batch gets the same answer, refusals included.",
    )
    dry_run = serializers.BooleanField(default=False, help_text="Answer what would be, and post nothing.")


class BatchOptionsSerializer(KnownFields):
    """The same without the entries."""

    beside = frozenset({"transactions"})

    key = serializers.CharField(max_length=BATCH_KEY_CHARACTERS_MAX, default=None, allow_null=True)
    dry_run = serializers.BooleanField(default=False)


class EntryReader:
    """Reads entries: ``legs``, or the fields of one line. A form is costly to make, so one pair serves a whole batch."""

    def __init__(self) -> None:
        self._line, self._compound = LineRequestSerializer(), EntryRequestSerializer()

    def read(self, data: Any) -> Entry:
        """The entry that a body asks to post. Raises DRF's ValidationError."""
        is_compound = isinstance(data, dict) and "legs" in data
        values: dict[str, Any] = (self._compound if is_compound else self._line).run_validation(data)
        tracekey: UUID = values["tracekey"]
        dateref: date | None = values["dateref"]
        legs = values["legs"] if is_compound else [values]
        return Entry(
            tracekey=tracekey,
            legs=tuple(_leg(leg) for leg in legs),
            dateref=dateref,
            group=values["group"],
            up_to=values.get("up_to", False),
        )


def read_batch(data: Any) -> list[Entry]:
    """The entries of a batch. Raises DRF's ValidationError, which names the first BATCH_ERRORS_MAX that are malformed."""
    bodies = data.get("transactions") if isinstance(data, dict) else None
    if not isinstance(bodies, list) or not bodies:
        raise serializers.ValidationError({"transactions": ["A list of at least one entry is required."]})
    _check_line_count(len(bodies))
    _check_line_count(sum(map(_line_count, bodies)))  # before they are read, which takes a second for 40,000
    reader, entries, errors = EntryReader(), [], {}
    for index, body in enumerate(bodies):
        try:
            entries.append(reader.read(body))
        except serializers.ValidationError as error:
            errors[index] = error.detail
            if len(errors) == BATCH_ERRORS_MAX:
                break
    if errors:
        raise serializers.ValidationError({"transactions": errors})  # type: ignore[dict-item]  # keyed by index, as DRF's own
    return entries


def _line_count(body: Any) -> int:
    legs = body.get("legs") if isinstance(body, dict) else None
    return len(legs) if isinstance(legs, list) else 1


def _check_line_count(count: int) -> None:
    if count > BATCH_LINES_MAX:
        raise BatchTooLarge(f"A batch holds at most {BATCH_LINES_MAX} lines.", field="transactions")


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
    balances = BalancesSerializer(
        allow_null=True,
        help_text="Right after this line was posted; null when its account is deferred: rolled up later.",
    )


class PostResultSerializer(serializers.Serializer[Any]):
    tracekey = serializers.UUIDField()
    result = serializers.CharField(read_only=True, default="POSTED")
    replayed = serializers.BooleanField(help_text="Was it posted by an earlier request?")
    lines = PostedLineSerializer(many=True)


class PostingOutcomeSerializer(serializers.Serializer[public.Outcome]):
    """What became of one entry."""

    tracekey = serializers.UUIDField()
    result = serializers.ChoiceField(
        choices=["POSTED", "REFUSED", "UNKNOWN"],
        help_text="UNKNOWN: it changed nothing so far; it may still wait in the queue, or was never asked for.",
    )
    replayed = serializers.BooleanField(required=False, help_text="POSTED by an earlier request?")
    lines = PostedLineSerializer(many=True, required=False, help_text="Of what was POSTED.")
    code = serializers.CharField(required=False, help_text="Why it was REFUSED: R1xx; or R135: POSTED, lines archived.")
    detail = serializers.CharField(required=False)
    field = serializers.CharField(required=False, help_text="The field at fault, where there is one.")
    retryable = serializers.BooleanField(required=False, help_text="May the very same entry be posted later?")

    def to_representation(self, instance: public.Outcome) -> dict[str, Any]:
        belongs = {
            "POSTED": ("tracekey", "result", "replayed", "lines", "code", "detail"),
            "REFUSED": ("tracekey", "result", "code", "detail", "field", "retryable"),
            "UNKNOWN": ("tracekey", "result"),
        }[instance.result]
        body = super().to_representation(instance)
        return {name: value for name, value in body.items() if name in belongs and value != ""}


class PostingOutcomesSerializer(serializers.Serializer[Any]):
    results = PostingOutcomeSerializer(many=True)


class PostingsAcceptedSerializer(serializers.Serializer[Any]):
    """What was queued: one tracekey per entry, in order."""

    tracekeys = serializers.ListField(child=serializers.UUIDField())


def outcome_of(result: EntryResult) -> public.Outcome:
    """One entry of a batch that was posted at once."""
    if (refusal := result.refusal) is None:
        replayed, lines = (result.posting.replayed, result.posting.lines) if result.posting else (False, ())
        return public.Outcome(result.tracekey, "POSTED", replayed=replayed, lines=lines)
    return public.Outcome(
        result.tracekey,
        "REFUSED",
        code=refusal.code,
        detail=refusal.detail,
        field=refusal.field or "",
        retryable=refusal.retryable,
    )


class TransactionSerializer(PostedLineSerializer):
    description = serializers.CharField()
    tracekey = serializers.UUIDField()
    details = DetailsField(allow_null=True)
    createdat = serializers.DateTimeField(source="created_at")


class TransactionsSerializer(serializers.Serializer[Any]):
    transactions = TransactionSerializer(many=True)


class BalanceSerializer(serializers.Serializer[Any]):
    branch = serializers.CharField(source="account.branch")
    account = serializers.CharField(source="account.account")
    currency = serializers.CharField(source="account.currency")
    status = serializers.CharField()
    minbalance = SumField(source="min_balance", allow_null=True, help_text="The floor; null is no floor.")
    maxbalance = SumField(source="max_balance", allow_null=True, help_text="The ceiling; null is no ceiling.")
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


class MomentBalanceSerializer(serializers.Serializer[Any]):
    branch = serializers.CharField(source="account.branch")
    account = serializers.CharField(source="account.account")
    currency = serializers.CharField(source="account.currency")
    as_of = serializers.DateTimeField(source="moment")
    dateref = serializers.DateField(help_text="The last day that counts.")
    posted = SumField(help_text="Of the lines that had been inserted by then.")
    pending = SumField(help_text="What was held then.")
    available = SumField()
    accumulateddebit = SumField(source="accumulated_debit")
    accumulatedcredit = SumField(source="accumulated_credit")


class EventTotalSerializer(serializers.Serializer[Any]):
    eventcode = serializers.IntegerField()
    description = serializers.CharField(help_text="The event's, from the catalogue.")
    debitcredit = serializers.CharField()
    count = serializers.IntegerField()
    amount = SumField()


class EventTotalsSerializer(serializers.Serializer[Any]):
    branch = serializers.CharField(allow_null=True, help_text="null: all of them.")
    account = serializers.CharField(allow_null=True, help_text="null: all of the branch.")
    currency = serializers.CharField()
    date_from = serializers.DateField()
    date_to = serializers.DateField()
    debits = SumField(help_text="Of all events.")
    credits = SumField(help_text="Of all events.")
    events = EventTotalSerializer(many=True)


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

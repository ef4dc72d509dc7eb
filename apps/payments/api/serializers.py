"""The shapes of the merchants' API. Messages about a card never quote it."""

import re
from decimal import Decimal
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.common.known_fields import KnownFields
from apps.common.money import AMOUNT_TEXT
from apps.common.openapi import amount_schema
from apps.observability.logs import mask_cards

AMOUNT_PLACES_MAX = 2
DIGITS_MAX = 15  # numeric(15,2)
REFERENCE_CHARACTERS_MAX = 100
REFERENCE = re.compile(r"[\x20-\x7e\u00a0-\uffff]*")  # no control characters


@extend_schema_field(amount_schema(exclusiveMinimum=0))
class AmountField(serializers.Field[Decimal, Any, str, Any]):
    """A JSON number or text with at most two decimal places: 10, 10.5, "10.50"; not 1e1, 10.505, " 10" or "१०"."""

    default_error_messages = {"invalid": "An amount is a number with at most two decimal places, like 10.50."}

    def to_internal_value(self, data: Any) -> Decimal:
        if isinstance(data, bool) or not isinstance(data, int | Decimal | str):
            self.fail("invalid")
        if isinstance(data, str):
            if not AMOUNT_TEXT.fullmatch(data):
                self.fail("invalid")
            return Decimal(data)
        value = Decimal(data)
        exponent = value.as_tuple().exponent
        if not isinstance(exponent, int) or not -AMOUNT_PLACES_MAX <= exponent <= 0 or value <= 0 or value >= 10**13:
            self.fail("invalid")
        return value

    def to_representation(self, value: Decimal) -> str:
        return f"{value:.2f}"


class TextField(serializers.CharField):
    """Text that arrives as JSON text: a number is not taken for one."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class WholeField(serializers.IntegerField):
    """A whole number that arrives as a JSON number."""

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, int):
            self.fail("invalid")
        return super().to_internal_value(data)


def own_words(value: str, name: str) -> str:
    """Text of the merchant's own, which is stored and shown as it is. Raises ValidationError."""
    if not REFERENCE.fullmatch(value):
        raise serializers.ValidationError(f"A {name} has no control characters and no emoji.")
    if mask_cards(value) != value:
        raise serializers.ValidationError(f"This looks like a card number. Send a {name} of your own.")
    return value


class FlagField(serializers.BooleanField):
    """true or false, and nothing that could be taken for one of them."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input="This")
        return data


class CardRequest(KnownFields):
    """A card as its holder typed it."""

    # Wide on purpose: what is wrong with a number is the vault's to say.
    number = TextField(
        max_length=40, write_only=True, help_text="13 to 19 digits, perhaps in groups. Never stored in clear."
    )
    exp_month = WholeField(help_text="1 to 12")
    exp_year = WholeField(help_text="Four digits")
    cvv = TextField(max_length=4, write_only=True, help_text="Checked, and not kept.")
    holder = TextField(max_length=100, required=False, help_text="As printed on the card. Not kept.")


class CardResponse(serializers.Serializer[Any]):
    """A card in the vault."""

    token = serializers.CharField(help_text="Pays instead of the number. Keep it as safe as a password.")
    brand = serializers.CharField()
    bin = serializers.CharField(source="bin6", help_text="The first six digits.")
    last4 = serializers.CharField()
    exp_month = serializers.IntegerField()
    exp_year = serializers.IntegerField()


class PaymentRequest(KnownFields):
    """A payment by a card in the vault (card_token) or by one typed now (card): exactly one of them."""

    amount = AmountField(help_text='1.00 to 1000.00, a number or text: 10.50 or "10.50".')
    card_token = TextField(max_length=64, required=False)
    card = CardRequest(required=False)
    reference = TextField(
        max_length=REFERENCE_CHARACTERS_MAX, required=False, default="", allow_blank=True, help_text="Your own."
    )

    capture = FlagField(
        required=False, default=True, help_text="false: only authorise; capture or void it later, within seven days."
    )

    # No validator of the field: its pattern would stand in the document in a way that the empty text fails.
    def validate_reference(self, value: str) -> str:
        return own_words(value, "reference")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("card" in attrs) == ("card_token" in attrs):
            raise serializers.ValidationError({"card": "Send either card_token or card."})
        return attrs


class PaymentCard(serializers.Serializer[Any]):
    """What may be shown of a card."""

    brand = serializers.CharField(allow_blank=True)
    bin = serializers.CharField(allow_blank=True)
    last4 = serializers.CharField(allow_blank=True)


class PaymentError(serializers.Serializer[Any]):
    """Why it was rejected."""

    code = serializers.CharField(help_text="R2xx: our rules. Else the processor's: card_declined, insufficient_funds …")
    message = serializers.CharField()


class PaymentResponse(serializers.Serializer[Any]):
    """A payment."""

    id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=["approved", "rejected", "pending"])
    state = serializers.ChoiceField(
        choices=["PENDING", "UNKNOWN", "AUTHORISED", "CAPTURED", "REFUNDED", "REJECTED", "VOIDED"],
        help_text="The status, exactly.",
    )
    amount = serializers.CharField(
        allow_null=True, help_text="Two decimal places; null when it was voided before it was asked for."
    )
    captured_amount = serializers.CharField()
    refunded_amount = serializers.CharField()
    currency = serializers.CharField()
    method = serializers.CharField(help_text="card")
    reference = serializers.CharField(allow_blank=True)
    card = PaymentCard()
    error = PaymentError(allow_null=True)
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class OperationResponse(serializers.Serializer[Any]):
    """One thing that was asked of the processor."""

    kind = serializers.ChoiceField(choices=["authorise", "capture", "void", "refund"])
    status = serializers.CharField(help_text="REQUESTED, APPROVED, REJECTED or NOT_NEEDED")
    amount = serializers.CharField(allow_null=True, help_text="Two decimal places; a void has none.")
    processor_reference = serializers.CharField(allow_blank=True)
    error_code = serializers.CharField(allow_blank=True)
    error_message = serializers.CharField(allow_blank=True)
    times_asked = serializers.IntegerField()
    late_answers = serializers.IntegerField()
    requested_at = serializers.DateTimeField()
    answered_at = serializers.DateTimeField(allow_null=True)


class PaymentDetail(PaymentResponse):
    """A payment with what was asked of the processor."""

    operations = OperationResponse(many=True)


class PaymentPage(serializers.Serializer[Any]):
    """A page of payments, newest first."""

    payments = PaymentResponse(many=True)
    next_cursor = serializers.CharField(allow_null=True, help_text="Continue behind this page; null on the last one.")

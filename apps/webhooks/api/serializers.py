"""The shapes of the webhooks' API."""

from datetime import UTC, datetime
from typing import Any

from rest_framework import serializers

from apps.common.known_fields import KnownFields
from apps.observability.logs import mask_cards
from apps.webhooks.catalogue import TYPES
from apps.webhooks.models import DESCRIPTION_CHARACTERS_MAX, TYPES_MAX, URL_CHARACTERS_MAX, Delivery

OVERLAP_HOURS_MAX = 24
MOMENT = "A moment with its offset, as in 2026-11-22T08:00:00Z."


class TextField(serializers.CharField):
    """Text that arrives as JSON text: a number is not taken for one."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class DescriptionField(TextField):
    """A merchant's own words, stored and shown as they are."""

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if not text.isprintable() or mask_cards(text) != text:
            raise serializers.ValidationError("Words without control characters and card numbers.")
        return text


class MomentField(serializers.DateTimeField):
    """A moment in ISO 8601, with its offset from UTC."""

    def to_internal_value(self, value: Any) -> datetime:
        if not isinstance(value, str) or len(value) > 40:
            raise serializers.ValidationError(MOMENT)
        try:
            found = datetime.fromisoformat(value)
            if found.tzinfo is not None:
                return found.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        raise serializers.ValidationError(MOMENT)


def _types(**options: Any) -> serializers.ListField:
    each = serializers.ChoiceField(choices=sorted(TYPES))
    return serializers.ListField(
        child=each,
        min_length=1,
        max_length=TYPES_MAX,
        help_text="What it is told of: see GET /webhooks/event-types.",
        **options,
    )


class WebhookEndpointRequest(KnownFields):
    """A new endpoint."""

    url = TextField(max_length=URL_CHARACTERS_MAX, help_text="https, on port 443 or 8443, at a public address.")
    event_types = _types()
    description = DescriptionField(
        max_length=DESCRIPTION_CHARACTERS_MAX, required=False, default="", allow_blank=True, help_text="Your own words."
    )


class WebhookEndpointChange(KnownFields):
    """What is missing stays as it is."""

    url = TextField(max_length=URL_CHARACTERS_MAX, required=False)
    event_types = _types(required=False)
    description = DescriptionField(max_length=DESCRIPTION_CHARACTERS_MAX, required=False, allow_blank=True)
    enabled = serializers.BooleanField(
        required=False, help_text="false: nothing is sent. true: what waited meanwhile is sent now."
    )


class WebhookSecretRequest(KnownFields):
    """How long the secret before goes on signing."""

    overlap_hours = serializers.IntegerField(
        min_value=0,
        max_value=OVERLAP_HOURS_MAX,
        required=False,
        default=OVERLAP_HOURS_MAX,
        help_text="0: it ends at once, as when it has become known.",
    )


class WebhookRedeliveryRequest(KnownFields):
    """One delivery (delivery_id), or all that were given up since (failed_since): exactly one of them."""

    delivery_id = serializers.UUIDField(required=False)
    failed_since = MomentField(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("delivery_id" in attrs) == ("failed_since" in attrs):
            raise serializers.ValidationError({"delivery_id": "Send either delivery_id or failed_since."})
        return attrs


class WebhookEndpointResponse(serializers.Serializer[Any]):
    """An endpoint."""

    id = serializers.UUIDField()
    url = serializers.CharField()
    description = serializers.CharField(allow_blank=True)
    event_types = serializers.ListField(child=serializers.CharField())
    enabled = serializers.BooleanField()
    disabled_reason = serializers.CharField(allow_blank=True)
    failing_since = serializers.DateTimeField(allow_null=True, help_text="Since then every attempt has failed.")
    previous_secret_until = serializers.DateTimeField(
        allow_null=True, help_text="Until then everything is signed with the secret before, too."
    )
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class WebhookEndpointWithSecret(WebhookEndpointResponse):
    """An endpoint with its new secret."""

    secret = serializers.CharField(help_text="whsec_ and base64. It is shown this once.")


class WebhookEndpointsResponse(serializers.Serializer[Any]):
    """Your endpoints."""

    endpoints = WebhookEndpointResponse(many=True)


class WebhookDeliveryResponse(serializers.Serializer[Any]):
    """One event on its way to one endpoint."""

    id = serializers.UUIDField()
    webhook_id = serializers.UUIDField(help_text="The header webhook-id: the same in every attempt.")
    type = serializers.CharField()
    sequence = serializers.IntegerField()
    occurred_at = serializers.DateTimeField()
    state = serializers.ChoiceField(choices=Delivery.State.values)
    attempts = serializers.IntegerField()
    last_status = serializers.IntegerField(allow_null=True, help_text="null: there was no answer, or no attempt yet.")
    last_error = serializers.CharField(allow_blank=True)
    created_at = serializers.DateTimeField()
    next_attempt_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)


class WebhookDeliveryPage(serializers.Serializer[Any]):
    """A page of deliveries, newest first."""

    deliveries = WebhookDeliveryResponse(many=True)
    next_cursor = serializers.CharField(allow_null=True, help_text="Continue behind this page; null on the last one.")


class WebhookEventType(serializers.Serializer[Any]):
    """What an endpoint may be told of."""

    type = serializers.CharField()
    description = serializers.CharField()
    scope = serializers.CharField(help_text="Your account needs it to be told.")


class WebhookEventTypesResponse(serializers.Serializer[Any]):
    """All of them."""

    event_types = WebhookEventType(many=True)


class WebhookPingResponse(serializers.Serializer[Any]):
    """A ping that is on its way."""

    delivery_id = serializers.UUIDField()


class WebhookRedeliveryResponse(serializers.Serializer[Any]):
    """How many deliveries are on their way again."""

    count = serializers.IntegerField()

"""The shapes of answers, for the wire and for the OpenAPI document."""

from typing import Any

from rest_framework import serializers


class LinksSerializer(serializers.Serializer[Any]):
    self = serializers.CharField()
    xml = serializers.CharField(required=False)
    danfe = serializers.CharField(required=False)


class DocumentSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    kind = serializers.CharField(help_text="65 NFC-e, 55 NF-e")
    state = serializers.CharField()
    access_key = serializers.CharField(help_text="44 characters; letters are possible. Empty for a step undone early.")
    series = serializers.IntegerField(allow_null=True)
    number = serializers.IntegerField(allow_null=True)
    total = serializers.DecimalField(max_digits=15, decimal_places=2)
    issuer_cnpj = serializers.CharField()
    order_id = serializers.UUIDField(allow_null=True)
    environment = serializers.CharField(help_text="1 production, 2 homologation (no fiscal value)")
    issued_at = serializers.DateTimeField(allow_null=True)
    authorised_at = serializers.DateTimeField(allow_null=True)
    protocol = serializers.CharField()
    refusal_code = serializers.CharField(help_text="cStat of a rejection")
    refusal_reason = serializers.CharField()
    links = LinksSerializer()


class DocumentPageSerializer(serializers.Serializer[Any]):
    documents = DocumentSerializer(many=True)
    next_cursor = serializers.CharField(allow_null=True)

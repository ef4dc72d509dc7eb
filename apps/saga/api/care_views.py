"""Seeing to an incident over HTTP. Scope: sagas:operate."""

from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.common.problems import ProblemSerializer
from apps.saga import care
from apps.saga.api.serializers import Shape
from apps.saga.api.triage_serializers import IncidentSerializer
from apps.saga.api.views import operator, read
from apps.saga.audit import REASON_CHARACTERS_MAX
from apps.saga.incidents import incident


class CareSerializer(Shape):
    """Take an incident, give it back, or silence it until a moment."""

    do = serializers.ChoiceField(choices=["take", "release", "silence", "unsilence"])
    note = serializers.CharField(
        required=False, default="", allow_blank=True, max_length=care.NOTE_CHARACTERS_MAX, help_text="take: what is done."
    )
    instead_of = serializers.CharField(
        required=False, default="", allow_blank=True, max_length=200, help_text="take: whom it is taken over from."
    )
    until = serializers.DateTimeField(
        required=False, default=None, allow_null=True, help_text=f"silence: within {care.SILENCE_MAX.days} days."
    )
    reason = serializers.CharField(
        required=False,
        default="",
        allow_blank=True,
        max_length=REASON_CHARACTERS_MAX,
        help_text="silence: the audit keeps it.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """A silence has an end."""
        if attrs["do"] == "silence" and attrs["until"] is None:
            raise serializers.ValidationError({"until": "A silence has an end."})
        return attrs


class CareView(APIView):
    """Who sees to an incident."""

    @extend_schema(
        operation_id="saga_incident_care",
        summary="Take, give back or silence an incident",
        request=CareSerializer,
        responses={200: IncidentSerializer, **dict.fromkeys((401, 403, 404, 409, 422), ProblemSerializer)},
    )
    def post(self, request: Request, incident_id: UUID) -> Response:
        """Safe to repeat. A silence hides an incident from badge and home page, and from nothing else."""
        by = operator(request)
        values, now = read(request, CareSerializer), timezone.now()
        if values["do"] == "take":
            care.take(incident_id, by=by, note=values["note"], instead_of=values["instead_of"], now=now)
        elif values["do"] == "release":
            care.release(incident_id, by=by, now=now)
        elif values["do"] == "silence":
            care.silence(incident_id, until=values["until"], reason=values["reason"], by=by, now=now)
        else:
            care.unsilence(incident_id, by=by, now=now)
        return Response(IncidentSerializer(incident(incident_id)).data)

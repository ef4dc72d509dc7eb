"""The state manager over HTTP. Scopes: sagas:read, sagas:operate."""

from dataclasses import fields
from datetime import timedelta
from typing import Any

from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.common.errors import InvalidRequest, NotFound
from apps.common.pagination import page_rows
from apps.common.problems import ProblemSerializer
from apps.identity.public import Caller, require_scope
from apps.messaging import public as messaging
from apps.saga import audit, diagram, pauses, queries, search, triage, usecases
from apps.saga.api import questions, serializers

READ, OPERATE = "sagas:read", "sagas:operate"
MESSAGES_AFTER = timedelta(hours=1)  # messages may still travel after a run is over
REFUSED = dict.fromkeys((401, 403, 404, 422), ProblemSerializer)
CHANGE_REFUSED = {**REFUSED, 409: ProblemSerializer}


# --- Runs ---------------------------------------------------------------------------------------------------------------
class RunsView(APIView):
    """Runs."""

    @extend_schema(
        operation_id="saga_runs",
        summary="Find runs",
        parameters=questions.PARAMETERS,
        responses={200: serializers.RunsSerializer, **REFUSED},
    )
    def get(self, request: Request) -> Response:
        """The runs that meet all conditions, newest first, in pages, with a total that is exact up to 10,000."""
        require_scope(request, READ)
        now = timezone.now()
        page = search.find_runs(
            questions.filter_of(request, now=now),
            limit=page_rows(request.query_params.get("limit")),
            cursor=request.query_params.get("cursor"),
            now=now,
        )
        return Response(serializers.RunsSerializer(page).data)


class RunView(APIView):
    """One run."""

    @extend_schema(
        operation_id="saga_run",
        summary="The state of a run",
        responses={200: serializers.SagaRunSerializer, **REFUSED},
    )
    def get(self, request: Request, key: str) -> Response:
        """A run with its steps, attempts, messages and whom it waits for.

        By run id, global id or subject id, else by business key, else by Idempotency-Key; the newest where several have it.
        """
        require_scope(request, READ)
        now = timezone.now()
        state = queries.find_run(key)
        run = queries.found_run(state.run_id, now=now) if state is not None else None
        if state is None or run is None:
            raise NotFound("No run is known by this key.")
        until = (run.finished_at or now) + MESSAGES_AFTER
        told = {
            **{field.name: getattr(run, field.name) for field in fields(run)},
            "token": triage.token_of_state(state),
            "late_answers": state.late_answers,
            "steps": state.steps,
            "children": state.children,
            "locks": state.locks,
            "messages": messaging.messages_of(run.global_id, since=run.started_at, until=until),
            "interventions": audit.interventions(run_id=run.run_id),
        }
        return Response(serializers.SagaRunSerializer(told).data)


# --- Use cases ----------------------------------------------------------------------------------------------------------
class UseCasesView(APIView):
    """Use cases."""

    @extend_schema(
        operation_id="saga_use_cases",
        summary="All use cases",
        responses={200: serializers.UseCasesSerializer, **REFUSED},
    )
    def get(self, request: Request) -> Response:
        """Every use case with its owner, SLA, versions, pauses, and how many of its runs are not over."""
        require_scope(request, READ)
        found = usecases.use_cases()
        return Response(serializers.UseCasesSerializer({"use_cases": found, "total": len(found)}).data)


class UseCaseView(APIView):
    """One use case."""

    @extend_schema(
        operation_id="saga_use_case",
        summary="A use case",
        responses={200: serializers.UseCaseDetailSerializer, **REFUSED},
    )
    def get(self, request: Request, name: str) -> Response:
        """A use case with its steps, search attributes, pauses, and who intervened."""
        require_scope(request, READ)
        return Response(serializers.UseCaseDetailSerializer(usecases.use_case(name)).data)


class _PictureRenderer(BaseRenderer):
    """A picture as it is; a refusal, which is a document, as JSON."""

    charset = "utf-8"

    def render(self, data: Any, media_type: str | None = None, context: Any = None) -> bytes:
        if isinstance(data, str):
            return data.encode()
        found: bytes = JSONRenderer().render(data, media_type, context)
        return found


class _SvgRenderer(_PictureRenderer):
    media_type, format = "image/svg+xml", "svg"


class _MermaidRenderer(_PictureRenderer):
    media_type, format = "text/vnd.mermaid", "mmd"


class SvgView(APIView):
    """The picture of a use case."""

    renderer_classes = [_SvgRenderer, JSONRenderer]

    @extend_schema(
        operation_id="saga_use_case_svg",
        summary="A use case as an SVG",
        parameters=[questions.VERSION],
        responses={(200, "image/svg+xml"): OpenApiResponse(OpenApiTypes.STR), **REFUSED},
    )
    def get(self, request: Request, name: str) -> HttpResponse:
        """The steps from left to right, undo from right to left, the pivot marked."""
        require_scope(request, READ)
        definition = usecases.definition_for(name, questions.whole(request, "version"))
        return _picture(diagram.svg(definition), _SvgRenderer)


class MermaidView(APIView):
    """The picture of a use case as a text."""

    renderer_classes = [_MermaidRenderer, JSONRenderer]

    @extend_schema(
        operation_id="saga_use_case_mermaid",
        summary="A use case as Mermaid",
        parameters=[questions.VERSION],
        responses={(200, "text/vnd.mermaid"): OpenApiResponse(OpenApiTypes.STR), **REFUSED},
    )
    def get(self, request: Request, name: str) -> HttpResponse:
        """The same picture as a Mermaid flowchart."""
        require_scope(request, READ)
        return _picture(
            diagram.mermaid(usecases.definition_for(name, questions.whole(request, "version"))), _MermaidRenderer
        )


def _picture(text: str, renderer: type[_PictureRenderer]) -> HttpResponse:
    # An SVG may carry scripts: ours has none, and nobody's browser shall run any from here.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return HttpResponse(
        text, content_type=f"{renderer.media_type}; charset=utf-8", headers={"Content-Security-Policy": policy}
    )


# --- Pauses -------------------------------------------------------------------------------------------------------------
def operator(request: Request) -> str:
    """Who acts, if they may."""
    caller: Caller = require_scope(request, OPERATE)
    return f"account:{caller.account_id}"


def read(request: Request, shape: type[serializers.Shape]) -> dict[str, Any]:
    """The body's values. Raises InvalidRequest."""
    if not isinstance(request.data, dict):
        raise InvalidRequest("The body is not an object.")
    serializer = shape(data=request.data)
    serializer.is_valid(raise_exception=True)
    values: dict[str, Any] = serializer.validated_data
    return values


def _told(name: str) -> Response:
    return Response(serializers.UseCaseDetailSerializer(usecases.use_case(name)).data)


_TOLD = {200: serializers.UseCaseDetailSerializer, **CHANGE_REFUSED}


class PauseUseCaseView(APIView):
    """Pause a use case."""

    @extend_schema(
        operation_id="saga_pause_use_case",
        summary="Pause a use case",
        request=serializers.PauseUseCaseSerializer,
        responses=_TOLD,
    )
    def post(self, request: Request, name: str) -> Response:
        """Begin no new run: they wait, or are refused with R513. Runs that have begun go on."""
        by = operator(request)
        values = read(request, serializers.PauseUseCaseSerializer)
        pauses.pause(name, reason=values["reason"], refuses=values["mode"] == "refuse", by=by, now=timezone.now())
        return _told(name)


class ResumeUseCaseView(APIView):
    """Resume a use case."""

    @extend_schema(
        operation_id="saga_resume_use_case",
        summary="Resume a use case",
        request=serializers.ResumeSerializer,
        responses=_TOLD,
    )
    def post(self, request: Request, name: str) -> Response:
        """Let new runs begin, and those that wait go on at once."""
        by = operator(request)
        values = read(request, serializers.ResumeSerializer)
        pauses.lift(name, reason=values["reason"], pause_id=values.get("pause_id"), by=by, now=timezone.now())
        return _told(name)


class PauseStepView(APIView):
    """Pause a step."""

    @extend_schema(
        operation_id="saga_pause_step",
        summary="Pause a step",
        request=serializers.PauseStepSerializer,
        responses=_TOLD,
    )
    def post(self, request: Request, name: str, step: str) -> Response:
        """Begin this step in no run; what is under way ends. The runs wait before it, and nothing fails."""
        by = operator(request)
        values = read(request, serializers.PauseStepSerializer)
        pauses.pause(name, step, reason=values["reason"], holds_undo=values["holds_undo"], by=by, now=timezone.now())
        return _told(name)


class ResumeStepView(APIView):
    """Resume a step."""

    @extend_schema(
        operation_id="saga_resume_step",
        summary="Resume a step",
        request=serializers.ResumeSerializer,
        responses=_TOLD,
    )
    def post(self, request: Request, name: str, step: str) -> Response:
        """Let the runs that wait before this step go on at once, also when its breaker paused it."""
        by = operator(request)
        values = read(request, serializers.ResumeSerializer)
        pauses.lift(name, step, reason=values["reason"], pause_id=values.get("pause_id"), by=by, now=timezone.now())
        return _told(name)

"""Forking, resetting and adopting over HTTP. Scopes: sagas:read to look, sagas:operate to act."""

from collections import Counter
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.common.errors import NotFound
from apps.common.problems import ProblemSerializer
from apps.identity.public import require_scope
from apps.saga import forks, resets
from apps.saga.adoption import adopt_many
from apps.saga.adoption_rows import legacy_of
from apps.saga.api import fork_serializers as shapes
from apps.saga.api.serializers import FoundRunSerializer
from apps.saga.api.views import READ, operator, read
from apps.saga.queries import found_run

_REFUSED = dict.fromkeys((401, 403, 404, 409, 422), ProblemSerializer)


class ForkView(APIView):
    """Fork a run."""

    @extend_schema(
        operation_id="saga_fork",
        summary="Try a run again in a sandbox",
        request=shapes.ForkSerializer,
        responses={201: shapes.ForkStateSerializer, **_REFUSED},
    )
    def post(self, request: Request, run_id: UUID) -> Response:
        """Do the steps of a run that is over or stuck once more, from a step on: nothing is sent, and nothing stays."""
        by = operator(request)
        values = read(request, shapes.ForkSerializer)
        state = forks.fork(
            run_id,
            from_step=values["from_step"],
            data=values.get("input"),
            answers=values["answers"],
            reason=values["reason"],
            by=by,
            now=timezone.now(),
        )
        return Response(
            shapes.ForkStateSerializer(state).data, status=201, headers={"Location": f"/sagas/forks/{state.fork_id}"}
        )


class ForksView(APIView):
    """The forks of a run."""

    @extend_schema(
        operation_id="saga_forks", summary="The forks of a run", responses={200: shapes.ForksSerializer, **_REFUSED}
    )
    def get(self, request: Request, run_id: UUID) -> Response:
        """What was tried with this run, the newest first."""
        require_scope(request, READ)
        return Response(shapes.ForksSerializer({"forks": forks.forks_of(run_id)}).data)


class ForkStateView(APIView):
    """One fork."""

    @extend_schema(
        operation_id="saga_fork_state", summary="A fork", responses={200: shapes.ForkStateSerializer, **_REFUSED}
    )
    def get(self, request: Request, fork_id: UUID) -> Response:
        """A try in the sandbox, with what it would have sent and posted."""
        require_scope(request, READ)
        state = forks.fork_state(fork_id)
        if state is None:
            raise NotFound("There is no such fork.")
        return Response(shapes.ForkStateSerializer(state).data)


class ResetView(APIView):
    """Reset a run."""

    @extend_schema(
        operation_id="saga_reset",
        summary="Let a failed run go forward again from a step",
        request=shapes.ResetSerializer,
        responses={200: FoundRunSerializer, **_REFUSED},
    )
    def post(self, request: Request, run_id: UUID) -> Response:
        """Only where it is safe: the steps before are still done, the others undone, refused, failed or never begun."""
        by = operator(request)
        values = read(request, shapes.ResetSerializer)
        now = timezone.now()
        resets.reset(run_id, to_step=values["to_step"], reason=values["reason"], by=by, now=now)
        return Response(FoundRunSerializer(found_run(run_id, now=now)).data)


class AdoptView(APIView):
    """Adopt transactions."""

    @extend_schema(
        operation_id="saga_adopt",
        summary="Take over transactions that another system began",
        request=shapes.AdoptRequestSerializer,
        responses={200: shapes.AdoptedSerializer, **_REFUSED},
    )
    def post(self, request: Request) -> Response:
        """Each in a commit of its own, with its own outcome. Safe to repeat: what was adopted before is known."""
        by = operator(request)
        values = read(request, shapes.AdoptSerializer)
        outcomes = list(
            adopt_many(
                (legacy_of(row) for row in values["runs"]),
                reason=values["reason"],
                by=by,
                now=timezone.now(),
                dry_run=values["dry_run"],
            )
        )
        counted = Counter(each.outcome for each in outcomes)
        told = {word: counted[word] for word in ("adopted", "known", "refused")}
        return Response(shapes.AdoptedSerializer({"dry_run": values["dry_run"], "outcomes": outcomes, **told}).data)

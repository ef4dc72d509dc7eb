"""The shapes of the state manager's API."""

from datetime import timedelta
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.saga.audit import REASON_CHARACTERS_LEAST, REASON_CHARACTERS_MAX
from apps.saga.usecases import UseCaseState

Shape = serializers.Serializer[Any]


def _amount(**options: Any) -> serializers.DecimalField:
    """Money as a text, with all its decimals."""
    return serializers.DecimalField(max_digits=None, decimal_places=None, **options)


@extend_schema_field({"type": "number", "format": "double"})
class _SecondsField(serializers.Field[timedelta, Any, float, Any]):
    """A length of time."""

    def to_representation(self, value: timedelta) -> float:
        return value.total_seconds()


# --- In -----------------------------------------------------------------------------------------------------------------
class ReasonSerializer(Shape):
    """Why somebody intervenes."""

    reason = serializers.CharField(
        min_length=REASON_CHARACTERS_LEAST, max_length=REASON_CHARACTERS_MAX, help_text="The audit keeps it."
    )


class PauseUseCaseSerializer(ReasonSerializer):
    """Begin no new run of a use case."""

    mode = serializers.ChoiceField(
        choices=["wait", "refuse"], default="wait", help_text="wait: new runs wait; refuse: they are refused with R513."
    )


class PauseStepSerializer(ReasonSerializer):
    """Do not begin a step in any run."""

    holds_undo = serializers.BooleanField(default=True, help_text="The undo of the step waits too.")


class ResumeSerializer(ReasonSerializer):
    """Let go on what is paused."""

    pause_id = serializers.UUIDField(required=False, help_text="Only if it is this pause: the one that you saw.")


# --- Out: runs ----------------------------------------------------------------------------------------------------------
_WAITS = ["answer", "call", "retry", "undo", "worker", "pause", "person", "timer", "approval", "branches", "lock"]


class WaitSerializer(Shape):
    """Whom a run waits for."""

    kind = serializers.ChoiceField(choices=_WAITS)
    whom = serializers.CharField()
    since = serializers.DateTimeField(allow_null=True)
    until = serializers.DateTimeField(allow_null=True)


class PromiseSerializer(Shape):
    """The SLA of a run, and how it stands."""

    target_at = serializers.DateTimeField()
    deadline_at = serializers.DateTimeField()
    standing = serializers.ChoiceField(choices=["within", "slow", "late"])


class FoundRunSerializer(Shape):
    """A run in a list."""

    id = serializers.UUIDField(source="run_id")
    global_id = serializers.UUIDField()
    subject_id = serializers.UUIDField()
    use_case = serializers.CharField()
    version = serializers.IntegerField()
    business_key = serializers.CharField()
    idempotency_key = serializers.CharField()
    status = serializers.ChoiceField(
        choices=["RUNNING", "WAITING", "COMPENSATING", "COMPLETED", "COMPENSATED", "STUCK", "HANDLED"]
    )
    step = serializers.CharField(help_text="Where it is; empty when it is over.")
    failed_step = serializers.CharField()
    error_code = serializers.CharField()
    error_detail = serializers.CharField()
    attributes = serializers.DictField()
    amount = _amount(allow_null=True, help_text="What is at risk.")
    started_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)
    held_by = serializers.UUIDField(allow_null=True, help_text="The pause that holds it.")
    waits_for = WaitSerializer(source="wait", allow_null=True)
    sla = PromiseSerializer(source="promise", allow_null=True)
    deadline_at = serializers.DateTimeField(allow_null=True, help_text="Of the whole run: it is undone then, or late.")
    parent_id = serializers.UUIDField(allow_null=True, help_text="The run of whose step it is a branch.")
    branch = serializers.CharField()


class RunsSerializer(Shape):
    """A page of runs, newest first."""

    runs = FoundRunSerializer(source="rows", many=True)
    next_cursor = serializers.CharField(allow_null=True)
    total = serializers.IntegerField(help_text="Of the whole question; exact up to 10,000.")
    total_is_exact = serializers.BooleanField()
    total_text = serializers.CharField(help_text="1,284 or 10,000+")
    amount = _amount(help_text="The sum of the amounts of so many runs.")


class AttemptSerializer(Shape):
    """One try to do or undo a step."""

    undo = serializers.BooleanField()
    number = serializers.IntegerField()
    outcome = serializers.CharField()
    started_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)
    error_code = serializers.CharField()
    error_detail = serializers.CharField()


class RunStepSerializer(Shape):
    """One step of a run, with its tries."""

    name = serializers.CharField()
    kind = serializers.ChoiceField(choices=["COMPENSABLE", "PIVOT", "RETRIABLE"])
    shape = serializers.CharField()
    status = serializers.CharField()
    attempts = AttemptSerializer(source="tries", many=True)
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    undone_at = serializers.DateTimeField(allow_null=True)
    retry_at = serializers.DateTimeField(allow_null=True)
    waiting_until = serializers.DateTimeField(allow_null=True)
    error_code = serializers.CharField()
    error_detail = serializers.CharField()


class MessageSerializer(Shape):
    """A message that carries the run's global id."""

    id = serializers.UUIDField(source="message_id")
    topic = serializers.CharField()
    key = serializers.CharField()
    schema = serializers.CharField()
    state = serializers.CharField()
    created_at = serializers.DateTimeField()
    detail = serializers.CharField()


class InterventionSerializer(Shape):
    """Who intervened, and why."""

    at = serializers.DateTimeField()
    actor = serializers.CharField()
    action = serializers.CharField()
    step = serializers.CharField()
    reason = serializers.CharField()
    detail = serializers.DictField()


class ChildSerializer(Shape):
    """A branch of a run: a run of its own."""

    id = serializers.UUIDField(source="run_id")
    step = serializers.CharField()
    branch = serializers.CharField()
    use_case = serializers.CharField()
    business_key = serializers.CharField()
    status = serializers.CharField()
    error_code = serializers.CharField()
    started_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)


class LockSerializer(Shape):
    """A key of a run that is not over."""

    key = serializers.CharField()
    held = serializers.BooleanField(help_text="False: it waits for it, or will.")
    asked_at = serializers.DateTimeField()
    held_at = serializers.DateTimeField(allow_null=True)
    holder = serializers.UUIDField(allow_null=True, help_text="The run that holds it.")
    holder_business_key = serializers.CharField()
    ahead = serializers.IntegerField(help_text="Runs that wait for it before this one.")


class SagaRunSerializer(FoundRunSerializer):
    """A run with its steps, attempts, messages and interventions. Inputs and outputs are not told: they may be personal."""

    token = serializers.CharField(help_text="Its state: what an action on it may demand as expected.")
    late_answers = serializers.IntegerField()
    steps = RunStepSerializer(many=True)
    children = ChildSerializer(many=True)
    locks = LockSerializer(many=True)
    messages = MessageSerializer(many=True)
    interventions = InterventionSerializer(many=True)


# --- Out: use cases -----------------------------------------------------------------------------------------------------
class SlaSerializer(Shape):
    """How long a run may take, in seconds: later than target it is slow, later than deadline late."""

    target_s = _SecondsField(source="target")
    deadline_s = _SecondsField(source="deadline")


class AttributeSerializer(Shape):
    """What runs can be found by."""

    name = serializers.CharField()
    type = serializers.ChoiceField(choices=["str", "int", "bool", "Decimal", "date", "datetime"], source="type.__name__")
    description = serializers.CharField()
    from_step = serializers.CharField(help_text="Empty: known from the start.")


class BreakerSerializer(Shape):
    """When failures pause the step, in seconds."""

    failures = serializers.IntegerField()
    within_s = _SecondsField(source="within")
    probe_after_s = _SecondsField(source="probe_after")


class StepTermsSerializer(Shape):
    """A step of a use case."""

    name = serializers.CharField()
    kind = serializers.ChoiceField(choices=["COMPENSABLE", "PIVOT", "RETRIABLE"])
    shape = serializers.CharField()
    description = serializers.CharField(source="told")
    partner = serializers.CharField(help_text="Whom it asks or calls.")
    attempts_max = serializers.IntegerField()
    undo_attempts_max = serializers.IntegerField()
    breaker = BreakerSerializer(allow_null=True)


class VersionSerializer(Shape):
    """The runs of a version that are not over."""

    version = serializers.IntegerField()
    registered = serializers.BooleanField(help_text="False: nobody knows how its runs go on.")
    live = serializers.IntegerField()
    held = serializers.IntegerField()
    stuck = serializers.IntegerField()
    migrates_from = serializers.ListField(child=serializers.IntegerField())


class PauseSerializer(Shape):
    """A pause in force."""

    id = serializers.UUIDField()
    step = serializers.CharField(help_text="Empty: no new run begins.")
    by_breaker = serializers.BooleanField(source="breaker")
    mode = serializers.ChoiceField(choices=["wait", "refuse"], help_text="Of a use case: what becomes of new runs.")
    holds_undo = serializers.BooleanField()
    reason = serializers.CharField()
    paused_by = serializers.CharField()
    paused_at = serializers.DateTimeField()
    held = serializers.IntegerField(help_text="Runs that it holds; 10,000 means that many or more.")
    probe_at = serializers.DateTimeField(allow_null=True, help_text="When the breaker lets a run try.")


class UseCaseSerializer(Shape):
    """A use case in the list."""

    name = serializers.CharField()
    owner = serializers.CharField()
    description = serializers.CharField()
    version = serializers.IntegerField(help_text="The newest.")
    paused = serializers.BooleanField(help_text="Does no new run begin?")
    sla = SlaSerializer(allow_null=True)
    versions = VersionSerializer(many=True)
    pauses = PauseSerializer(many=True)
    links = serializers.SerializerMethodField()

    def get_links(self, state: UseCaseState) -> dict[str, str]:
        """Where to go on."""
        address = f"/sagas/use-cases/{state.name}"
        runs = f"/sagas?use_case={state.name}"
        return {"self": address, "runs": runs, "svg": f"{address}/diagram.svg", "mermaid": f"{address}/diagram.mmd"}


class UseCasesSerializer(Shape):
    """All use cases."""

    use_cases = UseCaseSerializer(many=True)
    total = serializers.IntegerField()


class UseCaseDetailSerializer(UseCaseSerializer):
    """A use case with its steps and attributes, and who intervened."""

    attributes = AttributeSerializer(many=True)
    steps = StepTermsSerializer(many=True)
    interventions = InterventionSerializer(many=True)

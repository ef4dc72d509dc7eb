"""The shapes of forking, resetting and adopting over HTTP."""

from typing import Any

from rest_framework import serializers

from apps.saga.adoption import KEY_CHARACTERS_MAX, ROWS_MAX
from apps.saga.api.serializers import Shape
from apps.saga.audit import REASON_CHARACTERS_LEAST, REASON_CHARACTERS_MAX


class _AnyField(serializers.Field[Any, Any, Any, Any]):
    """What it is, somebody else says."""

    def to_internal_value(self, data: Any) -> Any:
        return data


class ReasonSerializer(Shape):
    """Why somebody intervenes."""

    reason = serializers.CharField(
        min_length=REASON_CHARACTERS_LEAST, max_length=REASON_CHARACTERS_MAX, help_text="The audit keeps it."
    )


# --- In -----------------------------------------------------------------------------------------------------------------
class ForkSerializer(ReasonSerializer):
    """Try in a sandbox what a run would do from a step on."""

    from_step = serializers.CharField(required=False, default="", max_length=100, help_text="The first when absent.")
    input = serializers.DictField(required=False, help_text="Another input; the run's own when absent.")
    answers = serializers.DictField(
        required=False,
        default=dict,
        child=serializers.DictField(),
        help_text="By step: what the other side shall have said.",
    )


class ResetSerializer(ReasonSerializer):
    """Let a failed run go forward again from a step."""

    to_step = serializers.CharField(max_length=100)


class LegacySerializer(Shape):
    """A transaction that is taken over."""

    use_case = serializers.CharField()
    version = serializers.IntegerField(required=False, help_text="The newest when absent.")
    at_step = serializers.CharField(help_text="The step with which it goes on here.")
    subject_id = serializers.UUIDField()
    business_key = serializers.CharField(max_length=KEY_CHARACTERS_MAX)
    idempotency_key = serializers.CharField(required=False, max_length=KEY_CHARACTERS_MAX)
    input = serializers.DictField(required=False, help_text="Its input. Amounts are kept as text.")
    outputs = serializers.DictField(
        required=False, child=serializers.DictField(), help_text="By step: what those before at_step have left."
    )


class AdoptSerializer(ReasonSerializer):
    """Take over transactions that another system began."""

    dry_run = serializers.BooleanField(default=False, help_text="Check everything, and write nothing.")
    # Read one by one: what is wrong with one of them is its own outcome, and not the request's.
    runs = serializers.ListField(child=_AnyField(), min_length=1, max_length=ROWS_MAX)


class AdoptRequestSerializer(ReasonSerializer):
    """The same, as the document tells it."""

    dry_run = serializers.BooleanField(default=False, help_text="Check everything, and write nothing.")
    runs = serializers.ListField(child=LegacySerializer(), min_length=1, max_length=ROWS_MAX)


# --- Out ----------------------------------------------------------------------------------------------------------------
class AdoptOutcomeSerializer(Shape):
    """What became of one of them."""

    number = serializers.IntegerField(help_text="Its place in the request, from 1.")
    business_key = serializers.CharField()
    outcome = serializers.ChoiceField(choices=["adopted", "known", "refused"])
    run_id = serializers.UUIDField(allow_null=True, help_text="Null when it was refused, or would be new in a dry run.")
    code = serializers.CharField(help_text="Of the refusal.")
    detail = serializers.CharField()


class AdoptedSerializer(Shape):
    """What became of all of them."""

    dry_run = serializers.BooleanField()
    adopted = serializers.IntegerField()
    known = serializers.IntegerField()
    refused = serializers.IntegerField()
    outcomes = AdoptOutcomeSerializer(many=True)


class ForkStepSerializer(Shape):
    """A step of a fork."""

    name = serializers.CharField()
    how = serializers.ChoiceField(
        choices=["run", "taken", "given", "not_asked", "kept"],
        help_text="Done in the sandbox, output taken from the run, answer given, not asked, or kept before the first step.",
    )
    status = serializers.ChoiceField(choices=["DONE", "NOT_ASKED", "REFUSED", "FAILED"])
    error_code = serializers.CharField()
    error_detail = serializers.CharField()
    took_ms = serializers.FloatField()


class ForkPublishedSerializer(Shape):
    """A message that would have been sent."""

    topic = serializers.CharField()
    schema = serializers.CharField()
    key = serializers.CharField()


class ForkStateSerializer(Shape):
    """A try in the sandbox. Inputs and outputs are not told: they may be personal."""

    id = serializers.UUIDField(source="fork_id")
    forked_from = serializers.UUIDField()
    use_case = serializers.CharField()
    version = serializers.IntegerField()
    business_key = serializers.CharField()
    from_step = serializers.CharField()
    status = serializers.ChoiceField(choices=["COMPLETED", "REFUSED", "FAILED"])
    failed_step = serializers.CharField()
    error_code = serializers.CharField()
    error_detail = serializers.CharField()
    edited = serializers.BooleanField(help_text="Was the input an edited one?")
    steps = ForkStepSerializer(many=True)
    published = ForkPublishedSerializer(many=True)
    posted = serializers.DictField(
        child=serializers.ListField(child=serializers.DictField()),
        help_text="What it would have written: the ledger's lines.",
    )
    reason = serializers.CharField()
    made_by = serializers.CharField()
    made_at = serializers.DateTimeField()


class ForksSerializer(Shape):
    """The forks of a run, the newest first."""

    forks = ForkStateSerializer(many=True)

"""The shapes of triage: incidents, and actions on runs."""

from typing import Any

from rest_framework import serializers

from apps.saga.api.serializers import Shape
from apps.saga.audit import REASON_CHARACTERS_LEAST, REASON_CHARACTERS_MAX
from apps.saga.filters import CONDITIONS_MAX, STATES
from apps.saga.models import RunStatus
from apps.saga.selection import RUNS_MAX
from apps.saga.triage import Action

TEXT_MAX = 200


def _money(**options: Any) -> serializers.DecimalField:
    return serializers.DecimalField(max_digits=None, decimal_places=None, **options)


def _text(**options: Any) -> serializers.CharField:
    return serializers.CharField(max_length=TEXT_MAX, required=False, default="", allow_blank=True, **options)


# --- In -----------------------------------------------------------------------------------------------------------------
class RunFilterSerializer(Shape):
    """Runs that meet everything that is given; without state and status those that are not over."""

    use_case = _text()
    version = serializers.IntegerField(required=False, default=None, allow_null=True, min_value=0, max_value=32767)
    state = serializers.ChoiceField(choices=STATES, required=False, default="")
    status = serializers.ListField(
        child=serializers.ChoiceField(choices=RunStatus.values), required=False, default=list, max_length=10
    )
    step = _text(help_text="Where the run is, or failed.")
    error_code = _text()
    waiting_for = _text(help_text="A partner's name.")
    older_than_s = serializers.IntegerField(
        required=False, default=None, allow_null=True, min_value=0, max_value=999_999_999
    )
    started_from = serializers.DateTimeField(required=False, default=None, allow_null=True)
    started_before = serializers.DateTimeField(required=False, default=None, allow_null=True)
    attributes = serializers.ListField(
        child=serializers.CharField(max_length=300),
        required=False,
        default=list,
        max_length=CONDITIONS_MAX,
        help_text="customer_id=…, amount>=100",
    )


class ActionRequestSerializer(Shape):
    """What shall be done to which runs: run_ids, incident_id or filter, one of them."""

    action = serializers.ChoiceField(choices=[each.value for each in Action])
    run_ids = serializers.ListField(child=serializers.UUIDField(), required=False, default=list, max_length=RUNS_MAX)
    incident_id = serializers.UUIDField(required=False, default=None, allow_null=True)
    filter = RunFilterSerializer(required=False, default=None, allow_null=True)
    reason = serializers.CharField(
        required=False,
        default="",
        allow_blank=True,
        max_length=REASON_CHARACTERS_MAX,
        help_text=f"At least {REASON_CHARACTERS_LEAST} characters; the audit keeps it. Not needed for a dry run.",
    )
    dry_run = serializers.BooleanField(default=False, help_text="Tell what would become of each run; change nothing.")
    input = serializers.JSONField(
        required=False, default=None, help_text="retry: a change of the runs' input, merged into it (RFC 7396)."
    )
    output = serializers.JSONField(required=False, default=None, help_text="skip: the output of the step, an object.")
    expected = _text(help_text="For one run: only if its state is still this one (token of the run, or of its page).")
    runs_max = serializers.IntegerField(
        required=False, default=None, allow_null=True, min_value=1, max_value=RUNS_MAX, help_text="Only the first ones."
    )


class CancelActionSerializer(Shape):
    """Why an action is stopped."""

    reason = serializers.CharField(min_length=REASON_CHARACTERS_LEAST, max_length=REASON_CHARACTERS_MAX)


# --- Out: incidents -----------------------------------------------------------------------------------------------------
class IncidentSerializer(Shape):
    """Errors of one kind, with what they affect in this moment."""

    id = serializers.UUIDField()
    use_case = serializers.CharField()
    step = serializers.CharField()
    error_code = serializers.CharField(help_text="R… of a refusal, the name of a technical error.")
    error_class = serializers.ChoiceField(choices=["business", "technical", "unknown"])
    detail = serializers.CharField(help_text="What the newest error said.")
    first_seen = serializers.DateTimeField()
    last_seen = serializers.DateTimeField()
    count = serializers.IntegerField(help_text="Failed attempts since the first.")
    status = serializers.ChoiceField(choices=["OPEN", "HANDLED"])
    openings = serializers.IntegerField(help_text="1, and one more each time it came back after it was handled.")
    handled_by = serializers.CharField()
    handled_at = serializers.DateTimeField(allow_null=True)
    handled_reason = serializers.CharField()
    owner = serializers.CharField(help_text="Who sees to it; empty: nobody.")
    owner_note = serializers.CharField()
    owned_at = serializers.DateTimeField(allow_null=True)
    silenced_until = serializers.DateTimeField(allow_null=True, help_text="Nobody is called for until then.")
    silenced_by = serializers.CharField()
    silenced_reason = serializers.CharField()
    runs = serializers.IntegerField(help_text="Affected now, counted up to 10,001.")
    runs_is_exact = serializers.BooleanField()
    stuck = serializers.IntegerField(help_text="Of these: need a person.")
    amount = _money(help_text="At risk in these runs.")


class IncidentsSerializer(Shape):
    """A page of incidents, those seen last first."""

    incidents = IncidentSerializer(many=True)
    next_cursor = serializers.CharField(allow_null=True)
    total = serializers.IntegerField()


class ActionSerializer(Shape):
    """An action on runs, and how far it is."""

    id = serializers.UUIDField()
    action = serializers.ChoiceField(choices=[each.value for each in Action])
    status = serializers.ChoiceField(choices=["ASKED", "RUNNING", "DONE", "CANCELLED"])
    told = serializers.CharField(help_text="Which runs, in words.")
    incident_id = serializers.UUIDField(allow_null=True)
    reason = serializers.CharField()
    runs = serializers.IntegerField()
    amount = _money(help_text="At risk when it was asked for.")
    asked_by = serializers.CharField()
    asked_at = serializers.DateTimeField()
    approved_by = serializers.CharField(help_text="Empty: nobody had to.")
    approved_at = serializers.DateTimeField(allow_null=True)
    cancelled_by = serializers.CharField()
    cancelled_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    pending = serializers.IntegerField()
    done = serializers.IntegerField()
    refused = serializers.IntegerField(help_text="Left alone; code says why.")
    failed = serializers.IntegerField(help_text="A fault of ours; nothing was changed.")
    cancelled = serializers.IntegerField()


class IncidentDetailSerializer(IncidentSerializer):
    """An incident with its trend and what people did about it."""

    trend = serializers.ListField(child=serializers.IntegerField(), help_text="Errors per five minutes of two hours.")
    actions = ActionSerializer(many=True, help_text="The newest ones that were asked for on it.")


# --- Out: actions -------------------------------------------------------------------------------------------------------
class ActionItemSerializer(Shape):
    """What became of one run."""

    run_id = serializers.UUIDField()
    business_key = serializers.CharField()
    amount = _money(allow_null=True)
    status = serializers.ChoiceField(choices=["PENDING", "DONE", "REFUSED", "FAILED", "CANCELLED"])
    code = serializers.CharField(help_text="Why it was left alone, or failed; empty when it was done.")
    detail = serializers.CharField()
    at = serializers.DateTimeField(allow_null=True)


class ActionPageSerializer(ActionSerializer):
    """An action with a page of its runs, in the order in which they began."""

    items = ActionItemSerializer(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class OutcomeSerializer(Shape):
    """What would become of one run."""

    run_id = serializers.UUIDField()
    business_key = serializers.CharField()
    amount = _money(allow_null=True)
    code = serializers.CharField(help_text="Why it would be left alone; empty when it would be done.")
    detail = serializers.CharField()
    left = serializers.ListField(
        child=serializers.CharField(),
        help_text="handle: what its use case says stays half done, of at most 100 runs.",
    )


class SumSerializer(Shape):
    """Runs of which the same would become."""

    code = serializers.CharField()
    detail = serializers.CharField()
    runs = serializers.IntegerField()
    amount = _money()


class PreviewSerializer(Shape):
    """A dry run."""

    action = serializers.ChoiceField(choices=[each.value for each in Action])
    told = serializers.CharField()
    runs = serializers.IntegerField()
    amount = _money()
    needs_approval = serializers.BooleanField()
    sums = SumSerializer(many=True)
    outcomes = OutcomeSerializer(many=True, help_text="Of the first 500 runs.")

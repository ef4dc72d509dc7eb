"""Which runs somebody asks for, as values; and as conditions on the rows."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import DecimalField, Q, QuerySet, TextField
from django.db.models.expressions import RawSQL

from apps.common.errors import DomainError
from apps.saga import attributes
from apps.saga.attributes import AMOUNT, InvalidAttribute, Json, encode_text
from apps.saga.definition import CallStep, Definition, registered
from apps.saga.models import IN_ERROR, LIVE, OPEN, Run, RunStatus

# Runs as people group them, all of them among those that are not over: history does not slow these questions.
STATES = ("open", "live", "in_error", "stuck", "waiting", "held", "slow", "late")
CONDITIONS_MAX = 10  # of attributes, in one question
_CONDITION = re.compile(r"([a-z][a-z0-9_]{0,62})(=|>=|<=)(.*)", re.DOTALL)
_ORDERED = (int, Decimal, date, datetime)


class UnknownAttribute(DomainError):
    """No use case declares this search attribute."""

    code, status = "R518", 422


class InvalidCondition(DomainError):
    """The condition on a search attribute is malformed."""

    code, status = "R519", 422


class UnknownState(DomainError):
    """There is no such state or status of a run."""

    code, status = "R520", 422


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """``name operator value``; the value in the form in which attributes are kept."""

    name: str
    kind: type
    operator: str
    value: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which runs: those that meet everything that is given.

    ``state``: one of STATES. ``step``: where the run is, or failed. ``waiting_for``: a partner's name.
    """

    use_case: str = ""
    version: int | None = None
    state: str = ""
    statuses: tuple[str, ...] = ()
    step: str = ""
    error_code: str = ""
    waiting_for: str = ""
    started_from: datetime | None = None
    started_before: datetime | None = None
    conditions: tuple[Condition, ...] = ()
    run_id: UUID | None = None
    global_id: UUID | None = None
    subject_id: UUID | None = None
    business_key: str = ""
    idempotency_key: str = ""


def types_of_attributes(use_case: str = "") -> dict[str, type]:
    """The search attributes that are declared, in one use case or in any, with their types."""
    return {
        attribute.name: attribute.type
        for definition in registered()
        if not use_case or definition.use_case == use_case
        for attribute in definition.attributes
    }


def condition(text: str, *, use_case: str = "") -> Condition:
    """Read ``customer_id=…``, ``amount>=100`` or ``due<=2026-12-31``. Raises InvalidCondition or UnknownAttribute."""
    match = _CONDITION.fullmatch(text)
    if match is None or "\x00" in text:
        raise InvalidCondition("A condition is name=value, name>=value or name<=value.", field="attribute")
    name, operator, typed = match.groups()
    kind = types_of_attributes(use_case).get(name)
    if kind is None:
        where = f"Use case {use_case} has no" if use_case else "No use case has a"
        raise UnknownAttribute(f"{where} search attribute {name}.", field="attribute")
    if operator != "=" and kind not in _ORDERED:
        raise InvalidCondition(f"{name} is {kind.__name__}: it can only be equal.", field="attribute")
    try:
        value = encode_text(kind, typed)
    except InvalidAttribute as error:
        raise InvalidCondition(f"{name}: {error}.", field="attribute") from None
    return Condition(name=name, kind=kind, operator=operator, value=value)


def amount_condition(operator: str, amount: Decimal) -> Condition:
    """A condition on what is at risk."""
    return Condition(name=AMOUNT, kind=Decimal, operator=operator, value=attributes.encode(Decimal, amount))


# --- On the rows --------------------------------------------------------------------------------------------------------
def matching(wanted: Filter, *, now: datetime) -> "QuerySet[Run]":
    """The runs that a filter asks for, in no order. Raises UnknownState."""
    if unknown := set(wanted.statuses) - set(RunStatus.values):
        raise UnknownState(f"{sorted(unknown)[0]} is no status: {', '.join(RunStatus.values)}.", field="status")
    rows = Run.objects.filter(_keys(wanted), _place(wanted), in_state(wanted, now=now)).order_by()
    for index, each in enumerate(wanted.conditions):
        rows = _attribute(rows, each, index)
    return rows


def _keys(wanted: Filter) -> Q:
    given: dict[str, Any] = {
        "pk": wanted.run_id,
        "global_id": wanted.global_id,
        "subject_id": wanted.subject_id,
        "use_case": wanted.use_case or None,
        "version": wanted.version,
        "status__in": wanted.statuses or None,
        "error_code": wanted.error_code or None,
        "business_key": wanted.business_key or None,
        "idempotency_key": wanted.idempotency_key or None,
        "started_at__gte": wanted.started_from,
        "started_at__lt": wanted.started_before,
    }
    found = Q(**{column: value for column, value in given.items() if value is not None})
    for column in ("error_code", "idempotency_key"):  # says what their indexes want to hear
        if given[column] is not None:
            found &= ~Q(**{column: ""})
    return found


def _definitions(wanted: Filter) -> list[Definition]:
    return [each for each in registered() if not wanted.use_case or each.use_case == wanted.use_case]


def _at(places: Iterable[tuple[Definition, list[str]]]) -> Q:
    """The runs that are not over and stand at these steps."""
    found = Q(pk__in=[])
    for definition, names in places:
        if names:
            # Runs that were written before they named their step themselves stand where their definition says.
            positions = [at for at, step in enumerate(definition.steps) if step.name in names]
            here = Q(at_step__in=names) | Q(at_step="", cursor__in=positions)
            found |= Q(use_case=definition.use_case, version=definition.version) & here
    return Q(status__in=OPEN) & found


def _place(wanted: Filter) -> Q:
    found = Q()
    if wanted.step:
        places = [(each, [wanted.step] if wanted.step in each.by_name else []) for each in _definitions(wanted)]
        found &= Q(failed_step=wanted.step) & ~Q(error_code="") | _at(places)
    if wanted.waiting_for:
        found &= _waits_for(wanted.waiting_for, _definitions(wanted))
    return found


def _waits_for(partner: str, definitions: Iterable[Definition]) -> Q:
    asked, called = [], []
    for definition in definitions:
        theirs = [step for step in definition.all_steps if step.partner == partner]
        called.append((definition, [step.name for step in theirs if isinstance(step, CallStep)]))
        asked.append((definition, [step.name for step in theirs if not isinstance(step, CallStep)]))
    undoing = Q(status=RunStatus.COMPENSATING, held_by__isnull=True)
    return (_at(asked) & (Q(status=RunStatus.WAITING) | undoing)) | (_at(called) & (Q(token__isnull=False) | undoing))


def in_state(wanted: Filter, *, now: datetime) -> Q:
    """The condition of a filter's state, and of its use case's SLA where that matters. Raises UnknownState."""
    states: dict[str, Q] = {
        "": Q(),
        "open": Q(status__in=OPEN),
        "live": Q(status__in=LIVE),
        "in_error": IN_ERROR,
        "stuck": Q(status=RunStatus.STUCK),
        "waiting": Q(status__in=LIVE) & (Q(status=RunStatus.WAITING) | Q(token__isnull=False)),
        "held": Q(held_by__isnull=False),
    }
    if wanted.state in states:
        return states[wanted.state]
    if wanted.state not in STATES:
        raise UnknownState(f"A state is one of {', '.join(STATES)}.", field="state")
    found = Q(deadline_at__lt=now) if wanted.state == "late" else Q(pk__in=[])
    for definition in _definitions(wanted):
        if definition.sla is not None:
            within = definition.sla.target if wanted.state == "slow" else definition.sla.deadline
            found |= Q(use_case=definition.use_case, version=definition.version, started_at__lt=now - within)
    return Q(status__in=OPEN) & found


# Text becomes a number only where it is one: PostgreSQL may look at rows of other use cases first.
_VALUES: dict[type, tuple[str, Any]] = {
    Decimal: ("CASE WHEN attributes->>%s ~ '^-?[0-9]+[.][0-9]+$' THEN (attributes->>%s)::numeric END", DecimalField),
    int: ("CASE WHEN jsonb_typeof(attributes->%s) = 'number' THEN (attributes->>%s)::numeric END", DecimalField),
    date: ('COALESCE(attributes->>%s, attributes->>%s) COLLATE "C"', TextField),
    datetime: ('COALESCE(attributes->>%s, attributes->>%s) COLLATE "C"', TextField),
}


def _attribute(rows: "QuerySet[Run]", wanted: Condition, index: int) -> "QuerySet[Run]":
    indexed = rows.exclude(attributes={})  # says what the index wants to hear
    if wanted.operator == "=":
        return indexed.filter(attributes__contains={wanted.name: wanted.value})
    sql, field = _VALUES[wanted.kind]
    value = Decimal(wanted.value) if field is DecimalField else wanted.value
    name = f"attribute_{index}"
    # The text is one of the four above, the attribute's name a parameter.
    of_it = RawSQL(sql, (wanted.name, wanted.name), output_field=field())  # noqa: S611
    compare = "gte" if wanted.operator == ">=" else "lte"
    return indexed.alias(**{name: of_it}).filter(**{f"{name}__{compare}": value})

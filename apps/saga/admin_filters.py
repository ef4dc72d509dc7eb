"""Filters of the list of runs that other pages lead to: a number there is a door to exactly the runs that it counts.

They show only while they are used: nobody chooses them from a menu.
"""

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Coalesce, Now
from django.http import HttpRequest
from django.utils import timezone

from apps.common.clock import first_uuid7
from apps.saga.definition import registered
from apps.saga.models import OPEN, Attempt, Run, RunStatus, Step
from apps.saga.pace import ERRORS, WINDOWS

UNDO = "undo:"
SECONDS_MAX = 10**9  # thirty years: more is no time, and PostgreSQL's intervals end somewhere


class _LedTo(admin.SimpleListFilter):
    """A filter that another page sets."""

    def value(self) -> str | None:
        """What is asked for; nothing when it is no text of ours."""
        asked: str | None = super().value()
        return asked if asked and "\x00" not in asked else None

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        value = self.value()
        return [(value, self.says(value))] if value else []

    def says(self, value: str) -> str:
        """The value in words."""
        step = value.removeprefix(UNDO)
        return f"Undo of {step}" if value.startswith(UNDO) else step


class AtFilter(_LedTo):
    """The runs that stand at a step, or undo it, now."""

    title = "at the step"
    parameter_name = "at"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Run]) -> QuerySet[Run]:
        value = self.value()
        if not value:
            return queryset
        here = Step.objects.filter(run_id=OuterRef("pk"), position=OuterRef("cursor"), name=value.removeprefix(UNDO))
        undoing = Q(status=RunStatus.COMPENSATING)
        return queryset.filter(undoing if value.startswith(UNDO) else ~undoing, Exists(here), status__in=OPEN)


class _Outcome(_LedTo):
    outcomes: tuple[str, ...] = ()

    def queryset(self, request: HttpRequest, queryset: QuerySet[Run]) -> QuerySet[Run]:
        value = self.value()
        if not value:
            return queryset
        named = Step.objects.filter(run_id=OuterRef("run_id"), name=value.removeprefix(UNDO))
        tries = Attempt.objects.filter(
            run_id=OuterRef("pk"),
            undo=value.startswith(UNDO),
            outcome__in=self.outcomes,
            position__in=named.values("position"),
        )
        return queryset.filter(Exists(tries))


class FailedFilter(_Outcome):
    """The runs in which an attempt at the step, or at its undo, failed."""

    title = "failed at"
    parameter_name = "failed"
    outcomes = ERRORS


class RefusedFilter(_Outcome):
    """The runs in which somebody refused the step."""

    title = "refused at"
    parameter_name = "refused"
    outcomes = ("REFUSED",)


class EnteredFilter(_LedTo):
    """The runs that began a step; ``undo:`` before it, those that undid it."""

    title = "began the step"
    parameter_name = "entered"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Run]) -> QuerySet[Run]:
        value = self.value()
        if not value:
            return queryset
        step = Step.objects.filter(run_id=OuterRef("pk"), name=value.removeprefix(UNDO))
        undone = value.startswith(UNDO)
        return queryset.filter(Exists(step.filter(undone_at__isnull=False) if undone else step.filter(attempts__gt=0)))


class TookFilter(_LedTo):
    """The runs that were in a step for at least so many seconds: ``step:seconds``."""

    title = "took at least"
    parameter_name = "took"

    def says(self, value: str) -> str:
        step, _, seconds = value.rpartition(":")
        return f"{step}: {seconds} s"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Run]) -> QuerySet[Run]:
        step, _, text = (self.value() or "").rpartition(":")
        if not step:
            return queryset
        try:
            least = timedelta(seconds=min(float(text), SECONDS_MAX))
        except (ValueError, OverflowError):  # the latter for "-inf"
            return queryset.none()
        since = Coalesce("finished_at", Now()) - max(least, timedelta(0))
        return queryset.filter(Exists(Step.objects.filter(run_id=OuterRef("pk"), name=step, started_at__lte=since)))


class BegunFilter(_LedTo):
    """The runs that began in a window which ends now; their ids begin with their time."""

    title = "began in the last"
    parameter_name = "begun"

    def says(self, value: str) -> str:
        return value

    def queryset(self, request: HttpRequest, queryset: QuerySet[Run]) -> QuerySet[Run]:
        window = WINDOWS.get(self.value() or "")
        return queryset.filter(pk__gte=first_uuid7(timezone.now() - window)) if window else queryset


LED_TO = (AtFilter, FailedFilter, RefusedFilter, EnteredFilter, TookFilter, BegunFilter)


class UseCaseFilter(admin.SimpleListFilter):
    """The use cases that are registered: asking the table for them would read all of it."""

    title = "use case"
    parameter_name = "use_case"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in sorted({definition.use_case for definition in registered()})]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(use_case=self.value()) if self.value() else queryset

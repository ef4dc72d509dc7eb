"""What an error asks for: undo, another attempt, or a question first."""

from typing import Any

import pytest

from apps.common.errors import DomainError, UnknownOutcome
from apps.saga.definition import COMPENSABLE, PIVOT, RETRIABLE, Kind, LocalStep
from apps.saga.failing import BUSINESS, TECHNICAL, UNKNOWN, NoAnswer, class_of, outcome_of
from apps.saga.models import AttemptOutcome
from apps.saga.terms import ErrorClass


class Refusal(DomainError):
    """No."""

    code = "R999"


class NotNow(DomainError):
    """Not now."""

    code, retryable = "R998", True


class Passing(DomainError):
    """Not now, whatever is asked for."""

    code, retryable, passes = "R997", True, True


def step(kind: Kind = COMPENSABLE, **more: Any) -> LocalStep:
    made: LocalStep = type("Made", (LocalStep,), {"name": "a", "kind": kind, **more})()
    return made


class TestClassOf:
    @pytest.mark.parametrize(
        ("error", "found"),
        [
            (Refusal(), BUSINESS),
            (NotNow(), BUSINESS),
            (RuntimeError(), TECHNICAL),
            (UnknownOutcome(), UNKNOWN),
            (NoAnswer(), UNKNOWN),
        ],
    )
    def test_follows_from_the_type(self, error: Exception, found: ErrorClass) -> None:
        assert class_of(step(), error) is found
        assert class_of(step(PIVOT), error) is found

    def test_what_may_be_accepted_later_is_asked_for_again_where_there_is_no_other_way(self) -> None:
        assert class_of(step(RETRIABLE), NotNow()) is TECHNICAL
        assert class_of(step(), NotNow(), undo=True) is TECHNICAL
        assert class_of(step(RETRIABLE), Refusal()) is BUSINESS
        assert class_of(step(), Refusal(), undo=True) is BUSINESS

    @pytest.mark.parametrize("undo", [False, True])
    @pytest.mark.parametrize("kind", [COMPENSABLE, PIVOT, RETRIABLE])
    def test_what_passes_by_itself_is_tried_again_and_undoes_nothing(self, kind: Kind, undo: bool) -> None:
        assert class_of(step(kind), Passing(), undo=undo) is TECHNICAL

    def test_a_step_may_say_otherwise_and_the_nearest_type_decides(self) -> None:
        own = step(errors={Exception: UNKNOWN, OSError: BUSINESS, Refusal: TECHNICAL})
        assert class_of(own, ConnectionError()) is BUSINESS
        assert class_of(own, ValueError()) is UNKNOWN
        assert class_of(own, Refusal()) is TECHNICAL
        assert class_of(own, Refusal(), undo=True) is TECHNICAL


class TestOutcomeOf:
    @pytest.mark.parametrize(
        ("error", "found", "outcome"),
        [
            (NoAnswer(), UNKNOWN, AttemptOutcome.NO_ANSWER),
            (RuntimeError(), UNKNOWN, AttemptOutcome.UNKNOWN),
            (RuntimeError(), TECHNICAL, AttemptOutcome.FAILED),
            (RuntimeError(), BUSINESS, AttemptOutcome.REFUSED),
            (NotNow(), TECHNICAL, AttemptOutcome.REFUSED),
        ],
    )
    def test_is_what_the_attempt_is_called(self, error: Exception, found: ErrorClass, outcome: AttemptOutcome) -> None:
        assert outcome_of(error, found) is outcome

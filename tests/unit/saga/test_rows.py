"""The engine's rows are those of the models."""

from dataclasses import MISSING, fields
from typing import Any

import pytest
from django.db import models

from apps.saga.models import Attempt, Run, Step
from apps.saga.rows import RUN_CHANGES, AttemptRow, RunRow, StepRow


def columns(model: type[models.Model]) -> set[str]:
    return {str(field.column) for field in model._meta.concrete_fields}


class TestRows:
    @pytest.mark.parametrize(("row", "model"), [(StepRow, Step), (RunRow, Run), (AttemptRow, Attempt)])
    def test_have_every_column_of_their_model_but_the_run(self, row: Any, model: type[models.Model]) -> None:
        assert {field.name for field in fields(row)} == columns(model) - {"run_id", "rescues"}

    @pytest.mark.parametrize(("row", "model"), [(StepRow, Step), (RunRow, Run), (AttemptRow, Attempt)])
    def test_begin_with_the_defaults_of_their_model(self, row: Any, model: type[models.Model]) -> None:
        optional = [field for field in fields(row) if field.default is not MISSING or field.default_factory is not MISSING]
        for field in optional:
            default = field.default if field.default_factory is MISSING else field.default_factory()
            assert default == model._meta.get_field(field.name).get_default(), field.name

    def test_keep_what_a_run_began_with(self) -> None:
        fixed = {"id", "global_id", "use_case", "version", "subject_id", "business_key", "data", "started_at"}
        fixed |= {"idempotency_key", "renamed", "rescues"}  # the last one is the sweeper's
        fixed |= {"deadline_at", "parent_id", "parent_position", "branch"}
        assert columns(Run) - set(RUN_CHANGES) == fixed

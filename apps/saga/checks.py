"""What ``manage.py check`` says about the use cases, beside whether they are sound (apps/saga/definition.py)."""

from typing import Any

from django.core import checks

from apps.saga.definition import registered
from apps.saga.governance import problems_between, problems_of
from apps.saga.snapshots import Snapshots
from apps.saga.versions import mapping_problems


@checks.register("saga")
def check_governance(**_options: Any) -> list[checks.CheckMessage]:
    """Every definition has an owner, a description, an SLA, typed attributes, and named partners."""
    found = [
        f"{definition.use_case} v{definition.version}: {problem}."
        for definition in registered()
        for problem in problems_of(definition)
    ]
    found += [f"{problem}." for problem in problems_between(registered())]
    return [checks.Error(problem, id="saga.E002") for problem in found]


@checks.register("saga")
def check_snapshots(**_options: Any) -> list[checks.CheckMessage]:
    """No definition has other steps than the snapshot of its version."""
    return [checks.Error(f"{problem}.", id="saga.E003") for problem in Snapshots().problems()]


@checks.register("saga")
def check_mappings(**_options: Any) -> list[checks.CheckMessage]:
    """Every mapping from an older version is one by which its runs could move."""
    return [
        checks.Error(f"{definition.use_case} v{definition.version}: {problem}.", id="saga.E004")
        for definition in registered()
        for problem in mapping_problems(definition)
    ]

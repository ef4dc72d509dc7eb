"""A Celery application whose workers know a toy run with branches: ``celery -A tests.failures.branches worker``.

As in owners.py the outside world is OWNERS_FOLDER. OWNERS_NAME is the worker's name: whoever is about to return from a call
while the gate is shut tells that it is in, as which worker and for which run.
"""

import os
from collections.abc import Mapping
from typing import Any

import django
from django.apps import apps

from config.celery import app

if not apps.ready:
    django.setup()

from apps.saga.definition import COMPENSABLE, PIVOT, RETRIABLE, Definition, Run, register  # needs Django
from apps.saga.shapes import Child, ParallelStep
from tests.failures.owners import GATE, Call, Local, folder, note, until

BRANCHES = 4

# A queue in PostgreSQL hands out a message each time it is looked at: look often, and send no tasks but the sweeper's.
if "OWNERS_NAME" in os.environ:
    app.conf.broker_transport_options = {**app.conf.broker_transport_options, "polling_interval": 0.05}
    app.conf.beat_schedule = {"sweep-sagas": app.conf.beat_schedule["sweep-sagas"]}


class TellingCall(Call):
    """Has its effect in the outside world, then waits for the gate, and tells who did it."""

    def call(self, run: Run) -> dict[str, Any]:
        answer = self._effect(run)
        if (folder() / GATE).exists():
            (folder() / f"in {os.environ['OWNERS_NAME']} {run.id}").touch()
            until(lambda: not (folder() / GATE).exists(), "the gate opens")
        return answer

    def record(self, run: Run, outcome: dict[str, Any]) -> dict[str, Any]:
        note(f"record {self.name} {run.step_key}")
        return {"by": os.environ["OWNERS_NAME"]}


BRANCH = register(
    Definition("test.branched.one", 1, (Local("x", COMPENSABLE), TellingCall("y", PIVOT), Local("z", RETRIABLE)))
)


class Fan(ParallelStep):
    """So many branches at once."""

    name, kind, definitions = "fan", RETRIABLE, (BRANCH,)

    def branches(self, run: Run) -> Mapping[str, Child]:
        return {f"b{number}": Child(BRANCH, run.subject_id, run.business_key, {}) for number in range(BRANCHES)}


WHOLE = register(Definition("test.branched", 1, (Local("a", PIVOT), Fan(), Local("c", RETRIABLE))))
__all__ = ["BRANCH", "WHOLE", "app"]

"""What the tests of the saga's storage share: runs of any age, written without the engine."""

import secrets
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from django.db import connection

from apps.common.clock import first_uuid7
from apps.saga.models import LIVE, Attempt, Run, RunStatus, Step


def id_at(moment: datetime) -> UUID:
    """An id that was made at this moment."""
    return UUID(int=first_uuid7(moment).int | secrets.randbits(56))


def run_at(
    moment: datetime,
    *,
    status: str = RunStatus.COMPLETED,
    use_case: str = "test.old",
    lasts: timedelta = timedelta(seconds=1),
) -> Run:
    """A run of two steps, the second one done at its second attempt."""
    run = Run.objects.create(
        id=id_at(moment),
        global_id=uuid4(),
        use_case=use_case,
        version=1,
        subject_id=uuid4(),
        business_key=f"key of {moment:%Y-%m-%d}",
        status=status,
        cursor=2,
        data={"amount": "10.50", "who": "Zé"},
        started_at=moment,
        finished_at=None if status in (*LIVE, RunStatus.STUCK) else moment + lasts,
        due_at=moment if status in LIVE else None,
    )
    for position, tries in enumerate((1, 2)):
        Step.objects.create(
            run=run,
            position=position,
            name=f"s{position}",
            kind="COMPENSABLE",
            shape="local",
            status="DONE",
            attempts=tries,
        )
        for number in range(1, tries + 1):
            Attempt.objects.create(run=run, position=position, number=number, outcome="DONE", started_at=moment)
    return run


def home_of(table: str, key: str, run_id: UUID) -> set[str]:
    """The partitions in which a run's rows of a table lie."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT DISTINCT tableoid::regclass::text FROM {table} WHERE {key} = %s", [run_id])
        return {name for (name,) in cursor.fetchall()}

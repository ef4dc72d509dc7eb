"""How the engine reads and writes its rows: one statement for whatever a commit changes.

Note [One write]
A commit of the engine writes run, steps, attempts and the messages of its steps by one statement, as four JSON texts: a
round trip instead of five, and few values for the driver. Nothing is read that the engine knows already.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Any
from uuid import UUID

import orjson
from django.db import connection, models

from apps.common import prepared
from apps.messaging.public import WITH_MESSAGES, Collected
from apps.saga.models import Attempt, Run, Step
from apps.saga.rows import RUN_CHANGES, AttemptRow, RunRow, StepRow

_RUN = tuple(field.name for field in fields(RunRow))
_STEP = tuple(field.name for field in fields(StepRow))
_ATTEMPT = tuple(field.name for field in fields(AttemptRow))
_JSON = ("data", "attributes", "renamed")
changes = attrgetter(*RUN_CHANGES)  # of a run: equal ones need not be written
_run_values, _step_values, _attempt_values = attrgetter(*_RUN), attrgetter(*_STEP), attrgetter(*_ATTEMPT)


# --- Reading ------------------------------------------------------------------------------------------------------------
_LOCK = f"SELECT {', '.join(_RUN)} FROM saga_run WHERE id = %(id)s FOR NO KEY UPDATE"  # noqa: S608  # names of columns
_STEPS = f"SELECT {', '.join(_STEP)} FROM saga_step WHERE run_id = %(id)s ORDER BY position"  # noqa: S608


def lock(run_id: UUID, *, wait: bool) -> tuple[RunRow, list[StepRow]] | None:
    """Lock a run and read its steps. None when there is no such run, or (without ``wait``) another owner has it."""
    # The lock in one statement, the steps in the next: a statement that waits for a lock keeps its old snapshot.
    key = {"id": run_id}
    runs, steps = prepared.fetch_each((_LOCK if wait else f"{_LOCK} SKIP LOCKED", key), (_STEPS, key))
    if not runs:
        return None
    found = runs[0]
    run = RunRow(**dict(zip(_RUN, found, strict=True)))
    for name in _JSON:
        setattr(run, name, json.loads(found[_RUN.index(name)]))
    return run, [_step(values) for values in steps]


def _step(values: Sequence[Any]) -> StepRow:
    step = StepRow(**dict(zip(_STEP, values, strict=True)))
    step.output = json.loads(values[_STEP.index("output")])
    return step


# --- Writing ------------------------------------------------------------------------------------------------------------
def insert(run: RunRow, steps: Iterable[StepRow], attempts: Iterable[AttemptRow], collected: Collected | None) -> None:
    """Write a new run with all its steps, and the messages that were collected."""
    _write(_insert, {"id": run.id, "run": _run_text(run), **_lists(steps, attempts)}, collected)


def update(run: RunRow, steps: Iterable[StepRow], attempts: Iterable[AttemptRow], collected: Collected | None) -> None:
    """Write what has changed of a locked run: itself, these steps and attempts, and the messages that were collected."""
    _write(_update, {"id": run.id, "run": _run_text(run), **_lists(steps, attempts)}, collected)


def replace_steps(run_id: UUID, steps: Iterable[StepRow]) -> None:
    """Write the list of steps of a locked run anew: one of them has revised it."""
    values = {"id": run_id, "steps": _lists(steps, ())["steps"]}
    prepared.execute("DELETE FROM saga_step WHERE run_id = %(id)s", {"id": run_id})
    prepared.execute(_insert_steps(), values)


def _write(statement: Any, values: dict[str, Any], collected: Collected | None) -> None:
    messages = collected.take() if collected is not None else {}
    cursor = prepared.execute(statement(with_messages=bool(messages)), {**values, **messages})
    assert cursor.rowcount == 1  # noqa: S101  # the run is new, or locked by this transaction


def _run_text(run: RunRow) -> str:
    for name in _JSON:
        _check(getattr(run, name))
    try:
        return orjson.dumps(run).decode()
    except TypeError:
        return _encode(_record(_RUN, _run_values(run)))


def _lists(steps: Iterable[StepRow], attempts: Iterable[AttemptRow]) -> dict[str, str]:
    listed, tried = list(steps), list(attempts)
    for step in listed:
        _check(step.output)
    try:
        # Dataclasses, moments and ids are written by orjson itself: a quarter of the time of a dictionary for each row.
        return {"steps": orjson.dumps(listed).decode(), "attempts": orjson.dumps(tried).decode()}
    except TypeError:  # a number beyond 64 bits, or a key that is none: the database may take them all the same
        return {
            "steps": _encode([_record(_STEP, _step_values(step)) for step in listed]),
            "attempts": _encode([_record(_ATTEMPT, _attempt_values(attempt)) for attempt in tried]),
        }


def _check(value: dict[str, Any]) -> None:
    """Only JSON may be in it: what orjson would translate comes back as something else. Raises TypeError or ValueError."""
    if value:
        _encode(value)


def _record(names: Sequence[str], values: Iterable[Any]) -> dict[str, Any]:
    """A row as JSON can carry it. What is missing is read as NULL. Within a step's output nothing is translated."""
    return {
        name: value.isoformat() if value.__class__ is datetime else value.hex if value.__class__ is UUID else value
        for name, value in zip(names, values, strict=True)
        if value is not None
    }


_encode = json.JSONEncoder(check_circular=False, allow_nan=False).encode


# --- The statements -------------------------------------------------------------------------------------------------------
@cache
def _types(model: type[models.Model]) -> dict[str, str]:
    return {str(field.column): str(field.db_type(connection)) for field in model._meta.concrete_fields}


def _as(model: type[models.Model], names: Sequence[str]) -> str:
    """What a JSON object of these names is read as."""
    types = _types(model)
    return ", ".join(f"{name} {types[name]}" for name in names)


def _one_line(text: str) -> str:
    # psycopg remembers how to read a statement of up to 4,096 characters, and reads a longer one every time.
    return " ".join(text.split())


def _set(names: Iterable[str]) -> str:
    return ", ".join(f"{name} = g.{name}" for name in names)


@cache
def _insert(*, with_messages: bool) -> str:
    run, step, attempt = ", ".join(_RUN), ", ".join(_STEP), ", ".join(_ATTEMPT)
    return _one_line(f"""
WITH step AS (
    INSERT INTO saga_step (run_id, {step})
    SELECT %(id)s, {step} FROM jsonb_to_recordset(%(steps)s::jsonb) AS g ({_as(Step, _STEP)})
), attempt AS (
    INSERT INTO saga_attempt (run_id, {attempt})
    SELECT %(id)s, {attempt} FROM jsonb_to_recordset(%(attempts)s::jsonb) AS g ({_as(Attempt, _ATTEMPT)})
){", " + WITH_MESSAGES if with_messages else ""}
INSERT INTO saga_run ({run})
SELECT {run} FROM jsonb_to_record(%(run)s::jsonb) AS g ({_as(Run, _RUN)})
""")  # noqa: S608  # names of columns


@cache
def _insert_steps() -> str:
    step = ", ".join(_STEP)
    return _one_line(f"""
INSERT INTO saga_step (run_id, {step})
SELECT %(id)s, {step} FROM jsonb_to_recordset(%(steps)s::jsonb) AS g ({_as(Step, _STEP)})
""")  # noqa: S608  # names of columns


@cache
def _update(*, with_messages: bool) -> str:
    attempt = ", ".join(_ATTEMPT)
    changes = [name for name in _STEP if name not in ("position", "name", "kind", "shape")]
    return _one_line(f"""
WITH tried AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(attempts)s::jsonb) AS g ({_as(Attempt, _ATTEMPT)})
), step AS (
    UPDATE saga_step SET {_set(changes)} FROM jsonb_to_recordset(%(steps)s::jsonb) AS g ({_as(Step, _STEP)})
    WHERE run_id = %(id)s AND saga_step.position = g.position
), begun AS (
    INSERT INTO saga_attempt (run_id, {attempt}) SELECT %(id)s, {attempt} FROM tried WHERE started_at IS NOT NULL
), ended AS (
    UPDATE saga_attempt SET {_set(("outcome", "finished_at"))},
        error_code = coalesce(nullif(g.error_code, ''), saga_attempt.error_code),
        error_detail = coalesce(nullif(g.error_detail, ''), saga_attempt.error_detail)
    FROM tried AS g
    WHERE run_id = %(id)s AND g.started_at IS NULL
      AND (saga_attempt.position, saga_attempt.undo, saga_attempt.number) = (g.position, g.undo, g.number)
){", " + WITH_MESSAGES if with_messages else ""}
UPDATE saga_run SET {_set(RUN_CHANGES)} FROM jsonb_to_record(%(run)s::jsonb) AS g ({_as(Run, _RUN)})
WHERE saga_run.id = %(id)s
""")  # noqa: S608  # names of columns

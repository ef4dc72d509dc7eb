"""Transactions to take over, as they are written in requests and files: read strictly, a refusal for each that is not."""

import csv
import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from apps.common.errors import DomainError
from apps.saga.adoption import Legacy
from apps.saga.values import InvalidValues

FIELDS = ("use_case", "version", "at_step", "subject_id", "business_key", "idempotency_key", "input", "outputs")
LINE_CHARACTERS_MAX = 200_000  # of a file: an input and the outputs of the steps
FILE_ROWS_MAX = 100_000  # at a hundred a second some twenty minutes: more are several files
INPUT = "input."  # a column input.amount is the input's amount, as text


def legacy_of(given: Any, defaults: Mapping[str, Any] | None = None) -> Legacy | DomainError:
    """One transaction, or why it is none. ``defaults`` stand in for what is not given."""
    try:
        return _legacy({**(defaults or {}), **_object(given)})
    except DomainError as refusal:
        return refusal


def _object(given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise InvalidValues("A transaction is an object.")
    for name in given:
        if name not in FIELDS:
            raise InvalidValues(f"{str(name)[:100]} is no field: {', '.join(FIELDS)}.", field=str(name)[:100])
    return {name: value for name, value in given.items() if value is not None}


def _legacy(given: Mapping[str, Any]) -> Legacy:
    texts = {}
    for name in ("use_case", "at_step", "business_key", "idempotency_key"):
        value = given.get(name, "")
        if not isinstance(value, str) or (not value and name != "idempotency_key"):
            raise InvalidValues(f"{name} is a text.", field=name)
        texts[name] = value
    version = given.get("version")
    if version is not None and (isinstance(version, bool) or not isinstance(version, int) or not 0 < version < 32_768):
        raise InvalidValues("version is a whole number.", field="version")
    try:
        subject_id = UUID(str(given.get("subject_id", "")))
    except ValueError:
        raise InvalidValues("subject_id is a UUID.", field="subject_id") from None
    for name in ("input", "outputs"):
        if not isinstance(given.get(name, {}), Mapping):
            raise InvalidValues(f"{name} is an object.", field=name)
    return Legacy(
        **texts, subject_id=subject_id, version=version, data=given.get("input", {}), outputs=given.get("outputs", {})
    )


# --- Files ----------------------------------------------------------------------------------------------------------------
def read(path: Path, defaults: Mapping[str, Any] | None = None) -> Iterator[Legacy | DomainError]:
    """The transactions of a file: CSV when its name ends so, else JSON Lines. Raises OSError, UnicodeDecodeError."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = _csv(file) if path.suffix.lower() == ".csv" else _json_lines(file)
        for number, row in enumerate(rows, start=1):
            if number > FILE_ROWS_MAX:
                yield InvalidValues(f"The file has more than {FILE_ROWS_MAX} rows: the rest was not read.")
                return
            yield row if isinstance(row, DomainError) else legacy_of(row, defaults)


def _json_lines(file: IO[str]) -> Iterator[Any]:
    while line := file.readline(LINE_CHARACTERS_MAX + 1):
        if len(line) > LINE_CHARACTERS_MAX:
            yield InvalidValues(f"A line has more than {LINE_CHARACTERS_MAX} characters: the rest was not read.")
            return
        if line.strip():
            yield _json(line, "the line")


def _csv(file: IO[str]) -> Iterator[Any]:
    try:
        for row in csv.DictReader(file, strict=True):
            yield _of_columns(row)
    except csv.Error as error:
        yield InvalidValues(f"The file is no CSV from here on: {error}.")


def _of_columns(row: Mapping[Any, Any]) -> Any:
    if None in row or None in row.values():
        return InvalidValues("The row has more or fewer columns than the head.")
    given: dict[str, Any] = {name: value for name, value in row.items() if value and not name.startswith(INPUT)}
    for name in ("input", "outputs", "version"):
        if name in given:
            given[name] = _json(given[name], name)
            if isinstance(given[name], DomainError):
                return given[name]
    named = {name.removeprefix(INPUT): value for name, value in row.items() if name.startswith(INPUT) and value}
    if named:
        given["input"] = {**given["input"], **named} if isinstance(given.get("input"), Mapping) else named
    return given


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return InvalidValues(f"{what} is no JSON.", field=what if what in FIELDS else None)


def _no_constant(name: str) -> Any:
    raise ValueError(name)

"""What both stores share: the statements, and the way from a row to its values."""

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

from lastro_pipes.stores.base import DEAD, NEW, UNDONE, Key, Row
from lastro_pipes.transports.base import Outgoing

COLUMNS = "state, message_id, attempts, outgoing, published, input, output"

CREATE = (
    """CREATE TABLE IF NOT EXISTS pipes_step (
        service text NOT NULL,
        global_id text NOT NULL,
        branch text NOT NULL,
        position integer NOT NULL,
        way text NOT NULL,
        state text NOT NULL,
        message_id text NOT NULL,
        attempts integer NOT NULL,
        outgoing text NOT NULL,
        published boolean NOT NULL,
        input text NOT NULL,
        output text NOT NULL,
        updated_at double precision NOT NULL,
        PRIMARY KEY (service, global_id, branch, position, way)
    )""",
    "CREATE INDEX IF NOT EXISTS pipes_step_updated_at ON pipes_step (updated_at)",
)

_NEW_ROW = ":service, :global_id, :branch, :position, :way, '', :message_id, :attempts, '[]', false, 'null', 'null', :now"
# The row is open, or a dead one is opened again by a new message.
_OPEN = f"(s.state = '{NEW}' OR (s.state = '{DEAD}' AND s.message_id <> excluded.message_id))"
ATTEMPT = f"""
INSERT INTO pipes_step AS s VALUES ({_NEW_ROW})
ON CONFLICT (service, global_id, branch, position, way) DO UPDATE SET
    attempts = CASE WHEN {_OPEN} AND s.message_id <> excluded.message_id THEN 1
                    WHEN s.state = '{NEW}' THEN s.attempts + 1 ELSE s.attempts END,
    state = CASE WHEN {_OPEN} THEN '{NEW}' ELSE s.state END,
    message_id = CASE WHEN {_OPEN} THEN excluded.message_id ELSE s.message_id END,
    outgoing = CASE WHEN {_OPEN} THEN '[]' ELSE s.outgoing END,
    published = CASE WHEN {_OPEN} THEN false ELSE s.published END,
    updated_at = excluded.updated_at
RETURNING {COLUMNS}
"""  # noqa: S608  # our own words
ENSURE = f"INSERT INTO pipes_step VALUES ({_NEW_ROW}) ON CONFLICT DO NOTHING"  # noqa: S608
_WHERE = "service = :service AND global_id = :global_id AND branch = :branch AND position = :position"
READ = f"SELECT way, {COLUMNS} FROM pipes_step WHERE {_WHERE} ORDER BY way"  # noqa: S608
FINISH = f"""
UPDATE pipes_step
SET state = :state, outgoing = :outgoing, published = false, input = :input, output = :output, updated_at = :now
WHERE {_WHERE} AND way = :way
"""  # noqa: S608
TOMBSTONE = f"UPDATE pipes_step SET state = '{UNDONE}', updated_at = :now WHERE {_WHERE} AND way = 'do'"  # noqa: S608
PUBLISHED = f"UPDATE pipes_step SET published = true WHERE {_WHERE} AND way = :way"  # noqa: S608
PURGE = f"""
DELETE FROM pipes_step WHERE (service, global_id, branch, position, way) IN (
    SELECT service, global_id, branch, position, way FROM pipes_step
    WHERE updated_at < :before AND state <> '{NEW}' LIMIT :rows_max)
"""  # noqa: S608


def names(key: Key, **more: Any) -> dict[str, Any]:
    """The values of a statement."""
    return {**key._asdict(), "now": time.time(), **more}


def row(values: Sequence[Any]) -> Row:
    """A row of COLUMNS."""
    state, message_id, attempts, outgoing, published, given, output = values
    return Row(state, message_id, attempts, read_outgoing(outgoing), bool(published), json.loads(given), json.loads(output))


def write_outgoing(records: Iterable[Outgoing]) -> str:
    """What is to be published, as text."""
    return json.dumps([tuple(record) for record in records], ensure_ascii=False)


def read_outgoing(text: str) -> tuple[Outgoing, ...]:
    """What is to be published, from text."""
    found = json.loads(text)
    return tuple(
        Outgoing(topic, key, value, tuple((name, word) for name, word in headers)) for topic, key, value, headers in found
    )


class SqlTransaction:
    """The rows of one step, locked."""

    def __init__(self, key: Key, connection: Any, rows: dict[str, Row], execute: Any) -> None:
        self._key, self._connection, self._rows, self._execute = key, connection, rows, execute

    @property
    def connection(self) -> Any:
        """The store's connection."""
        return self._connection

    @property
    def mine(self) -> Row:
        """The row of the message's own way."""
        return self._rows[self._key.way]

    @property
    def do(self) -> Row:
        """The row of the way forward."""
        return self._rows["do"]

    def finish(self, state: str, *, outgoing: Iterable[Outgoing], input: Any = None, output: Any = None) -> None:
        """See Transaction."""
        values = {"state": state, "outgoing": write_outgoing(outgoing), "input": _text(input), "output": _text(output)}
        self._execute(FINISH, names(self._key, **values))
        if state == UNDONE:
            self._execute(TOMBSTONE, names(self._key))


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)

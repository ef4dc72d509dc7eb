"""What the outbox's tables should look like: the layouts that were weighed, on one PostgreSQL, in one run.

    make bench-outbox

``flag``: one table, marked sent by UPDATE. ``delete``: one table, the row is deleted when it is sent, so there is no log.
``jsonb``: a log with meta and body as jsonb and a pending row with three indexes. ``ours``: a log partitioned by day that
keeps the wire's text, and a pending row with one index. Counted is the work of the database and of the driver: publish (a
statement a message, a hundred a commit), and relay (read a batch in order, mark it), nothing sent. Ratios are to ``flag``.
"""

import json
import os
import time
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ.setdefault("EMBEDDED_POSTGRES_DIR", "postgres-bench")
os.environ["CELERY_BROKER_URL"] = "memory://"

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
MESSAGES = 12_000
BATCH = 4_000
A_COMMIT = 100


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to keep messages until they are sent. The parameters of all statements have the same names."""

    name: str
    make: str
    publish: str
    read: str
    settle: str
    as_jsonb: bool = False


_COLUMNS = "id uuid, topic text, key text, schema text, global_id text, created_at timestamptz"
_PENDING = """
CREATE TABLE bench_pending (seq bigint PRIMARY KEY, id uuid, bucket smallint, topic text, key text, attempts smallint,
    due_at timestamptz, parked_at timestamptz)
    WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
"""
_ADD_PENDING = """
INSERT INTO bench_pending (seq, id, bucket, topic, key, attempts, due_at)
SELECT seq, %(id)s, 0, %(topic)s, %(key)s, 0, %(now)s FROM message
"""
LAYOUTS = (
    Layout(
        "flag",
        f"""CREATE TABLE bench_message (seq bigserial PRIMARY KEY, {_COLUMNS}, payload text, sent_at timestamptz);
            CREATE UNIQUE INDEX ON bench_message (id); CREATE INDEX ON bench_message (seq) WHERE sent_at IS NULL""",
        """INSERT INTO bench_message (id, topic, key, schema, global_id, created_at, payload)
           VALUES (%(id)s, %(topic)s, %(key)s, %(schema)s, %(global_id)s, %(now)s, %(payload)s)""",
        "SELECT seq, topic, key, payload FROM bench_message WHERE sent_at IS NULL ORDER BY seq LIMIT %(rows)s",
        "UPDATE bench_message SET sent_at = now() WHERE seq = ANY(%(seqs)s)",
    ),
    Layout(
        "delete",
        f"CREATE TABLE bench_message (seq bigserial PRIMARY KEY, {_COLUMNS}, payload text)",
        """INSERT INTO bench_message (id, topic, key, schema, global_id, created_at, payload)
           VALUES (%(id)s, %(topic)s, %(key)s, %(schema)s, %(global_id)s, %(now)s, %(payload)s)""",
        "SELECT seq, topic, key, payload FROM bench_message ORDER BY seq LIMIT %(rows)s",
        "DELETE FROM bench_message WHERE seq = ANY(%(seqs)s)",
    ),
    Layout(
        "jsonb",
        f"""CREATE TABLE bench_message (seq bigserial PRIMARY KEY, {_COLUMNS}, meta jsonb, body jsonb);
            CREATE UNIQUE INDEX ON bench_message (id); CREATE INDEX ON bench_message (topic, seq DESC); {_PENDING}
            CREATE INDEX ON bench_pending (bucket, seq); CREATE INDEX ON bench_pending (topic, key, seq)""",
        f"""WITH message AS (INSERT INTO bench_message (id, topic, key, schema, created_at, meta, body)
            VALUES (%(id)s, %(topic)s, %(key)s, %(schema)s, %(now)s, %(meta)s::jsonb, %(body)s::jsonb) RETURNING seq)
            {_ADD_PENDING}""",
        """SELECT p.seq, p.topic, p.key, m.meta::text, m.body::text FROM bench_pending p JOIN bench_message m USING (seq)
           ORDER BY p.seq LIMIT %(rows)s""",
        "DELETE FROM bench_pending WHERE seq = ANY(%(seqs)s)",
        as_jsonb=True,
    ),
    Layout(
        "ours",
        f"""CREATE SEQUENCE bench_seq;
            CREATE TABLE bench_message (seq bigint DEFAULT nextval('bench_seq'), {_COLUMNS}, payload text, PRIMARY KEY (id))
            PARTITION BY RANGE (id); CREATE TABLE bench_default PARTITION OF bench_message DEFAULT;
            CREATE TABLE bench_today PARTITION OF bench_message
            FOR VALUES FROM ('00000000-0000-0000-0000-000000000000') TO ('f0000000-0000-0000-0000-000000000000');
            CREATE INDEX ON bench_message (topic, id);
            CREATE INDEX ON bench_message (global_id, id) WHERE global_id <> ''; {_PENDING}
            CREATE INDEX ON bench_pending (topic, key, seq) WHERE attempts > 0""",
        f"""WITH message AS (INSERT INTO bench_message (id, topic, key, schema, global_id, created_at, payload)
            VALUES (%(id)s, %(topic)s, %(key)s, %(schema)s, %(global_id)s, %(now)s, %(payload)s) RETURNING seq)
            {_ADD_PENDING}""",
        """SELECT p.seq, p.topic, p.key, m.payload FROM (SELECT * FROM bench_pending ORDER BY seq LIMIT %(rows)s) p
           CROSS JOIN LATERAL (SELECT * FROM bench_message m WHERE m.id = p.id LIMIT 1) m ORDER BY p.seq""",
        "DELETE FROM bench_pending WHERE seq = ANY(%(seqs)s)",
    ),
)
_DROP = "DROP TABLE IF EXISTS bench_message, bench_pending CASCADE; DROP SEQUENCE IF EXISTS bench_seq"


def _message(number: int) -> dict[str, Any]:
    from django.utils import timezone

    from apps.common.clock import uuid7

    meta = {"global-id": str(uuid7()), "steps": ["a", "b"], "message-id": str(uuid7()), "trace": "t", "schema": "bench.v1"}
    body = {"number": number, "text": "x" * 180}
    return {
        "id": meta["message-id"],
        "topic": "bench.outbox.layout.event",
        "key": f"k{number % 500}",
        "schema": "bench.v1",
        "global_id": meta["global-id"],
        "now": timezone.now(),
        "payload": json.dumps({"meta": meta, "body": body}),
        "meta": json.dumps(meta),
        "body": json.dumps(body),
    }


def measure(layout: Layout) -> tuple[float, float]:
    """Messages a second that are published, and that are read and marked."""
    from django.db import connection, transaction

    with connection.cursor() as cursor:
        cursor.execute(_DROP)
        cursor.execute(layout.make)
        started = time.perf_counter()
        for first in range(0, MESSAGES, A_COMMIT):
            with transaction.atomic():
                for number in range(first, first + A_COMMIT):
                    cursor.execute(layout.publish, _message(number))
        published = MESSAGES / (time.perf_counter() - started)
        started, done = time.perf_counter(), 0
        while done < MESSAGES:
            with transaction.atomic():
                cursor.execute(layout.read, {"rows": BATCH})
                rows = cursor.fetchall()
                if layout.as_jsonb:
                    wire = [json.dumps({"meta": json.loads(row[3]), "body": json.loads(row[4])}).encode() for row in rows]
                else:
                    wire = [row[3].encode() for row in rows]
            with transaction.atomic():
                cursor.execute(layout.settle, {"seqs": [row[0] for row in rows]})
            done += len(wire)
        relayed = MESSAGES / (time.perf_counter() - started)
        cursor.execute(_DROP)
    return published, relayed


def main() -> None:
    """Run everything and print the report."""
    import django

    django.setup()
    from benchmarks.harness import median, report, say

    rates: dict[str, list[tuple[float, float]]] = {layout.name: [] for layout in LAYOUTS}
    for round_ in range(ROUNDS):
        for layout in LAYOUTS:
            published, relayed = measure(layout)
            rates[layout.name].append((published, relayed))
            say(f"round {round_ + 1}: {layout.name:7} publish {published:7,.0f}/s   read and mark {relayed:9,.0f}/s")
    publish = {name: median([one for one, _ in found]) for name, found in rates.items()}
    relay = {name: median([one for _, one in found]) for name, found in rates.items()}
    report(
        "outbox",
        ratios={f"publish_{name}": rate / publish["flag"] for name, rate in publish.items()}
        | {f"relay_{name}": rate / relay["flag"] for name, rate in relay.items()},
        figures={f"publish_{name}_per_s": round(rate) for name, rate in publish.items()}
        | {f"relay_{name}_per_s": round(rate) for name, rate in relay.items()},
    )


if __name__ == "__main__":
    main()

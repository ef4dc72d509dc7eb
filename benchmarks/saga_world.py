"""The sale of benchmarks/saga.py for our engine: its table, message, definition, and what starts one.

Also imported by the Celery worker (``-I benchmarks.saga_world``), which has to know the definition.
"""

import os
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from celery import signals
from django.conf import settings
from django.core.management import call_command
from django.db import connection, models
from django.db.backends.signals import connection_created
from django.utils import timezone
from psycopg.conninfo import make_conninfo

from apps.common.clock import uuid7
from apps.common.transactions import transaction
from apps.messaging.public import Message, publish
from apps.saga import public as saga
from benchmarks.saga_meter import AMOUNT, STEPS, TABLES, Wire

# Longer than any run takes here: a head that ran out of time would leave work to workers that are not there.
INLINE_MS = 10_000


class SaleRow(models.Model):
    """One business row of a sale: each step writes one."""

    id = models.BigAutoField(primary_key=True)
    sale_id = models.UUIDField()
    step = models.SmallIntegerField()
    name = models.CharField(max_length=100)
    amount = models.DecimalField(max_digits=15, decimal_places=2)
    created_at = models.DateTimeField()

    objects: ClassVar[models.Manager["SaleRow"]] = models.Manager()  # said, because no app is there to give it one

    class Meta:
        app_label = "benchmarks"  # not installed: the table is made by hand
        managed = False
        db_table = "bench_sale_row"


@dataclass(frozen=True, slots=True, kw_only=True)
class SaleMade(Message):
    """What the last step tells the world."""

    topic: ClassVar[str] = "bench.saga.sale.event"
    schema: ClassVar[str] = "bench.sale_made.v1"

    sale_id: str
    amount: str


class Write(saga.LocalStep):
    """Write this step's business row."""

    number: ClassVar[int]

    def handle(self, run: saga.Run) -> dict[str, Any]:
        SaleRow.objects.create(
            sale_id=run.subject_id,
            step=self.number,
            name=self.name,
            amount=Decimal(run.data["amount"]),
            created_at=timezone.now(),
        )
        if self.number == len(STEPS):
            publish(SaleMade(sale_id=str(run.subject_id), amount=run.data["amount"]), key=str(run.subject_id))
        return {"number": self.number}

    def compensate(self, run: saga.Run) -> None:
        SaleRow.objects.filter(sale_id=run.subject_id, step=self.number).delete()


def _step(number: int, name: str) -> saga.Step:
    kind = saga.PIVOT if number == len(STEPS) else saga.COMPENSABLE
    step: saga.Step = type(name.title(), (Write,), {"name": name, "kind": kind, "number": number})()
    return step


SALE = saga.register(
    saga.Definition(
        "bench.saga.sale", version=1, steps=tuple(_step(number, name) for number, name in enumerate(STEPS, start=1))
    )
)


@transaction
def sell(*, inline_ms: int = INLINE_MS, now: datetime) -> UUID:
    """Start one sale, and run what the time allows."""
    sale_id = uuid7()
    saga.start(
        SALE,
        subject_id=sale_id,
        business_key=str(sale_id),
        data={"amount": AMOUNT},
        now=now,
        run_inline_for_ms=inline_ms,
    )
    return sale_id


def database_name() -> str:
    """The name of our database."""
    return str(settings.DATABASES["default"]["NAME"])


def dsn(name: str | None = None) -> str:
    """Where PostgreSQL is, for psycopg."""
    database = settings.DATABASES["default"]
    return make_conninfo(
        host=database["HOST"],
        port=database["PORT"] or None,
        user=database["USER"],
        password=database.get("PASSWORD") or None,
        dbname=name or database["NAME"],
    )


def prepare() -> None:
    """Tables, and nothing left over from an earlier run."""
    call_command("migrate", verbosity=0, interactive=False)
    with connection.cursor() as cursor:
        cursor.execute(TABLES)
        cursor.execute(
            "SELECT string_agg(c.oid::regclass::text, ', ') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition "
            "AND (c.relname LIKE 'saga_%%' OR c.relname LIKE 'bench_%%' OR c.relname LIKE 'messaging_%%')"
        )
        found = cursor.fetchone()
        # Not analysed while they are empty: PostgreSQL would believe that they stay so, and plan scans of whole tables.
        cursor.execute(f"TRUNCATE {found[0]} CASCADE")


def trace_connections(wire: Wire) -> None:
    """Let every connection of this process, and of its children, be traced."""

    def listen(*, connection: Any, **_: Any) -> None:
        wire.listen(connection.connection.pgconn)

    connection_created.connect(listen, weak=False, dispatch_uid="bench-wire")


# --- In the Celery worker ---------------------------------------------------------------------------------------------
@signals.worker_ready.connect
def say_ready(**_: Any) -> None:
    """Tell the coordinator that the worker takes tasks."""
    print("ready", flush=True)


@signals.worker_process_init.connect
def trace_child(**_: Any) -> None:
    """Each child of the worker has connections of its own."""
    if folder := os.environ.get("BENCH_WIRE"):
        trace_connections(Wire(folder))

"""DBOS's processes of benchmarks/saga.py: the same sale as somebody would write it with DBOS Transact.

Runs on its own virtual environment (requirements-bench.txt) and knows nothing of Django or of ours. Each step is a
transaction of DBOS's SQLAlchemy datasource at READ COMMITTED (its default, SERIALIZABLE, is slower), so its business row
and its checkpoint are one commit; the system tables and the datasource are on one server and in one database.
"""

import datetime
import json
import time
import uuid
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, SQLAlchemyDatasource
from sqlalchemy import event
from sqlalchemy.pool import Pool

from benchmarks import saga_meter
from benchmarks.saga_meter import AMOUNT, STEPS, Wire, in_ms, measure, start_all, tell, wait_for_go, wait_until

ISOLATION = "READ COMMITTED"
QUEUE = "sales"

metadata = sa.MetaData()
sale_row = sa.Table(
    "bench_sale_row",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("sale_id", sa.Uuid, nullable=False),
    sa.Column("step", sa.SmallInteger, nullable=False),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("amount", sa.Numeric(15, 2), nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
)
outbox = sa.Table(
    "bench_outbox",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("topic", sa.Text),
    sa.Column("key", sa.Text),
    sa.Column("payload", sa.Text),
    sa.Column("created_at", sa.DateTime(timezone=True)),
)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _define(datasource: SQLAlchemyDatasource) -> Any:
    """The five steps and the workflow."""

    def write(number: int, sale_id: str, amount: str) -> dict[str, Any]:
        session = datasource.sql_session()
        values = {"sale_id": uuid.UUID(sale_id), "step": number, "name": STEPS[number - 1], "amount": Decimal(amount)}
        session.execute(sa.insert(sale_row).values(**values, created_at=_now()))
        if number == len(STEPS):
            payload = json.dumps({"sale_id": sale_id, "amount": amount})
            told = {"id": uuid.uuid4(), "topic": "bench.saga.sale.event", "key": sale_id, "payload": payload}
            session.execute(sa.insert(outbox).values(**told, created_at=_now()))
        return {"number": number}

    def step(number: int, name: str) -> Any:
        @datasource.transaction(name=name, isolation_level=ISOLATION)
        def run(sale_id: str, amount: str) -> dict[str, Any]:
            return write(number, sale_id, amount)

        return run

    steps = [step(number, name) for number, name in enumerate(STEPS, start=1)]

    @DBOS.workflow(name="sale")
    def sale(sale_id: str, amount: str) -> None:
        for one in steps:
            one(sale_id, amount)

    return sale


def _launch(given: dict[str, Any], *, listen: bool = False) -> tuple[Any, SQLAlchemyDatasource]:
    if "wire" in given:
        wire = Wire(given["wire"])
        event.listen(Pool, "connect", lambda _, record: wire.listen(record.driver_connection.pgconn))
    threads = given["threads"]
    DBOS(
        config={
            "name": "bench",
            "system_database_url": given["url"],
            "application_version": "1",  # one for all processes: by default it is a hash of the source
            "log_level": "ERROR",
            "executor_id": given.get("executor", "one"),
        }
    )
    # As large a pool as SQLAlchemy's own default, or a connection for each thread.
    engine_kwargs = {"pool_size": max(5, threads)}
    datasource = SQLAlchemyDatasource.create(given["url"], engine_kwargs=engine_kwargs)
    sale = _define(datasource)
    DBOS.listen_queues([QUEUE] if listen else [])
    DBOS.launch()
    return sale, datasource


def inline(given: dict[str, Any]) -> None:
    """Workflows one after the other in each thread: a direct call, as in DBOS's own examples."""
    sale, _ = _launch(given)

    def run() -> None:
        sale(str(uuid.uuid4()), AMOUNT)

    measure(run, threads=given["threads"], seconds=given["seconds"], runs_max=given.get("runs_max", 1_000_000))
    DBOS.destroy()


def executor(given: dict[str, Any]) -> None:
    """Take workflows from the queue until told to stop."""
    _launch(given, listen=True)
    DBOS.register_queue(
        QUEUE, worker_concurrency=given["concurrency"], polling_interval_sec=given["polling_s"], on_conflict="always_update"
    )
    time.sleep(1.5)  # its manager looks for new queues once a second
    cpu = time.process_time()
    wait_for_go()
    cpu = time.process_time() - cpu
    DBOS.destroy()
    tell(cpu_s=cpu)


def queued(given: dict[str, Any]) -> None:
    """Enqueue workflows; over when the last business row of each is there."""
    sale, datasource = _launch(given)
    asked: dict[uuid.UUID, float] = {}
    counting = sa.select(sa.func.count()).where(sale_row.c.step == len(STEPS))

    def count() -> int:
        with datasource.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            return int(connection.execute(counting).scalar_one())

    def start_one() -> None:
        sale_id = uuid.uuid4()
        asked[sale_id] = time.time()
        DBOS.enqueue_workflow(QUEUE, sale, str(sale_id), AMOUNT)

    before = count()
    wait_for_go()
    began, cpu = time.perf_counter(), time.process_time()
    start_all(start_one, runs=given["runs"], rate_per_s=given["rate_per_s"], leave=lambda: None)
    polls = wait_until(lambda: count() >= before + given["runs"], seconds_max=given["seconds_max"])
    elapsed = time.perf_counter() - began
    wanted = sa.select(sale_row.c.sale_id, sale_row.c.created_at)
    wanted = wanted.where(sale_row.c.step == len(STEPS), sale_row.c.sale_id.in_(list(asked)))
    with datasource.engine.connect() as connection:
        waits = [row.created_at.timestamp() - asked[row.sale_id] for row in connection.execute(wanted)]
    cpu = time.process_time() - cpu
    DBOS.destroy()
    tell(runs=given["runs"], all_runs=given["runs"], seconds=elapsed, cpu_s=cpu, polls=polls, waits_ms=in_ms(waits))


if __name__ == "__main__":
    role, given = saga_meter.arguments()
    {"inline": inline, "executor": executor, "queued": queued}[role](given)

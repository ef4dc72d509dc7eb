"""``make run``: everything in ONE process. Web, worker, beat, relay, consumers, a PostgreSQL and a fiscal sandbox."""

# Imports inside functions are late on purpose: settings start PostgreSQL, and models need settings.
from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

import django

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from config.demo import Demo


def main() -> int:
    """Start everything, serve until Ctrl-C or SIGTERM, stop everything."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    started = time.monotonic()
    # Until the server has its own handlers, either signal leaves in the orderly way: PostgreSQL is let go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        django.setup()
        return _run(started)
    except KeyboardInterrupt:
        return 130


def _run(started: float) -> int:
    from django.conf import settings

    if not _port_is_free(settings.PORT):
        print(f"Port {settings.PORT} is in use. Choose another one: PORT=8081 make run")
        return 1
    print(f"Lastro is starting; its data is in {settings.DATA_DIR}", flush=True)
    _migrate()
    if (wrong := _broker_error()) is not None:
        print(wrong)
        return 1
    from apps.fiscal_docs.public import start_sandbox, warm_up
    from config import demo, worker

    _refuse_demo_login()
    found = demo.load(now=_now()) if settings.EMBEDDED else None
    if not settings.CELERY_BROKER_URL:
        worker.install_pgmq(settings.DATABASES["default"])
    authority = None if settings.FISCAL_AUTHORITY_URL else start_sandbox(port=settings.FISCAL_SANDBOX_PORT)
    # nfelib and its schemas take half a second to load: not in somebody's first order.
    threading.Thread(target=warm_up, daemon=True).start()
    background = worker.InProcessWorker()
    background.start()
    stop = threading.Event()
    consumers = _start_consumers(stop)
    try:
        _serve(settings.PORT, lambda: _welcome(settings.PORT, found, time.monotonic() - started))
    finally:
        print("Lastro is stopping.", flush=True)
        stop.set()
        background.stop()
        for consumer in consumers:
            consumer.join(10)
        if authority is not None:
            authority.stop()
    return 0


def _now() -> datetime:
    from django.utils import timezone

    return timezone.now()


def _port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _migrate() -> None:
    from django.core.management import call_command
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    # A start with nothing to migrate must be quick: `migrate` itself takes a second to find out.
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        call_command("migrate", verbosity=0, interactive=False)
    connection.close()


def _broker_error() -> str | None:
    """What keeps us from working with the broker. The demo makes its topics itself; a server's are made before it."""
    from django.conf import settings

    from apps.messaging import topics
    from apps.messaging.transports.base import TransportDown, TransportMisconfigured

    try:
        if settings.EMBEDDED:
            topics.apply()
        topics.check_broker()
    except (TransportDown, TransportMisconfigured) as error:
        return str(error)
    return None


def _refuse_demo_login() -> None:
    """Outside the embedded mode a login with the demo's password must not exist."""
    from django.core.management import CommandError

    from apps.identity.checks import staff_with_default_passwords

    if names := staff_with_default_passwords():
        raise CommandError(f"These logins have a default password: {', '.join(names)}. Change it first.")


def _start_consumers(stop: threading.Event) -> list[threading.Thread]:
    from apps.messaging.consumer import ConsumerThread
    from apps.messaging.inbox import groups

    threads: list[threading.Thread] = [ConsumerThread(group, stop) for group in groups()]
    for thread in threads:
        thread.start()
    return threads


def _serve(port: int, ready: Callable[[], None]) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if self.started:
                ready()

    config = uvicorn.Config(
        "config.asgi:application", host="127.0.0.1", port=port, log_level="warning", lifespan="off", proxy_headers=False
    )
    # The server stops in order at Ctrl-C and raises the signal again when it has: that is our normal end.
    with contextlib.suppress(KeyboardInterrupt):
        Server(config).run()


def _welcome(port: int, demo: Demo | None, seconds: float) -> None:
    base = f"http://localhost:{port}"
    lines = [
        "",
        f"Lastro is ready after {seconds:.1f} s.",
        "",
        f"  API docs      {base}/api/docs",
        f"  Back office   {base}/admin/",
    ]
    if demo is not None:
        from config.demo import BACKOFFICE_PASSWORD, BACKOFFICE_USER, CUSTOMER_ID, TICKET_ID

        body = (
            f'{{"customerId": "{CUSTOMER_ID}", "amount": 10.5, '
            f'"items": [{{"id": "{TICKET_ID}", "name": "day-one", "amount": 200.00, "quantity": 1}}]}}'
        )
        refused = body[:-1] + f', "payment": {{"method": "card", "card_token": "{demo.refused_card_token}"}}}}'
        undone = refused.replace(demo.refused_card_token, demo.capture_refused_card_token)
        balance = body[:-1] + ', "payment": {"method": "balance"}}'
        curl = f"curl -X POST -H 'Content-Type: application/json' {base}/orders -d"
        lines += [
            f"  Demo login    {BACKOFFICE_USER} / {BACKOFFICE_PASSWORD}",
            f"  Demo account  {demo.account}",
            f"  Its secret    {demo.secret}",
            "",
            "Place an order by card:",
            f"  {curl} '{body}'",
            "… from the customer's balance:",
            f"  {curl} '{balance}'",
            "… with a card that the sandbox refuses:",
            f"  {curl} '{refused}'",
            "… with a card whose capture is refused, so that everything is undone:",
            f"  {curl} '{undone}'",
            "",
            "Look at it: the back office, the Location that you were given, or",
            "  .venv/bin/python manage.py saga_state <order id>",
            "Fill it with life, 200 orders and all that goes wrong with orders:",
            f"  {_same_place()}.venv/bin/python manage.py demo",
        ]
    lines += ["", "Ctrl-C stops everything; the data stays.", ""]
    print("\n".join(lines), flush=True)


def _same_place() -> str:
    """What another command needs to find this one: the settings that are not the defaults, as a shell takes them."""
    given = ((name, os.environ.get(name)) for name in ("PORT", "DATA_DIR"))
    # make sets DATA_DIR always, and to the default unless somebody has chosen another.
    chosen = {name: value for name, value in given if value and value not in ("8080", f"{os.getcwd()}/.data")}
    return "".join(f"{name}={shlex.quote(value)} " for name, value in chosen.items())


if __name__ == "__main__":
    raise SystemExit(main())

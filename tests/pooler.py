"""A pooler of the kind of PgBouncer in transaction mode, for tests: each transaction goes over another connection.

It knows the protocol as far as it has to: when a connection is idle again, it is another client's. What belongs to a
session is therefore lost or, worse, somebody else's; a statement that says such a thing is written down.
"""

import asyncio
import random
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

SSL_REQUEST, CANCEL_REQUEST = 80877103, 80877102
# What outlives its transaction: SET without LOCAL, LISTEN, locks of a session, cursors WITH HOLD, statements by name.
OF_A_SESSION = re.compile(
    rb"\bpg_(try_)?advisory_lock|\bpg_advisory_unlock|^\s*(LISTEN|UNLISTEN|PREPARE|DISCARD|RESET)\b|\bWITH HOLD\b"
    rb"|^\s*SET\s+(?!LOCAL|TRANSACTION|CONSTRAINTS)|\bset_config\([^)]*,\s*false\)|\bCREATE\s+TEMP",
    re.IGNORECASE,
)
START_S = 90

Message = tuple[bytes, bytes]


async def read_message(reader: asyncio.StreamReader) -> Message:
    kind = await reader.readexactly(1)
    (length,) = struct.unpack("!i", await reader.readexactly(4))
    return kind, await reader.readexactly(length - 4)


def packed(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


class Backend:
    """A connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.greeting = b""
        self.client: Client | None = None
        self.owed = 0  # ReadyForQuery that are still to come
        self.synced = True

    async def start(self, user: str, database: str) -> None:
        said = {"user": user, "database": database, "client_encoding": "UTF8", "TimeZone": "UTC"}
        words = b"".join(f"{name}\0{value}\0".encode() for name, value in said.items()) + b"\0"
        self.writer.write(struct.pack("!ii", len(words) + 8, 196608) + words)
        while True:
            kind, body = await read_message(self.reader)
            assert kind in b"RSKZN", body
            self.greeting += packed(kind, body)
            if kind == b"Z":
                return


class Client:
    """Somebody who thinks that he has a connection of his own."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.backend: Backend | None = None


class Pooler:
    """It listens on ``port`` until it is stopped. ``said``: what belongs to a session, and was said all the same."""

    def __init__(self, *, host: str, port: str, user: str, database: str, backends: int) -> None:
        self.said: list[str] = []
        self.switches = 0
        self.port = 0
        self._server = (host, port, user, database)
        self._count = backends
        self._idle: list[Backend] = []
        self._chance = random.Random(1)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="pooler", daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(START_S)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_S)

    async def _run(self) -> None:
        self._loop, self._stop, self._free = asyncio.get_running_loop(), asyncio.Event(), asyncio.Condition()
        host, port, user, database = self._server
        pumps: list[asyncio.Task[None]] = []
        backends: list[Backend] = []
        for _ in range(self._count):
            if host.startswith("/"):
                streams = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            else:
                streams = await asyncio.open_connection(host, port)
            backend = Backend(*streams)
            backends.append(backend)
            await backend.start(user, database)
            self._idle.append(backend)
            pumps.append(asyncio.create_task(self._pump(backend)))
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for backend in backends:
            backend.writer.close()
            await backend.writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            if await self._greet(reader, writer):
                while not self._stop.is_set():
                    kind, body = await read_message(reader)
                    if kind == b"X":
                        break
                    await self._forward(client, kind, body)
        if client.backend is not None:  # in the middle of a transaction
            client.backend.writer.write(packed(b"Q", b"ROLLBACK\0"))
            client.backend.owed += 1
            client.backend.client = None
        writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        while True:
            length, code = struct.unpack("!ii", await reader.readexactly(8))
            words = await reader.readexactly(length - 8)
            if code == CANCEL_REQUEST:
                return False
            if code != SSL_REQUEST:
                break
            writer.write(b"N")
        assert b"options\0" not in words, "start-up options are a session's: DATABASE_LOCK_TIMEOUT_MS=0 and the other one"
        async with self._free:
            await self._free.wait_for(lambda: self._idle)
            writer.write(self._idle[0].greeting)
        return True

    async def _forward(self, client: Client, kind: bytes, body: bytes) -> None:
        if client.backend is None:
            async with self._free:
                await self._free.wait_for(lambda: self._idle)
                client.backend = self._idle.pop(self._chance.randrange(len(self._idle)))
            client.backend.client = client
            self.switches += 1
        backend = client.backend
        self._listen(kind, body)
        if kind in b"QSF":
            backend.owed += 1
        backend.synced = kind in b"QSF" or (backend.synced and kind not in b"PBDECH")
        backend.writer.write(packed(kind, body))
        await backend.writer.drain()

    def _listen(self, kind: bytes, body: bytes) -> None:
        if kind == b"P" and not body.startswith(b"\0"):
            self.said.append(f"prepared by name: {body[:80]!r}")
        text = body if kind == b"Q" else body.partition(b"\0")[2] if kind == b"P" else b""
        if OF_A_SESSION.search(text):
            self.said.append(text[:200].decode(errors="replace"))

    async def _pump(self, backend: Backend) -> None:
        while True:
            kind, body = await read_message(backend.reader)
            client = backend.client
            if client is not None:
                client.writer.write(packed(kind, body))
            if kind == b"Z":
                backend.owed -= 1
                if backend.owed == 0 and body == b"I" and backend.synced:
                    backend.client = None
                    if client is not None:
                        client.backend = None
                    async with self._free:
                        self._idle.append(backend)
                        self._free.notify_all()


@contextmanager
def pooled(values: dict[str, Any], *, backends: int) -> Iterator[Pooler]:
    """A pooler in front of the server of these settings."""
    pooler = Pooler(
        host=values["HOST"], port=str(values["PORT"]), user=values["USER"], database=values["NAME"], backends=backends
    )
    pooler.start()
    try:
        yield pooler
    finally:
        pooler.stop()

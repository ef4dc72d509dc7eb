"""The load of benchmarks/http_orders.py: constant arrivals over kept connections, whatever the answers do.

Open loop: each request has its time before the test begins, and its latency counts from that time, so a server that falls
behind is charged for the whole queue (no coordinated omission). A process of its own; it reads one job a line and prints
one line of JSON.
"""

import asyncio
import gc
import json
import sys
import time
from collections import Counter, deque
from typing import Any

TIMEOUT_S = 15.0  # of one request: far beyond any answer that counts
IDLE_S_MAX = 3.0  # of a connection: uvicorn closes it after five
CONNECTIONS_MAX = 400  # of this client; a request that finds none waits for one, and is charged for it


class Connection:
    """One kept HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.used_at = 0.0

    async def send(self, request: bytes) -> int:
        """Send, and read the whole answer; its status."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), 0)
        await self._reader.readexactly(length)
        self.used_at = time.monotonic()
        return int(lines[0].split()[1])

    def close(self) -> None:
        """Close it."""
        self._writer.close()


class Load:
    """One test: so many requests a second for so long."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._idle: deque[Connection] = deque()
        self._open = 0
        self._freed = asyncio.Condition()
        self.waits: list[float] = []
        self.statuses: Counter[str] = Counter()

    async def run(self) -> dict[str, Any]:
        """All requests, each at its time; what came of them."""
        rate, seconds = self._job["rate"], self._job["seconds"]
        loop = asyncio.get_running_loop()
        start = loop.time() + 0.05
        lag = 0.0
        tasks = []
        for number in range(int(rate * seconds)):
            due = start + number / rate
            left = due - loop.time()
            if left > 0:
                await asyncio.sleep(left)
            lag = max(lag, loop.time() - due)
            tasks.append(asyncio.create_task(self._one(number, due)))
        await asyncio.gather(*tasks)
        for connection in self._idle:
            connection.close()
        return self._result(lag)

    def _result(self, lag: float) -> dict[str, Any]:
        ordered = sorted(self.waits)

        def at(share: float) -> float:
            return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000

        answered = sum(self.statuses.values())
        return {
            "requests": answered,
            "p50_ms": at(0.50),
            "p99_ms": at(0.99),
            "max_ms": ordered[-1] * 1000,
            "sync_share": self.statuses["201"] / answered,
            "errors": answered - self.statuses["201"] - self.statuses["202"],
            "statuses": dict(self.statuses),
            "client_lag_ms": lag * 1000,  # how late the client itself was at worst
        }

    async def _one(self, number: int, due: float) -> None:
        bodies = self._job["bodies"]
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status = str(await self._request(bodies[(self._job["first"] + number) % len(bodies)]))
        except (OSError, EOFError, TimeoutError) as error:
            status = type(error).__name__
        self.waits.append(asyncio.get_running_loop().time() - due)
        self.statuses[status] += 1

    async def _request(self, body: str) -> int:
        connection = await self._take()
        try:
            status = await connection.send(self._bytes(body))
        except BaseException:
            connection.close()
            await self._give(None)
            raise
        await self._give(connection)
        return status

    def _bytes(self, body: str) -> bytes:
        job = self._job
        head = (
            f"POST {job['path']} HTTP/1.1\r\nHost: {job['host']}:{job['port']}\r\nAuthorization: {job['authorization']}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return (head + body).encode()

    async def _take(self) -> Connection:
        async with self._freed:
            await self._freed.wait_for(lambda: self._idle or self._open < CONNECTIONS_MAX)
            while self._idle and self._idle[0].used_at < time.monotonic() - IDLE_S_MAX:
                self._idle.popleft().close()
                self._open -= 1
            if self._idle:
                return self._idle.pop()
            self._open += 1
        try:
            return Connection(*await asyncio.open_connection(self._job["host"], self._job["port"]))
        except OSError:
            await self._give(None)
            raise

    async def _give(self, connection: Connection | None) -> None:
        async with self._freed:
            if connection is None:
                self._open -= 1
            else:
                self._idle.append(connection)
            self._freed.notify()


def main() -> None:
    """Jobs in, results out, one line each, until the input ends."""
    gc.freeze()
    gc.disable()  # a pause of the client would look like one of the server
    print("ready", flush=True)
    for line in sys.stdin:
        found = asyncio.run(Load(json.loads(line)).run())
        print(json.dumps(found), flush=True)
        gc.collect()


if __name__ == "__main__":
    main()

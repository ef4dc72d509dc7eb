"""Coroutines in tests: in a thread of their own, because a browser's tests leave an event loop running in this one."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import connections

Answer = TypeVar("Answer")
LOOP_THREAD = "loop"  # its name begins so


def run_apart(work: Coroutine[object, object, Answer]) -> Answer:
    """Run it to its end in an event loop of its own, and give its answer."""

    def run() -> Answer:
        try:
            return asyncio.run(work)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1, thread_name_prefix=LOOP_THREAD) as pool:
        return pool.submit(run).result()

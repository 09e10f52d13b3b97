"""Threads for work that blocks or burns processor time: so much of it and no more."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class QueueFull(Exception):
    """As much work is waiting already as may wait."""


class BoundedExecutor:
    """Threads of one kind of work, which takes neither the event loop nor others'."""

    def __init__(
        self, name: str, *, threads: int, waiting: int, niceness: int = 0
    ) -> None:
        """Name the threads; none is started before it is needed.

        Args:
            name: What the threads are called.
            threads: How much is done at once.
            waiting: How much may wait beside that.
            niceness: How far they stand back for the rest of the process, 0 to 19, on
                systems where a thread can (Linux).
        """
        self._name = name
        self._niceness = niceness
        self._executor = ThreadPoolExecutor(threads, name, self._stand_back)
        self._places = threading.BoundedSemaphore(threads + waiting)

    async def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call a function in one of the threads.

        Raises:
            QueueFull: Too much is waiting; the function is not called.
        """
        if not self._places.acquire(blocking=False):
            raise QueueFull(self._name)
        job = self._executor.submit(function, *arguments)
        # When the job is done and not when its caller is, who may have gone: its thread
        # goes on all the same.
        job.add_done_callback(lambda _job: self._places.release())
        return await asyncio.wrap_future(job)

    def _stand_back(self) -> None:
        # Elsewhere it would be the whole process that stands back.
        if self._niceness and sys.platform == "linux":
            os.nice(self._niceness)

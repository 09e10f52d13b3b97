"""Bounded thread pool for CPU-bound work, such as hashing passwords."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class QueueFull(Exception):
    """Too much work is waiting already."""


class BoundedExecutor:
    """A thread pool with a bounded queue, which rejects work instead of delaying it."""

    def __init__(
        self, name: str, *, max_workers: int, max_queue: int, niceness: int = 0
    ) -> None:
        """Create the pool; threads start when they are first needed.

        Args:
            name: Prefix of the thread names.
            max_workers: Maximum number of threads.
            max_queue: Maximum number of calls that wait for a thread.
            niceness: Value added to the niceness of the threads, 0 to 19 (Linux only).
        """
        self._name = name
        self._niceness = niceness
        self._executor = ThreadPoolExecutor(max_workers, name, self._set_niceness)
        self._slots = threading.BoundedSemaphore(max_workers + max_queue)

    async def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call a function in one of the threads; raise `QueueFull` if too many wait."""
        if not self._slots.acquire(blocking=False):
            raise QueueFull(self._name)
        future = self._executor.submit(function, *arguments)
        # Release it when the thread ends, not this coroutine, which can be canceled.
        future.add_done_callback(lambda _future: self._slots.release())
        return await asyncio.wrap_future(future)

    def _set_niceness(self) -> None:
        # On other systems this would affect the whole process.
        if self._niceness and sys.platform == "linux":
            os.nice(self._niceness)

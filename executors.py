"""A bounded thread pool for CPU-bound work, such as hashing passwords."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class QueueFull(Exception):
    """Too many calls are already waiting for a thread."""


class BoundedExecutor:
    """A thread pool that rejects calls when its queue is full."""

    def __init__(
        self, name: str, *, max_workers: int, max_queue: int, niceness: int = 0
    ) -> None:
        """Create the pool. Threads start when they are first needed.

        Args:
            name: Prefix of the thread names.
            max_workers: Maximum number of threads.
            max_queue: Maximum number of calls that wait for a thread.
            niceness: Number from 0 to 19 to add to the threads' niceness (Linux only).
        """
        self._name = name
        self._niceness = niceness
        self._executor = ThreadPoolExecutor(max_workers, name, self._set_niceness)
        self.in_progress = 0
        """Number of calls that are waiting or running."""
        self._slots = threading.BoundedSemaphore(max_workers + max_queue)

    async def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call a function in a thread, or raise `QueueFull` if the queue is full."""
        if not self._slots.acquire(blocking=False):
            raise QueueFull(self._name)
        self.in_progress += 1
        future = self._executor.submit(function, *arguments)
        # Release the slot when the function returns. This coroutine may end earlier,
        # because it can be canceled.
        future.add_done_callback(lambda _future: self._slots.release())
        try:
            return await asyncio.wrap_future(future)
        finally:
            self.in_progress -= 1

    def _set_niceness(self) -> None:
        # On other systems, this would change the niceness of the whole process.
        if self._niceness and sys.platform == "linux":
            os.nice(self._niceness)

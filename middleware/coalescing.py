"""Request coalescing: concurrent requests for the same resource share one response.

RFC 9111, section 4, calls this collapsing requests. A response is kept only while it is
being sent, and no client gets data that was read before its request arrived.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config import HEALTH_PATH
from exceptions import TOO_BUSY
from middleware.etags import send_chunks

# All headers that responses to GET depend on.
VARY_HEADERS = (
    "accept",
    "accept-encoding",
    "authorization",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-unmodified-since",
    "range",
)
# How long a request waits for an identical one that is running. If that takes longer,
# the database is slow, and the request starts anyway.
WAIT_TIMEOUT = 0.2
# The largest list takes 30 MB, and stays in memory until its slowest client has it.
LARGE_BYTES = 256 * 1024
MAX_BYTES = 128 * 1024 * 1024
MAX_BYTES_PER_CLIENT = 40 * 1024 * 1024

Key = tuple[object, ...]


@dataclass(eq=False)
class BufferedResponse:
    """A complete response, for any number of clients."""

    start: Message
    body: bytes
    clients: int = 0
    owner: str = ""
    """IP of the first client, whose memory limit the body counts toward."""

    @property
    def is_large(self) -> bool:
        return len(self.body) >= LARGE_BYTES

    async def send(self, receive: Receive, send: Send) -> None:
        """Send the response to one client until it disconnects."""
        # Copy the headers, because other middleware adds to them.
        await send({**self.start, "headers": list(self.start["headers"])})
        if not self.is_large:
            await send_chunks(self.body, send)
            return
        disconnect = asyncio.create_task(_wait_for_disconnect(receive))
        try:
            await send_chunks(self.body, send, lambda: not disconnect.done())
        finally:
            disconnect.cancel()


class CoalescingMiddleware:
    """Compute one response for all clients that wait for the same GET.

    A request that arrives while a response is being computed waits for the next one, as
    do all others that arrive until then. So clients always see their own writes, and a
    burst of identical requests costs no more than two.

    Files are exempt, because they are streamed. Health checks are exempt, because each
    has to query the database.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._running: dict[Key, asyncio.Task[BufferedResponse]] = {}
        self._queued: dict[Key, asyncio.Task[BufferedResponse]] = {}
        self._large: WeakValueDictionary[Key, BufferedResponse] = WeakValueDictionary()
        self._bytes: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_get = scope["type"] == "http" and scope["method"] == "GET"
        if not is_get or _is_exempt(scope["path"]):
            await self.app(scope, receive, send)
            return
        # Other clients may still wait for it after this one has disconnected.
        response = self._deduplicate(await asyncio.shield(self._respond(scope)))
        client = scope["client"][0]
        if not self._has_capacity(response, client):
            raise TOO_BUSY.exception()
        with self._reserve_memory(response, client):
            await response.send(receive, send)

    def _respond(self, scope: Scope) -> asyncio.Task[BufferedResponse]:
        key = _key(scope)
        task = self._queued.get(key)
        # A task that was canceled before it started is still queued.
        if task is None or task.done():
            task = asyncio.create_task(self._run(key, scope, self._running.get(key)))
            self._queued[key] = task
        return task

    async def _run(
        self, key: Key, scope: Scope, previous: asyncio.Task[BufferedResponse] | None
    ) -> BufferedResponse:
        if previous is not None:
            await asyncio.wait({previous}, timeout=WAIT_TIMEOUT)
        # Once it is running, the response may miss later writes: no more requests join.
        self._running[key] = task = self._queued.pop(key)
        try:
            return await _call_app(self.app, scope)
        finally:
            # If this task was slow, another one is running by now.
            if self._running.get(key) is task:
                del self._running[key]

    # Memory

    def _deduplicate(self, response: BufferedResponse) -> BufferedResponse:
        """Return the same large response if it is already being sent, or this one."""
        headers = response.start["headers"]
        if not response.is_large or "etag" not in Headers(raw=headers):
            return response
        # With an ETag, equal headers mean equal bodies.
        return self._large.setdefault(tuple(headers), response)

    def _has_capacity(self, response: BufferedResponse, client: str) -> bool:
        size = len(response.body)
        return (
            not response.is_large
            or response.clients > 0
            or (
                self._bytes.total() + size <= MAX_BYTES
                and self._bytes[client] + size <= MAX_BYTES_PER_CLIENT
            )
        )

    @contextmanager
    def _reserve_memory(
        self, response: BufferedResponse, client: str
    ) -> Iterator[None]:
        if not response.clients:
            response.owner = client
            self._count(response, 1)
        response.clients += 1
        try:
            yield
        finally:
            response.clients -= 1
            if not response.clients:
                self._count(response, -1)

    def _count(self, response: BufferedResponse, sign: int) -> None:
        if response.is_large:
            self._bytes[response.owner] += sign * len(response.body)
            if not self._bytes[response.owner]:
                del self._bytes[response.owner]


def _is_exempt(path: str) -> bool:
    return path == HEALTH_PATH or path.startswith(("/static/", "/media/"))


def _key(scope: Scope) -> Key:
    headers = Headers(scope=scope)
    values = (tuple(headers.getlist(name)) for name in VARY_HEADERS)
    return scope["path"], scope["query_string"], *values


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _call_app(app: ASGIApp, scope: Scope) -> BufferedResponse:
    messages: list[Message] = [{"type": "http.request", "body": b""}]
    start: Message = {}
    body: list[bytes] = []

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    async def collect(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            body.append(message.get("body", b""))

    await app(dict(scope), receive, collect)
    return BufferedResponse(start, b"".join(body))

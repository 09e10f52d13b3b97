"""Complete responses in memory, which several clients can share."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conditional_requests import etag_matches
from exceptions import TOO_BUSY
from middleware.etags import BODY_HEADERS, send_chunks

# The largest list takes 30 MB. A response stays in memory until its slowest client has
# received it.
LARGE_BYTES = 256 * 1024
MAX_LARGE_BYTES = 128 * 1024 * 1024
MAX_LARGE_BYTES_PER_CLIENT = 40 * 1024 * 1024

RawHeaders = list[tuple[bytes, bytes]]


@dataclass(eq=False)
class BufferedResponse:
    """A complete response that can be sent to any number of clients."""

    status: int
    headers: RawHeaders
    body: bytes
    clients: int = 0
    owner: str = ""
    """IP of the first client. A large body counts toward the limit of this client."""
    generation: int | None = None
    """Generation of the cache when the response was computed. None for a response that
    isn't stored, and for a single post of the API, which is removed when it changes."""
    route: object = None
    """The route that computed the response, for the log."""

    def __post_init__(self) -> None:
        headers = MutableHeaders(raw=list(self.headers))
        self.etag = headers.get("etag", "") if self.status == 200 else ""
        self.is_storable = bool(self.etag) and "no-store" not in headers.get(
            "cache-control", "no-store"
        )
        for name in BODY_HEADERS:
            del headers[name]
        self.not_modified_headers = headers.raw

    @property
    def is_large(self) -> bool:
        return len(self.body) >= LARGE_BYTES

    def is_known_to(self, if_none_match: str) -> bool:
        """Return whether the client already has this response (RFC 9110, 13.1.2)."""
        return bool(self.etag) and etag_matches(if_none_match, self.etag, weakly=True)

    async def send_not_modified(self, send: Send) -> None:
        await _send_start(304, self.not_modified_headers, send)
        await send({"type": "http.response.body", "body": b""})

    async def send(self, receive: Receive, send: Send) -> None:
        """Send the response to a client, and stop if the client disconnects."""
        await _send_start(self.status, self.headers, send)
        if not self.is_large:
            await send({"type": "http.response.body", "body": self.body})
            return
        disconnect = asyncio.create_task(_wait_for_disconnect(receive))
        try:
            await send_chunks(self.body, send, lambda: not disconnect.done())
        finally:
            disconnect.cancel()


async def _send_start(status: int, headers: RawHeaders, send: Send) -> None:
    # Copy the headers, because other middleware adds headers to the list.
    message = {"type": "http.response.start", "status": status}
    await send({**message, "headers": headers.copy()})


class LargeResponseMemory:
    """Limit the memory that large responses take while they are sent."""

    def __init__(self) -> None:
        self._responses: WeakValueDictionary[object, BufferedResponse] = (
            WeakValueDictionary()
        )
        self._bytes: Counter[str] = Counter()

    @contextmanager
    def reserve(
        self, response: BufferedResponse, client: str
    ) -> Iterator[BufferedResponse]:
        """Yield the response, or an identical one that other clients are receiving.

        Raises:
            HTTPException: 503 if too much memory is in use.
        """
        # If there is an ETag, responses with equal headers have equal bodies.
        identity = tuple(response.headers) if response.etag else id(response)
        shared = self._responses.setdefault(identity, response)
        if not shared.clients:
            self._check_limits(len(shared.body), client)
            shared.owner = client
            self._count(shared, 1)
        shared.clients += 1
        try:
            yield shared
        finally:
            shared.clients -= 1
            if not shared.clients:
                self._count(shared, -1)

    def _check_limits(self, size: int, client: str) -> None:
        if (
            self._bytes.total() + size > MAX_LARGE_BYTES
            or self._bytes[client] + size > MAX_LARGE_BYTES_PER_CLIENT
        ):
            raise TOO_BUSY.exception()

    def _count(self, response: BufferedResponse, sign: int) -> None:
        self._bytes[response.owner] += sign * len(response.body)
        if not self._bytes[response.owner]:
            del self._bytes[response.owner]


async def call_app(app: ASGIApp, scope: Scope) -> BufferedResponse:
    is_body_sent = False
    start: Message = {}
    chunks: list[bytes] = []

    async def receive() -> Message:
        nonlocal is_body_sent
        if is_body_sent:
            # Never report a disconnect, because other clients may need the response.
            await asyncio.Event().wait()
        is_body_sent = True
        return {"type": "http.request", "body": b""}

    async def collect(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            chunks.append(message.get("body", b""))

    await app(scope, receive, collect)
    body = b"".join(chunks)
    route = scope.get("route")
    return BufferedResponse(start["status"], start["headers"], body, route=route)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

"""One answer for all who ask the same at the same time, kept once while it is taken.

RFC 9111, section 4, calls it to collapse requests. Nothing is kept for longer than it
is being sent, and nobody gets what was read from the database before they had asked.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from entity_tags import send_in_parts

# What an answer depends on beside its address: all that the application looks at.
DECIDING = (
    "accept",
    "accept-encoding",
    "authorization",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-unmodified-since",
    "range",
)
# Whoever comes while an answer is made waits so long for that to end. When it takes
# longer the database is slow, and two such times would be too much.
TURN_SECONDS = 0.2
# The largest list has 30 MB, and who reads slowly keeps it in memory for that time. So
# much is kept for all, and for those who first asked from one address.
LARGE_BYTES = 256 * 1024
MOST_BYTES = 128 * 1024 * 1024
MOST_BYTES_EACH = 40 * 1024 * 1024

Key = tuple[object, ...]


@dataclass(eq=False)
class Answer:
    """A whole answer, for any number of readers."""

    start: Message
    body: bytes
    readers: int = 0
    holder: str = ""
    """The address of whoever was its first reader."""

    @property
    def is_large(self) -> bool:
        """Whether it matters how often it is kept."""
        return len(self.body) >= LARGE_BYTES

    async def send(self, receive: Receive, send: Send) -> None:
        """Give it to one reader, as fast as that one takes it, until they go away."""
        # Each gets a list of headers of their own, to which others add.
        await send({**self.start, "headers": list(self.start["headers"])})
        if not self.is_large:
            await send_in_parts(self.body, send)
            return
        leaving = asyncio.create_task(_leave(receive))
        try:
            await send_in_parts(self.body, send, lambda: not leaving.done())
        finally:
            leaving.cancel()


class CollapseRequests:
    """Let the application answer a GET once for all who wait for that very answer.

    Whoever comes while an answer is made gets the next one, together with all who come
    until that is begun. So what somebody has just written is never missing, and a crowd
    costs what two readers cost.
    """

    def __init__(
        self,
        app: ASGIApp,
        answer_busy: Callable[[Request], Response],
        exempt: Sequence[str] = (),
    ) -> None:
        """Name what is left alone.

        Args:
            app: What comes after.
            answer_busy: Makes the refusal when there is no room for a large answer.
            exempt: Beginnings of paths whose answers are never kept as a whole.
        """
        self.app = app
        self.answer_busy = answer_busy
        self.exempt = tuple(exempt)
        # What is being made, and what will be made after it and can still be joined.
        self._begun: dict[Key, asyncio.Task[Answer]] = {}
        self._to_come: dict[Key, asyncio.Task[Answer]] = {}
        self._large: WeakValueDictionary[Key, Answer] = WeakValueDictionary()
        self._held_bytes: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_get = scope["type"] == "http" and scope["method"] == "GET"
        if not is_get or scope["path"].startswith(self.exempt):
            await self.app(scope, receive, send)
            return
        # Others may wait for it, too, when this one has gone.
        answer = self._same(await asyncio.shield(self._next(scope)))
        client = scope["client"][0] if scope.get("client") else ""
        if self._has_room_for(answer, client):
            with self._held(answer, client):
                await answer.send(receive, send)
        else:
            await self.answer_busy(Request(scope))(scope, receive, send)

    def _next(self, scope: Scope) -> asyncio.Task[Answer]:
        key = _key(scope)
        making = self._to_come.get(key)
        # It is done already if somebody has put an end to it before it was begun.
        if making is None or making.done():
            making = asyncio.create_task(self._make(key, scope, self._begun.get(key)))
            self._to_come[key] = making
        return making

    async def _make(
        self, key: Key, scope: Scope, after: asyncio.Task[Answer] | None
    ) -> Answer:
        if after is not None:
            await asyncio.wait({after}, timeout=TURN_SECONDS)
        # From now on, whoever comes might miss what is written from now on.
        self._begun[key] = task = self._to_come.pop(key)
        try:
            return await _ask(self.app, scope)
        finally:
            # Another one has been begun meanwhile if this one was slow.
            if self._begun.get(key) is task:
                del self._begun[key]

    # What is kept

    def _same(self, answer: Answer) -> Answer:
        """An equal answer that is being sent already, if it matters; or this one."""
        headers = answer.start["headers"]
        if not answer.is_large or "etag" not in Headers(raw=headers):
            return answer
        # With the tag of the body, which tells it from all others.
        return self._large.setdefault(tuple(headers), answer)

    def _has_room_for(self, answer: Answer, client: str) -> bool:
        size = len(answer.body)
        return (
            not answer.is_large
            or answer.readers > 0
            or (
                self._held_bytes.total() + size <= MOST_BYTES
                and self._held_bytes[client] + size <= MOST_BYTES_EACH
            )
        )

    @contextmanager
    def _held(self, answer: Answer, client: str) -> Iterator[None]:
        if not answer.readers:
            answer.holder = client
            self._count(answer, 1)
        answer.readers += 1
        try:
            yield
        finally:
            answer.readers -= 1
            if not answer.readers:
                self._count(answer, -1)

    def _count(self, answer: Answer, times: int) -> None:
        if answer.is_large:
            self._held_bytes[answer.holder] += times * len(answer.body)
            if not self._held_bytes[answer.holder]:
                del self._held_bytes[answer.holder]


def _key(scope: Scope) -> Key:
    headers = Headers(scope=scope)
    deciding = (tuple(headers.getlist(name)) for name in DECIDING)
    return scope["path"], scope["query_string"], *deciding


async def _leave(receive: Receive) -> None:
    """Return when a client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _ask(app: ASGIApp, scope: Scope) -> Answer:
    """The whole answer to a request, which has no body and whose client stays."""
    unread: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]
    start: Message = {}
    body: list[bytes] = []

    async def receive() -> Message:
        if not unread:
            await asyncio.Event().wait()
        return unread.pop()

    async def keep(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            body.append(message.get("body", b""))

    await app(dict(scope), receive, keep)
    return Answer(start, b"".join(body))

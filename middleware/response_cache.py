"""A cache of the responses to public GET requests, in the memory of this process.

The rules, in terms of RFC 9111:

- A response is stored if its status is 200, it has an ETag, it isn't marked `no-store`
  and it takes at most 1 MiB. The URL must be canonical and not a search, and the
  request must not have an `Authorization` header. Any request may get a stored
  response.
- The key consists of the path, the query parameters that the route declares, and the
  encoding. A route must declare all parameters that it reads, because all others are
  removed.
- Concurrent requests with the same key, `Authorization` and `Accept` share one
  computation, unless the data has changed since it began, or it began more than 0.2
  seconds ago.
- Any change to public data removes the changed posts, and all responses other than
  single posts of the API. (The page of a post links to other posts.) This process
  removes them before it responds to the request that makes the change. Other processes
  are notified by triggers (`alembic/sql/0008_notify_changes.sql`).
- A response is not stored if the data has changed while it was being computed.
- Nothing is stored before the app has started, in development, while notifications
  can't be received, or while dependencies are overridden.

Files and exports bypass the cache, because they are streamed. Health checks bypass it,
because each one must query the database.
"""

import asyncio
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl, urlencode

from cachetools import LRUCache
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.telemetry._api import _route_selected
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config import HEALTH_PATH, settings
from middleware.buffered_response import BufferedResponse, LargeResponseMemory, call_app

POSTS_API = re.compile(r"/api/posts(?:/([1-9][0-9]*))?")
SINGLE_POST = re.compile(r"/api/posts/[1-9][0-9]*")
# Responses to other paths of the same resource, such as /posts/007, aren't stored.
CANONICAL_PATH = re.compile(
    r"/|(?:/(?:[a-z_.-]+|[1-9][0-9]*|[a-z]+-(?:0|[1-9][0-9]*)\.xml))+"
)
CANONICAL_VALUE = re.compile(r"0|[1-9][0-9]*|[\w-]{22}==")
# Searches aren't stored, because few are repeated.
SEARCH_PARAMETER = "q"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
EXPORT_PATH = "/api/users/me/export"
UNCACHED = ("/static/", "/media/", EXPORT_PATH, HEALTH_PATH)
# Requests to log in, or to stay logged in, don't change public data.
TOKEN_PATHS = frozenset({"/api/users/token", "/api/users/me/token"})
ENCODINGS = ("br", "gzip", "identity")

# Estimated size of the key and the headers of an entry.
ENTRY_OVERHEAD_BYTES = 2048
MAX_ENTRY_BYTES = 1024 * 1024
# Share of the cache's memory for responses that were requested only once.
NEW_SHARE = 0.2

# Requests don't wait for a computation that began more than this many seconds ago. It
# may be stuck, and another process may have changed the data since then.
JOIN_TIMEOUT = 0.2
Key = tuple[str, bytes, str]


def entry_size(response: BufferedResponse) -> int:
    return ENTRY_OVERHEAD_BYTES + len(response.body)


class ResponseCache:
    """Stored responses, which take at most `RESPONSE_CACHE_BYTES` of memory.

    There are two LRU caches: one for new responses, and one for responses that were
    requested again. A crawler, which requests each URL once, only evicts new ones.
    """

    def __init__(self) -> None:
        self.is_on = False
        self.generation = 0
        """Incremented by every change to public data."""
        self.hits = 0
        self.resize(0)

    def resize(self, max_bytes: int) -> None:
        new = int(max_bytes * NEW_SHARE)
        self._new: LRUCache[Key, BufferedResponse] = LRUCache(new, entry_size)
        self._used: LRUCache[Key, BufferedResponse] = LRUCache(
            max_bytes - new, entry_size
        )

    @property
    def size_bytes(self) -> float:
        return self._new.currsize + self._used.currsize

    def turn_on(self) -> None:
        """Start storing responses, up to a total size of `RESPONSE_CACHE_BYTES`."""
        self.resize(settings.response_cache_bytes)
        self.generation += 1
        self.is_on = settings.response_cache_bytes > 0

    def turn_off(self) -> None:
        self.is_on = False
        self.invalidate_all()

    def get(self, key: Key) -> BufferedResponse | None:
        response = self._used.get(key)
        if response is None:
            response = self._new.pop(key, None)
            if response is None:
                return None
            self._used[key] = response
        if response.generation not in {None, self.generation}:
            del self._used[key]
            return None
        self.hits += 1
        return response

    def put(self, key: Key, response: BufferedResponse, generation: int) -> None:
        """Store a response unless the data has changed since this generation."""
        size = entry_size(response)
        if generation != self.generation or not self.is_on or not response.is_storable:
            return
        if size > min(MAX_ENTRY_BYTES, self._new.maxsize):
            return
        is_single_post = SINGLE_POST.fullmatch(key[0])
        response.generation = None if is_single_post else generation
        self._used.pop(key, None)
        self._new[key] = response

    def invalidate(self, post_ids: Iterable[str]) -> None:
        """Remove these posts, and all else but the API's responses for other posts."""
        self.generation += 1
        for post_id in post_ids:
            for encoding in ENCODINGS:
                self._new.pop((f"/api/posts/{post_id}", b"", encoding), None)
                self._used.pop((f"/api/posts/{post_id}", b"", encoding), None)

    def invalidate_all(self) -> None:
        self.generation += 1
        self._new.clear()
        self._used.clear()


cache = ResponseCache()


@dataclass(eq=False)
class Computation:
    """A response that is being computed."""

    generation: int
    started_at: float
    result: asyncio.Future[BufferedResponse]

    def may_be_joined(self) -> bool:
        """Return whether a new request may wait for the result and use it."""
        age = asyncio.get_running_loop().time() - self.started_at
        return self.generation == cache.generation and age < JOIN_TIMEOUT

    def has_succeeded(self) -> bool:
        """Return whether the result can be shared.

        Errors can't be shared, because they contain a request id.
        """
        return (
            not self.result.cancelled()
            and self.result.exception() is None
            and self.result.result().status < 500
        )


class ResponseCacheMiddleware:
    """Serve and store responses, according to the rules at the top of this module."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._running: dict[object, Computation] = {}
        self._memory = LargeResponseMemory()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(UNCACHED):
            await self.app(scope, receive, send)
        elif scope["method"] == "GET":
            await self._get(scope, receive, send)
        elif scope["method"] in SAFE_METHODS or scope["path"] in TOKEN_PATHS:
            await self.app(scope, receive, send)
        else:
            await self._write(scope, receive, send)

    async def _write(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app, and remove outdated responses before its response is sent."""

        async def send_after_invalidation(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                match = POSTS_API.fullmatch(scope["path"])
                if match:
                    cache.invalidate(filter(None, match.groups()))
                else:
                    cache.invalidate_all()
            await send(message)

        await self.app(scope, receive, send_after_invalidation)

    async def _get(self, scope: Scope, receive: Receive, send: Send) -> None:
        accept_encoding = if_none_match = ""
        for name, value in scope["headers"]:
            if name == b"accept-encoding":
                accept_encoding = append_value(accept_encoding, value)
            elif name == b"if-none-match":
                if_none_match = append_value(if_none_match, value)
        query = scope["query_string"] and normalized_query(scope)
        key = scope["path"], query, choose_encoding(accept_encoding)
        may_store = cache.is_on and not scope["app"].dependency_overrides
        response = cache.get(key) if may_store else None
        if response is None:
            response = await self._compute(scope, key, may_store=may_store)
        scope["route"] = response.route
        if "fastapi.telemetry" in scope:
            # FastAPI only does this when it selects a route, and has no public function
            # for it.
            _route_selected(scope=scope, path=getattr(response.route, "path", None))
        if if_none_match and response.is_known_to(if_none_match):
            await response.send_not_modified(send)
        elif response.is_large:
            with self._memory.reserve(response, scope["client"][0]) as shared:
                await shared.send(receive, send)
        else:
            await response.send(receive, send)

    async def _compute(
        self, scope: Scope, key: Key, *, may_store: bool
    ) -> BufferedResponse:
        """Call the app, or wait if the same response is already being computed."""
        headers = Headers(scope=scope)
        token = headers.get("authorization")
        # Errors also depend on the media types that the client accepts.
        identity = (*key, token, *headers.getlist("accept"))
        running = self._running.get(identity)
        if running is not None and running.may_be_joined():
            # Don't await the future directly. Canceling this task would cancel it too.
            await asyncio.wait({running.result})
            if running.has_succeeded():
                return running.result.result()
        loop = asyncio.get_running_loop()
        current = Computation(cache.generation, loop.time(), loop.create_future())
        self._running[identity] = current
        try:
            response = await call_app(self.app, inner_scope(scope, key))
        except Exception as error:
            current.result.set_exception(error)
            # Retrieve the exception. Otherwise, asyncio logs that nothing retrieved it.
            current.result.exception()
            raise
        else:
            current.result.set_result(response)
        finally:
            current.result.cancel()
            if self._running.get(identity) is current:
                del self._running[identity]
        if may_store and token is None and is_canonical(key):
            cache.put(key, response, current.generation)
        return response


def append_value(values: str, value: bytes) -> str:
    """Append the value of a repeated header (RFC 9110, section 5.3)."""
    text = value.decode("latin-1")
    return f"{values},{text}" if values else text


# Keys


def normalized_query(scope: Scope) -> bytes:
    """Return the query string with the parameters that the route declares, sorted."""
    query: bytes = scope["query_string"]
    for path_regex, names in query_parameters(scope["app"]):
        if path_regex.match(scope["path"]):
            pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
            return urlencode(sorted(p for p in pairs if p[0] in names)).encode()
    # No route matches. Keep the query string, because a redirect may contain it.
    return query


@lru_cache(maxsize=1)
def query_parameters(app: FastAPI) -> list[tuple[re.Pattern[str], set[str]]]:
    """Return the path and the query parameters of each GET route, in routing order."""
    routes = [
        (route.path_regex, set(parameters_of(route.dependant)))
        for router in app.state.routers
        for route in router.routes
        if isinstance(route, APIRoute) and "GET" in (route.methods or ())
    ]
    # FastAPI itself adds the route for openapi.json.
    return [*routes, (re.compile(f"{re.escape(app.openapi_url or '')}$"), set())]


def parameters_of(dependant: Dependant) -> Iterator[str]:
    yield from (parameter.alias for parameter in dependant.query_params)
    for dependency in dependant.dependencies:
        yield from parameters_of(dependency)


@lru_cache(maxsize=256)
def choose_encoding(accept_encoding: str) -> str:
    """Return the best encoding that a client accepts (RFC 9110, section 12.5.3)."""
    accepted = {
        encoding.strip()
        for encoding, _, quality in (
            entry.partition(";") for entry in accept_encoding.lower().split(",")
        )
        if not re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", quality)
    }
    return next((name for name in ENCODINGS if name in accepted), ENCODINGS[-1])


def is_canonical(key: Key) -> bool:
    """Return whether this is the canonical path and query of a resource.

    If other paths were stored, a client could fill the cache with copies of one post
    (`/posts/007`, `/posts/0007`, ...).
    """
    path, query, _ = key
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return (
        CANONICAL_PATH.fullmatch(path) is not None
        and len(dict(pairs)) == len(pairs)
        and all(
            name != SEARCH_PARAMETER and CANONICAL_VALUE.fullmatch(value)
            for name, value in pairs
        )
    )


# Calls to the app


def inner_scope(scope: Scope, key: Key) -> Scope:
    """Return the scope of an unconditional request for a response in one encoding."""
    _, query, encoding = key
    replaced = (b"accept-encoding", b"if-none-match", b"if-modified-since")
    headers = [pair for pair in scope["headers"] if pair[0] not in replaced]
    headers.append((b"accept-encoding", encoding.encode()))
    return {**scope, "query_string": query, "headers": headers}

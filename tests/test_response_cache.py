"""The response cache: sharing, storage and invalidation of responses."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, Response
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from config import settings
from main import app
from middleware import buffered_response, cache_listener, response_cache
from middleware.cache_listener import listen
from middleware.etags import CHUNK_BYTES
from middleware.response_cache import ResponseCacheMiddleware, cache
from tests.conftest import Json, capture_queries, create_post, database_url, sign_up
from tests.databases import execute


class Site:
    """The middleware around an app that responds with the current `text`."""

    def __init__(self) -> None:
        self.calls = 0
        self.may_respond = asyncio.Event()
        self.may_respond.set()
        self.text = "first"
        self.status = 200
        self.headers: dict[str, str] = {}
        self.has_etag = True
        self.error: Exception | None = None
        self.app = FastAPI()
        self.app.state.routers = app.state.routers
        self.middleware = ResponseCacheMiddleware(self.respond)

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        text, error = self.text, self.error
        await self.may_respond.wait()
        if error is not None:
            raise error
        headers = {"Cache-Control": "no-cache"} | self.headers
        if self.has_etag:
            headers["ETag"] = f'"{hash(text)}"'
        response = PlainTextResponse(text, self.status, headers)
        await response(scope, receive, send)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.middleware({**scope, "app": self.app}, receive, send)
        except HTTPException as error:
            await PlainTextResponse("", error.status_code)(scope, receive, send)


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Override the S3 bucket, which is slow to set up and isn't needed here."""


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
async def visitor(site: Site) -> AsyncIterator[AsyncClient]:
    transport = ASGITransport(site)
    async with AsyncClient(transport=transport, base_url="http://test") as visitor:
        yield visitor


async def start(visitor: AsyncClient, **request: Any) -> "asyncio.Task[Response]":
    """Start a request, and let it run until it has to wait."""
    request = {"method": "GET", "url": "/"} | request
    task = asyncio.create_task(visitor.request(**request))
    for _ in range(20):
        await asyncio.sleep(0)
    return task


async def at_once(site: Site, visitor: AsyncClient, *requests: Json) -> list[Response]:
    """Start all requests before the site responds, and return the responses."""
    site.may_respond.clear()
    tasks = [await start(visitor, **request) for request in requests]
    site.may_respond.set()
    return await asyncio.gather(*tasks)


class TestSharing:
    async def test_concurrent_requests(self, site, visitor):
        requests = [{"headers": {"User-Agent": f"No. {n}"}} for n in range(10)]

        responses = await at_once(site, visitor, *requests)

        assert {response.text for response in responses} == {"first"}
        assert site.calls == 1

    async def test_request_after_a_change(self, site, visitor):
        site.may_respond.clear()
        before = await start(visitor)
        site.text = "second"
        cache.invalidate([])
        after = await start(visitor)
        site.may_respond.set()

        responses = await asyncio.gather(before, after)

        assert [response.text for response in responses] == ["first", "second"]

    async def test_streamed_response(self, site, visitor):
        streamed = StreamingResponse(iter(["some ", "text"]))
        site.middleware = ResponseCacheMiddleware(streamed)

        assert (await visitor.get("/")).text == "some text"

    async def test_nothing_is_stored_while_off(self, site, visitor):
        await visitor.get("/")
        site.text = "second"

        assert (await visitor.get("/")).text == "second"

    @pytest.mark.parametrize("header", ["accept", "accept-encoding", "authorization"])
    async def test_depends_on_headers(self, site, visitor, header):
        requests = [{"headers": {header: value}} for value in ("identity", "gzip")]

        await at_once(site, visitor, *requests)

        assert site.calls == 2

    @pytest.mark.parametrize(
        ("method", "paths"),
        [
            ("POST", ["/"] * 3),
            ("GET", ["/static/file"] * 3),
            ("GET", ["/media/file"] * 3),
            ("GET", ["/api/users/me/export"] * 3),
            ("GET", ["/health"] * 3),
            ("GET", ["/", "/?page=2", "/login"]),
        ],
    )
    async def test_other_requests_are_separate(self, site, visitor, method, paths):
        await at_once(site, visitor, *({"method": method, "url": p} for p in paths))

        assert site.calls == 3

    async def test_error(self, site, visitor):
        site.error = RuntimeError("a bug")
        site.may_respond.clear()
        requests = [await start(visitor) for _ in range(3)]
        site.may_respond.set()
        errors = await asyncio.gather(*requests, return_exceptions=True)
        site.error = None

        later = await visitor.get("/")

        assert [str(error) for error in errors] == ["a bug"] * 3
        assert later.text == "first"

    async def test_canceled_request_cancels_no_other(self, site, visitor):
        site.may_respond.clear()
        first, second, third = [await start(visitor) for _ in range(3)]
        second.cancel()
        first.cancel()
        site.may_respond.set()

        assert (await third).text == "first"
        assert site.middleware._running == {}

    async def test_slow_response_is_not_awaited(self, site, visitor, monkeypatch):
        monkeypatch.setattr(response_cache, "JOIN_TIMEOUT", 0)
        site.may_respond.clear()
        requests = [await start(visitor) for _ in range(4)]

        assert site.calls == 4
        site.may_respond.set()
        responses = await asyncio.gather(*requests)
        assert {response.text for response in responses} == {"first"}


@pytest.mark.usefixtures("cache_on")
class TestStorage:
    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("/", "/"),
            ("/posts/7", "/posts/7?fbclid=x"),
            ("/api/posts?limit=5&skip=3", "/api/posts?skip=3&x=1&limit=5"),
            ("/users/7/posts?page=2", "/users/7/posts?page=2&utm_source=x"),
            ("/reset-password?token=a", "/reset-password?token=b"),
            ("/openapi.json?x=1", "/openapi.json?x=2"),
        ],
    )
    async def test_hit(self, site, visitor, first, second):
        stored = await visitor.get(first)

        response = await visitor.get(second)

        assert site.calls == 1
        assert response.headers == stored.headers
        assert response.text == stored.text

    @pytest.mark.parametrize(
        "path",
        [
            "/posts/007",
            "/posts/+7",
            "/?page=01",
            "/?page=1&page=1",
            "/api/posts?cursor=AAAA",
            "/sitemaps/posts-00.xml",
            "/posts/",
        ],
    )
    async def test_other_spellings_are_not_stored(self, site, visitor, path):
        await visitor.get(path)
        await visitor.get(path)

        assert site.calls == 2
        assert cache.size_bytes == 0

    @pytest.mark.parametrize(
        "changes",
        [
            {"status": 404},
            {"headers": {"Cache-Control": "no-store"}},
            {"has_etag": False},
        ],
    )
    async def test_unstorable_response(self, site, visitor, changes):
        vars(site).update(changes)
        await visitor.get("/")
        await visitor.get("/")

        assert site.calls == 2

    async def test_request_with_token(self, site, visitor):
        token = {"Authorization": "Bearer x"}
        await visitor.get("/", headers=token)
        await visitor.get("/")
        await visitor.get("/", headers=token)

        assert site.calls == 2

    async def test_overridden_dependency(self, site, visitor):
        site.app.dependency_overrides = {print: print}
        await visitor.get("/")
        await visitor.get("/")

        assert site.calls == 2

    @pytest.mark.parametrize("path", ["/", "/api/posts/7"])
    async def test_change_during_computation(self, site, visitor, path):
        site.may_respond.clear()
        request = await start(visitor, url=path)
        cache.invalidate(["7"])
        site.may_respond.set()
        await request

        await visitor.get(path)

        assert site.calls == 2

    @pytest.mark.parametrize("condition", ["{etag}", "W/{etag}", '"x", {etag}', "*"])
    async def test_not_modified(self, site, visitor, condition):
        etag = (await visitor.get("/")).headers["etag"]

        headers = {"If-None-Match": condition.format(etag=etag)}
        response = await visitor.get("/", headers=headers)

        assert response.status_code == 304
        assert (response.headers["etag"], response.content) == (etag, b"")
        assert "content-length" not in response.headers

    async def test_condition_does_not_prevent_storage(self, site, visitor):
        etag = (await visitor.get("/")).headers["etag"]
        cache.invalidate_all()
        headers = {"If-None-Match": etag}
        await visitor.get("/", headers=headers)

        response = await visitor.get("/")

        assert (response.status_code, response.text) == (200, "first")
        assert site.calls == 2

    async def test_limit_in_bytes(self, site, visitor, monkeypatch):
        monkeypatch.setattr(settings, "response_cache_bytes", 100_000)
        cache.turn_on()
        await visitor.get("/login")
        await visitor.get("/login")
        # Request each page once, as a crawler does.
        for post_id in range(1, 100):
            await visitor.get(f"/posts/{post_id}")
        calls = site.calls

        await visitor.get("/login")

        assert site.calls == calls == 100
        assert cache.size_bytes <= 100_000

    async def test_large_response_is_not_stored(self, site, visitor, monkeypatch):
        monkeypatch.setattr(response_cache, "MAX_ENTRY_BYTES", 1000)
        site.text = "x" * 1000

        for _ in range(2):
            await visitor.get("/")

        assert site.calls == 2

    async def test_zero_turns_it_off(self, monkeypatch):
        monkeypatch.setattr(settings, "response_cache_bytes", 0)

        cache.turn_on()

        assert not cache.is_on


@pytest.mark.usefixtures("cache_on")
class TestInvalidation:
    @pytest.mark.parametrize(
        ("method", "path", "removed"),
        [
            ("POST", "/api/posts", {"/", "/users/1", "/posts/7"}),
            ("PATCH", "/api/posts/7", {"/", "/users/1", "/posts/7", "/api/posts/7"}),
            ("DELETE", "/api/posts/7", {"/", "/users/1", "/posts/7", "/api/posts/7"}),
            ("PUT", "/api/posts/+7", "all"),
            ("PATCH", "/api/users/1", "all"),
            ("DELETE", "/api/users/1/picture", "all"),
        ],
    )
    async def test_write(self, site, visitor, method, path, removed):
        stored = {"/", "/users/1", "/posts/7", "/api/posts/7", "/api/posts/8"}
        for url in stored:
            await visitor.get(url)
        await visitor.request(method, path)
        site.text = "second"

        responses = {url: (await visitor.get(url)).text for url in stored}

        expected = stored if removed == "all" else removed
        assert {url for url in stored if responses[url] == "second"} == expected

    @pytest.mark.parametrize("path", ["/api/users/token", "/api/users/me/token"])
    async def test_login_removes_nothing(self, site, visitor, path):
        await visitor.get("/")
        await visitor.post(path)

        await visitor.get("/")

        assert site.calls == 2

    async def test_failed_write_removes_nothing(self, site, visitor):
        await visitor.get("/")
        site.status = 401
        await visitor.post("/api/posts")

        await visitor.get("/")

        assert site.calls == 2


LARGE = "x" * 3000


class Reader:
    """A client that reads the start of a response and, on demand, the rest."""

    def __init__(self, site: Site, ip: str) -> None:
        self.status = 0
        self.body = b""
        self.continues = asyncio.Event()
        self.disconnects = asyncio.Event()
        self.has_started = asyncio.Event()
        scope: Scope = {"type": "http", "method": "GET", "path": "/"}
        scope.update(query_string=b"", headers=[], client=(ip, 1))
        self.task = asyncio.create_task(site(scope, self.receive, self.read))

    async def receive(self) -> Message:
        await self.disconnects.wait()
        return {"type": "http.disconnect"}

    async def read(self, message: Message) -> None:
        self.status = message.get("status", self.status)
        if "body" in message:
            self.body += message["body"]
            self.has_started.set()
            await self.continues.wait()

    async def finish(self) -> bytes:
        self.continues.set()
        await self.task
        return self.body


async def start_reading(site: Site, text: str = LARGE, ip: str = "192.0.2.1") -> Reader:
    site.text = text
    reader = Reader(site, ip)
    await reader.has_started.wait()
    return reader


class TestLargeResponse:
    @pytest.fixture(autouse=True)
    def limits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Limit memory to two large responses, and to one per client IP."""
        monkeypatch.setattr(buffered_response, "LARGE_BYTES", 2000)
        monkeypatch.setattr(buffered_response, "MAX_LARGE_BYTES", 7000)
        monkeypatch.setattr(buffered_response, "MAX_LARGE_BYTES_PER_CLIENT", 4000)

    async def test_is_stored_once(self, site):
        readers = [await start_reading(site) for _ in range(10)]

        assert site.middleware._memory._bytes.total() == len(LARGE)
        bodies = {await reader.finish() for reader in readers}
        assert bodies == {LARGE.encode()}
        assert site.middleware._memory._bytes == {}

    async def test_limit_per_client(self, site):
        readers = [
            await start_reading(site),
            await start_reading(site, "y" * 3000),
            await start_reading(site, "y" * 3000, ip="192.0.2.2"),
            await start_reading(site, "small"),
        ]
        [await reader.finish() for reader in readers]

        later = await start_reading(site, "z" * 3000)

        await later.finish()
        assert [reader.status for reader in readers] == [200, 503, 200, 200]
        assert later.status == 200
        assert site.middleware._memory._bytes == {}

    async def test_limit_in_total(self, site):
        readers = [
            await start_reading(site, str(n) * 3000, ip=f"192.0.2.{n}")
            for n in range(4)
        ]

        [await reader.finish() for reader in readers]

        assert [reader.status for reader in readers] == [200, 200, 503, 503]

    async def test_is_not_shared_without_etag(self, site):
        site.has_etag = False
        first = await start_reading(site)
        second = await start_reading(site, "y" * 3000, ip="192.0.2.2")

        assert await first.finish() != await second.finish()

    async def test_is_not_sent_after_disconnect(self, site, monkeypatch):
        monkeypatch.setattr(buffered_response, "MAX_LARGE_BYTES", 10 * CHUNK_BYTES)
        monkeypatch.setattr(
            buffered_response, "MAX_LARGE_BYTES_PER_CLIENT", 10 * CHUNK_BYTES
        )
        reader = await start_reading(site, "x" * (10 * CHUNK_BYTES))
        reader.disconnects.set()

        body = await reader.finish()

        # The second chunk may already have been sent.
        assert len(body) <= 2 * CHUNK_BYTES
        assert site.middleware._memory._bytes == {}

    async def test_memory_is_released_after_cancellation(self, site):
        reader = await start_reading(site)

        reader.task.cancel()
        await asyncio.wait({reader.task})

        assert site.middleware._memory._bytes == {}


class TestApp:
    async def test_response_without_body_needs_no_memory(
        self, concurrent_client, monkeypatch
    ):
        etag = (await concurrent_client.get("/login")).headers["etag"]
        monkeypatch.setattr(buffered_response, "LARGE_BYTES", 0)
        monkeypatch.setattr(buffered_response, "MAX_LARGE_BYTES", 10)

        responses = [
            await concurrent_client.get("/login"),
            await concurrent_client.get("/login", headers={"If-None-Match": etag}),
            await concurrent_client.head("/login"),
        ]

        assert [response.status_code for response in responses] == [503, 304, 200]

    @pytest.mark.usefixtures("cache_on")
    @pytest.mark.parametrize(
        "path", ["/", "/api/posts", "/posts/{id}", "/feed.atom", "/login", "/docs"]
    )
    async def test_hit_has_the_same_headers(self, concurrent_client, path):
        ada = await sign_up(concurrent_client, "ada")
        path = path.format(**await create_post(concurrent_client, ada))
        first = await concurrent_client.get(path)

        with capture_queries() as queries:
            second = await concurrent_client.get(path)

        assert queries == []
        assert second.headers == first.headers
        assert second.content == first.content

    @pytest.mark.usefixtures("cache_on")
    async def test_private_responses_are_not_stored(self, concurrent_client):
        ada = await sign_up(concurrent_client, "ada")
        await concurrent_client.get("/api/users/me", headers=ada)

        response = await concurrent_client.get("/api/users/me")

        assert response.status_code == 401

    @pytest.mark.usefixtures("cache_on")
    async def test_own_change_is_seen_at_once(self, concurrent_client):
        ada = await sign_up(concurrent_client, "ada")
        post = await create_post(concurrent_client, ada)
        paths = [f"/posts/{post['id']}", "/", "/feed.atom", "/api/posts"]
        for path in paths:
            await concurrent_client.get(path)
        user = f"/api/users/{post['user_id']}"
        await concurrent_client.patch(user, json={"username": "lady"}, headers=ada)

        responses = [await concurrent_client.get(path) for path in paths]

        assert all("lady" in response.text for response in responses)

    @pytest.mark.usefixtures("cache_on")
    async def test_links_to_neighbors_are_current(self, concurrent_client):
        ada = await sign_up(concurrent_client, "ada")
        path = f"/posts/{(await create_post(concurrent_client, ada))['id']}"
        pages = [(await concurrent_client.get(path)).text]

        newer = await create_post(concurrent_client, ada, title="Newer")
        pages.append((await concurrent_client.get(path)).text)
        url = f"/api/posts/{newer['id']}"
        await concurrent_client.patch(url, json={"title": "Edited"}, headers=ada)
        pages.append((await concurrent_client.get(path)).text)
        await concurrent_client.delete(url, headers=ada)
        pages.append((await concurrent_client.get(path)).text)

        titles = [re.findall(r"<bdi>(Newer|Edited)<", page) for page in pages]
        assert titles == [[], ["Newer"], ["Edited"], []]


@pytest.fixture
async def listener(schema: None) -> AsyncIterator[None]:
    """Run the listener until the end of the test."""
    task = asyncio.create_task(listen())
    await wait_until(lambda: cache.is_on)
    yield
    task.cancel()
    await asyncio.wait({task})


async def wait_until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 -- the cache has no event for tests
            await asyncio.sleep(0.01)


async def change(statement: str) -> None:
    """Execute a statement as another process would, and wait for its notification."""
    generation = cache.generation
    await execute(database_url(), statement)
    await wait_until(lambda: cache.generation != generation)


async def settle() -> None:
    """Wait for the notifications of all earlier changes."""
    await change(f"NOTIFY {cache_listener.CHANNEL}")


INSERT = "INSERT INTO posts (title, content, user_id) "


@pytest.mark.usefixtures("listener")
class TestListener:
    @pytest.mark.parametrize(
        ("statement", "is_kept"),
        [
            (INSERT + "SELECT '', 'x', id FROM users", True),
            ("UPDATE posts SET content = 'y' WHERE id <> {id}", True),
            ("UPDATE posts SET content = 'y'", False),
            ("DELETE FROM posts WHERE id = {id}", False),
            (
                "INSERT INTO users (username, email, password_hash) "
                "VALUES ('bob', 'bob@example.com', '')",
                True,
            ),
            ("UPDATE users SET username = 'lady'", False),
            ("UPDATE users SET image_file = 'x.jpg'", False),
            ("UPDATE users SET bio = 'Engines'", False),
            ("DELETE FROM users", False),
            ("TRUNCATE users CASCADE", False),
            (
                INSERT + "SELECT '', 'x', max(id) FROM users, "
                "generate_series(1, 501) GROUP BY generate_series",
                False,
            ),
        ],
    )
    async def test_change_by_another_process(
        self, concurrent_client, statement, is_kept
    ):
        ada = await sign_up(concurrent_client, "ada")
        post = await create_post(concurrent_client, ada)
        await create_post(concurrent_client, ada)
        await settle()
        path = f"/api/posts/{post['id']}"
        for url in (path, "/api/posts"):
            await concurrent_client.get(url)

        await change(statement.format(**post))

        keys = [(path, b"", "br"), ("/api/posts", b"", "br")]
        kept = [cache.get(key) is not None for key in keys]
        assert kept == [is_kept, False]

    @pytest.mark.parametrize(
        "statement",
        ["UPDATE users SET token_version = 1", "DELETE FROM posts WHERE id = 0"],
    )
    async def test_other_changes(self, concurrent_client, statement):
        await sign_up(concurrent_client, "ada")
        await settle()
        generation = cache.generation

        await execute(database_url(), statement)
        await settle()

        assert cache.generation == generation + 1

    async def test_lost_connection(self, concurrent_client, monkeypatch):
        await concurrent_client.get("/login")
        monkeypatch.setattr(cache_listener, "RECONNECT_DELAY", 0.1)

        await execute(
            database_url(),
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )

        await wait_until(lambda: not cache.is_on)
        assert cache.size_bytes == 0
        await wait_until(lambda: cache.is_on)

    async def test_read_only_server(self, monkeypatch):
        monkeypatch.setattr(cache_listener, "RECONNECT_DELAY", 0.1)

        with monkeypatch.context() as patch:
            patch.setattr(cache_listener, "IS_READ_ONLY", "SELECT 'on'")
            await wait_until(lambda: not cache.is_on)

        await wait_until(lambda: cache.is_on)

    async def test_hanging_connection(self, monkeypatch):
        monkeypatch.setattr(cache_listener, "RECONNECT_DELAY", 0.1)

        async def hang(*_):
            await asyncio.Event().wait()

        with monkeypatch.context() as patch:
            patch.setattr(asyncpg.Connection, "fetchval", hang)
            await wait_until(lambda: not cache.is_on)

        await wait_until(lambda: cache.is_on)

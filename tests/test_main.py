"""Pages, errors, headers, HEAD requests, trailing slashes, body limits and health."""

import asyncio
import gc
import inspect
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest.mock import AsyncMock

import pytest
from fastapi import HTTPException
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from httpx import AsyncClient
from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from config import settings
from database import DatabaseUnavailable, engine, get_db
from main import app, lifespan
from routers import ROUTERS
from tests.conftest import (
    PASSWORD,
    CountingBody,
    create_post,
    create_test_user,
    get_user_id,
    make_client,
)

MIB = 1024 * 1024
JSON = {"Content-Type": "application/json"}

STATIC_PAGES = [
    "/login",
    "/register",
    "/account",
    "/forgot-password",
    "/reset-password",
]
# Filled with the ids of an existing {post} and {user}.
PAGES = ["/", "/site/posts", "/posts/{post}", "/users/{user}/posts", *STATIC_PAGES]
DOCS = ["/docs", "/redoc"]
FILES = ["/static/css/main.css", "/static/profile_pics/default.jpg"]
READABLE = [
    *PAGES,
    *DOCS,
    *FILES,
    "/openapi.json",
    "/health",
    "/api/posts",
    "/api/posts/{post}",
    "/api/users",
    "/api/users/{user}",
    "/api/users/{user}/posts",
]
FAULTY = [
    ("GET", "/nothing", 404),
    ("GET", "/posts/0", 404),
    ("GET", "/posts/x", 422),
    ("POST", "/login", 405),
    ("GET", "/static/nothing.css", 404),
    ("GET", "/static/../main.py", 404),
    ("GET", "/api/nothing", 404),
    ("GET", "/api/posts/0", 404),
    ("GET", "/api/posts/x", 422),
    ("POST", "/api/posts", 401),
    ("PUT", "/api/posts", 405),
    ("GET", "/login/", 307),
    ("GET", "/api/posts/", 307),
    ("OPTIONS", "/", 405),
    ("BREW", "/api/users", 405),
]


@pytest.fixture
async def places(client: AsyncClient, ada: dict[str, str]) -> dict[str, int]:
    """Return the ids of a post and its author, to fill into paths."""
    post = await create_post(client, ada, title="A title")
    return {"post": post["id"], "user": post["user_id"]}


def fail_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise this error wherever the database is needed."""

    async def failing() -> AsyncIterator[None]:
        raise error
        yield

    monkeypatch.setitem(app.dependency_overrides, get_db, failing)


@pytest.fixture
async def bare_client() -> AsyncIterator[AsyncClient]:
    """Return a client that uses the app's own `get_db` or its override."""
    async with make_client() as client:
        yield client


async def raw_body(method: str, path: str) -> bytes:
    """Return the body as the app sends it: HTTPX drops the body of a HEAD."""
    sent: list[Any] = []

    async def receive() -> Any:
        # There is no body, and the client stays connected.
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1:8000")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    await app(scope, receive, send)
    return b"".join(message.get("body", b"") for message in sent)


# Pages


@pytest.mark.parametrize("path", PAGES)
async def test_page_is_served(
    client: AsyncClient, places: dict[str, int], path: str
) -> None:
    response = await client.get(path.format(**places))

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>" in response.text


@pytest.mark.parametrize("path", PAGES)
async def test_page_is_the_same_for_everyone(
    client: AsyncClient, places: dict[str, int], ada: dict[str, str], path: str
) -> None:
    signed_out = await client.get(path.format(**places))
    signed_in = await client.get(path.format(**places), headers=ada)

    assert signed_in.content == signed_out.content
    assert "set-cookie" not in signed_in.headers


@pytest.mark.parametrize("path", ["/", "/site/posts", "/users/{user}/posts"])
async def test_page_links_posts_and_authors(
    client: AsyncClient, places: dict[str, int], path: str
) -> None:
    page = (await client.get(path.format(**places))).text

    assert "A title" in page
    assert f'href="/posts/{places["post"]}"' in page
    assert "ada" in page


async def test_home_page_links_to_authors(
    client: AsyncClient, places: dict[str, int]
) -> None:
    page = (await client.get("/")).text

    assert f'href="/users/{places["user"]}/posts"' in page


async def test_user_page_lists_only_their_posts(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str]
) -> None:
    await create_post(client, ada, title="Of ada")
    await create_post(client, bob, title="Of bob")

    page = (await client.get(f"/users/{await get_user_id(client, ada)}/posts")).text

    assert "Of ada" in page
    assert "Of bob" not in page


async def test_post_page_shows_complete_post(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    content = "word " * 1000 + "end"
    post = await create_post(client, ada, title="A title", content=content)

    page = (await client.get(f"/posts/{post['id']}")).text

    assert "A title" in page
    assert content in page


@pytest.mark.parametrize("path", ["/", "/posts/{post}", "/users/{user}/posts"])
async def test_untitled_post_shows_first_words_of_content(
    client: AsyncClient, ada: dict[str, str], path: str
) -> None:
    post = await create_post(client, ada, title="", content="Once upon a time " * 20)

    page = await client.get(path.format(post=post["id"], user=post["user_id"]))

    link = rf'href="/posts/{post["id"]}"[^>]*>\s*Once upon a time'
    heading = r"<h1[^>]*>\s*Once upon a time"
    assert re.search(f"{link}|{heading}", page.text)


@pytest.mark.parametrize("path", ["/", "/posts/{post}", "/users/{user}/posts"])
async def test_page_escapes_user_content(client: AsyncClient, path: str) -> None:
    evil = "<script>alert(1)</script>"
    await client.post(
        "/api/users",
        json={"username": evil, "email": "a@example.com", "password": "12345678"},
    )
    login = {"username": "a@example.com", "password": "12345678"}
    token = (await client.post("/api/users/token", data=login)).json()["access_token"]
    post = await create_post(
        client,
        {"Authorization": f"Bearer {token}"},
        title=evil,
        content=f'{evil} "onclick="alert(2)',
    )

    page = await client.get(path.format(post=post["id"], user=post["user_id"]))

    assert page.status_code == 200
    assert "<script>alert" not in page.text
    assert '"onclick="' not in page.text


@pytest.mark.parametrize("path", ["/", "/users/{user}/posts"])
async def test_list_page_links_to_older_posts(
    client: AsyncClient, ada: dict[str, str], path: str
) -> None:
    titles = [f"Post number {number}." for number in range(11)]
    [await create_post(client, ada, title=title) for title in titles]
    path = path.format(user=await get_user_id(client, ada))

    first, second = await client.get(path), await client.get(f"{path}?page=2")

    assert f'href="{path}?page=2"' in first.text
    assert "Post number 10." in first.text
    assert "Post number 0." not in first.text
    assert "Post number 0." in second.text
    assert "?page=3" not in second.text


@pytest.mark.parametrize("path", [*PAGES, "/nothing"])
async def test_page_loads_nothing_external_or_inline(
    client: AsyncClient, places: dict[str, int], path: str
) -> None:
    page = (await client.get(path.format(**places))).text

    assert not re.search(r"""(?:src|action|srcset)=["']?\s*(?:https?:)?//""", page)
    # A canonical link loads nothing, and a data block is not a script.
    assert not re.search(
        r"""<link(?! rel="canonical")[^>]*href=["']?\s*(?:https?:)?//""", page
    )
    assert not re.search(
        r"<script(?![^>]*\bsrc=| type=.application/ld\+json.)[^>]*>"
        r"|<style|\s(?:style|on\w+)=",
        page,
    )


@pytest.mark.parametrize("path", DOCS)
async def test_docs_load_nothing_external_or_inline(
    client: AsyncClient, path: str
) -> None:
    page = (await client.get(path)).text

    assert not re.search(r"""(?:src|href)=["']?\s*(?:https?:)?//""", page)
    assert not re.search(
        r"<script(?![^>]*\bsrc=)[^>]*>|<style|\s(?:style|on\w+)=", page
    )


# Errors


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/apiary", 404),
        ("GET", "/posts/1", 404),
        ("GET", "/posts/0", 404),
        ("GET", "/posts/-1", 404),
        ("GET", "/posts/2147483648", 404),
        ("GET", f"/posts/{'1' * 30}", 404),
        ("GET", "/users/0/posts", 404),
        ("GET", "/users/2147483648/posts", 404),
        ("GET", "/static/nothing.css", 404),
        ("GET", "/posts/x", 422),
        ("GET", "/posts/%00", 422),
        ("GET", "/users/x/posts", 422),
        ("GET", "/?page=0", 422),
        ("GET", "/?page=x", 422),
        ("GET", "/?page=99999999999999999999", 422),
        ("POST", "/login", 405),
        ("DELETE", "/posts/1", 405),
    ],
)
async def test_error_outside_api_is_a_page(
    client: AsyncClient, method: str, path: str, status: int
) -> None:
    response = await client.request(method, path)

    assert response.status_code == status
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert str(status) in response.text
    assert 'href="/"' in response.text


@pytest.mark.parametrize(
    "status", [400, 401, 403, 404, 405, 413, 418, 422, 429, 500, 502, 503, 504]
)
async def test_every_error_has_its_page(
    bare_client: AsyncClient, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    fail_with(HTTPException(status, headers={"Retry-After": "7"}), monkeypatch)

    response = await bare_client.get("/")

    assert response.status_code == status
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["retry-after"] == "7"
    assert str(status) in response.text
    assert 'href="/"' in response.text


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "/api", 404, "Not Found"),
        ("GET", "/api/nothing", 404, "Not Found"),
        ("GET", "/api/posts/1/nothing", 404, "Not Found"),
        ("PUT", "/api/posts", 405, "Method Not Allowed"),
        ("POST", "/health", 405, "Method Not Allowed"),
    ],
)
async def test_api_error_is_json(
    client: AsyncClient, method: str, path: str, status: int, detail: str
) -> None:
    response = await client.request(method, path, headers={"Accept": "text/html"})

    assert response.status_code == status
    assert response.json() == {"detail": detail}


async def test_api_bug_is_generic_500(
    bare_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(RuntimeError("a secret detail"), monkeypatch)
    # The document does not declare a 500.
    bare_client.event_hooks = {}

    response = await bare_client.get("/api/posts")

    assert response.status_code == 500
    assert response.json() == {"detail": "Internal Server Error"}
    assert "secret" not in str(response.headers)


@pytest.mark.parametrize("path", ["/", "/posts/1", "/users/1/posts"])
async def test_page_bug_is_generic_500_page(
    bare_client: AsyncClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    fail_with(RuntimeError("a secret detail"), monkeypatch)

    response = await bare_client.get(path)

    assert response.status_code == 500
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "500" in response.text
    assert "secret" not in response.text


async def test_bug_after_response_is_only_logged(
    client: AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(**_mail: str) -> None:
        raise RuntimeError("a bug in the background")

    await create_test_user(client)
    monkeypatch.setattr("routers.users.send_password_reset_email", fail)

    response = await client.post(
        "/api/users/forgot-password", json={"email": "ada@example.com"}
    )

    assert response.status_code == 202
    assert "a bug in the background" in caplog.text


@pytest.mark.parametrize(
    "path",
    [
        "/reset-password?token=a-secret&next=/?x",
        "/reset-password%3ftoken=a-secret",
        "/reset-password%3Ftoken=a-secret?x",
    ],
)
def test_access_log_omits_query_strings(
    caplog: pytest.LogCaptureFixture, path: str
) -> None:
    line = '%s - "%s %s HTTP/%s" %d'

    with caplog.at_level(logging.INFO):
        logging.getLogger("uvicorn.access").info(
            line, "192.0.2.1:1", "GET", path, "1.1", 200
        )

    expected = '192.0.2.1:1 - "GET /reset-password HTTP/1.1" 200'
    assert caplog.messages == [expected]


async def test_bug_log_omits_query_string(
    bare_client: AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fail_with(RuntimeError("a bug"), monkeypatch)
    bare_client.event_hooks = {}

    response = await bare_client.get("/?token=hunt3r")

    assert response.headers["x-error-id"] in caplog.text
    assert "a bug" in caplog.text
    assert "hunt3r" not in caplog.text


# An unreachable database


@pytest.fixture
async def offline_client(
    monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> AsyncIterator[AsyncClient]:
    """Return a client of an app whose database port is closed."""
    url = SecretStr(
        f"postgresql+asyncpg://blog:hunt3r@127.0.0.1:{unused_tcp_port}/blog"
    )
    monkeypatch.setattr(settings, "database_url", url)
    await engine.dispose()
    async with make_client() as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/posts"),
        ("GET", "/api/posts/1"),
        ("GET", "/api/users"),
        ("GET", "/health"),
    ],
)
async def test_unreachable_database_makes_api_unavailable(
    offline_client: AsyncClient, method: str, path: str
) -> None:
    response = await offline_client.request(method, path)

    assert response.status_code == 503
    assert response.json() == {"detail": "Database unavailable"}
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/api/users/token", {"data": {"username": "a", "password": "b"}}),
        ("/api/users/forgot-password", {"json": {"email": "ada@example.com"}}),
        (
            "/api/users/reset-password",
            {"json": {"token": "t", "new_password": "12345678"}},
        ),
        (
            "/api/users",
            {"json": {"username": "a", "email": "a@b.example", "password": "12345678"}},
        ),
    ],
)
async def test_unreachable_database_makes_writes_unavailable(
    offline_client: AsyncClient, path: str, form: dict[str, Any]
) -> None:
    response = await offline_client.post(path, **form)

    assert response.status_code == 503
    assert response.json() == {"detail": "Database unavailable"}
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize("path", ["/", "/posts/1", "/users/1/posts"])
async def test_unreachable_database_makes_pages_unavailable(
    offline_client: AsyncClient, path: str
) -> None:
    response = await offline_client.get(path)

    assert response.status_code == 503
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        OperationalError("SELECT 1", {}, ConnectionRefusedError()),
        DBAPIError("SELECT 1", {}, OSError(), connection_invalidated=True),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("path", ["/", "/api/posts", "/health"])
async def test_errors_of_overridden_session_are_handled(
    bare_client: AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    error: Exception,
) -> None:
    fail_with(error, monkeypatch)

    response = await bare_client.get(path)

    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0


async def test_connection_error_of_other_engine_is_503(
    bare_client: AsyncClient, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    elsewhere = create_async_engine(f"postgresql+asyncpg://127.0.0.1:{unused_tcp_port}")

    async def session_elsewhere() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(elsewhere) as session:
            yield session

    monkeypatch.setitem(app.dependency_overrides, get_db, session_elsewhere)

    response = await bare_client.get("/api/posts")

    assert response.status_code == 503
    assert response.json() == {"detail": "Database unavailable"}


@pytest.mark.parametrize("path", [*STATIC_PAGES, *FILES])
async def test_pages_without_data_need_no_database(
    offline_client: AsyncClient, path: str
) -> None:
    response = await offline_client.get(path)

    assert response.status_code == 200


async def test_unreachable_database_log_omits_password(
    offline_client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await offline_client.get("/api/posts")

    assert "Database unavailable" in caplog.text
    assert "hunt3r" not in caplog.text


async def test_failed_connection_makes_api_unavailable(
    bare_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(DatabaseUnavailable("gone"), monkeypatch)

    response = await bare_client.get("/api/posts")

    assert response.status_code == 503
    assert response.json() == {"detail": "Database unavailable"}


async def test_unresponsive_database_times_out(
    monkeypatch: pytest.MonkeyPatch, bare_client: AsyncClient
) -> None:
    async def never_respond(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read()
        writer.close()

    async def timed(path: str) -> tuple[int, float]:
        start = time.monotonic()
        response = await bare_client.get(path)
        return response.status_code, time.monotonic() - start

    server = await asyncio.start_server(never_respond, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = SecretStr(f"postgresql+asyncpg://blog:x@127.0.0.1:{port}/blog")
    monkeypatch.setattr(settings, "database_url", url)
    await engine.dispose()

    async with server:
        health, page, api = await asyncio.gather(
            timed("/health"), timed("/"), timed("/api/posts")
        )

    assert [health[0], page[0], api[0]] == [503, 503, 503]
    assert health[1] < 2
    assert max(page[1], api[1]) < 5


async def test_app_recovers_when_database_returns(
    bare_client: AsyncClient, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    url = SecretStr(f"postgresql+asyncpg://blog:x@127.0.0.1:{unused_tcp_port}/blog")
    await engine.dispose()
    with monkeypatch.context() as patch:
        patch.setattr(settings, "database_url", url)
        during = await bare_client.get("/health")

    after = await bare_client.get("/health")

    assert (during.status_code, after.status_code) == (503, 200)


# Health


async def test_garbage_collection_skips_startup_objects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Later tests need what shutdown closes.
    monkeypatch.setattr("main.dispose_engine", AsyncMock())
    monkeypatch.setattr("main.orphaned_pictures.run_cleanup", AsyncMock())

    async with lifespan(app):
        skipped = gc.get_freeze_count()

    assert skipped > 50_000
    assert gc.get_freeze_count() == 0


async def test_health_success(client: AsyncClient) -> None:
    response = await client.get("/health")

    assert response.status_code == 200
    assert response.json() == {"status": "healthy"}


# Headers


def assert_secure(headers: Any, referrer: str) -> None:
    """Check the headers that every response has."""
    assert headers["x-frame-options"] == "SAMEORIGIN"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == referrer


@pytest.mark.parametrize(
    "path", [path for path in READABLE if path != "/reset-password"]
)
async def test_successful_response_has_security_headers(
    client: AsyncClient, places: dict[str, int], path: str
) -> None:
    response = await client.get(path.format(**places))

    assert response.status_code == 200
    assert_secure(response.headers, "strict-origin-when-cross-origin")


@pytest.mark.parametrize(("method", "path", "status"), FAULTY)
async def test_error_response_has_security_headers(
    client: AsyncClient, method: str, path: str, status: int
) -> None:
    response = await client.request(method, path)

    assert response.status_code == status
    assert_secure(response.headers, "strict-origin-when-cross-origin")


@pytest.mark.parametrize("path", ["/", "/api/posts"])
async def test_internal_server_error_has_security_headers(
    bare_client: AsyncClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    fail_with(RuntimeError("a bug"), monkeypatch)
    bare_client.event_hooks = {}

    response = await bare_client.get(path, headers={"Host": "blog.example.com"})

    assert response.status_code == 500
    assert_secure(response.headers, "strict-origin-when-cross-origin")
    assert "strict-transport-security" in response.headers


@pytest.mark.parametrize("path", [*PAGES, *DOCS])
async def test_pages_require_trusted_types(
    client: AsyncClient, places: dict[str, int], path: str
) -> None:
    response = await client.get(path.format(**places))

    directives = response.headers["content-security-policy"].split("; ")
    assert "require-trusted-types-for 'script'" in directives
    assert "script-src 'self'" in directives


@pytest.mark.parametrize(
    ("path", "policies"),
    [
        ("/docs", "default dompurify dompurify#swagger-ui"),
        ("/redoc", "default dompurify"),
    ],
)
async def test_docs_allow_only_needed_trusted_types(
    client: AsyncClient, path: str, policies: str
) -> None:
    response = await client.get(path)

    directives = response.headers["content-security-policy"].split("; ")
    assert f"trusted-types {policies}" in directives


async def test_too_large_body_error_has_security_headers(
    client: AsyncClient,
) -> None:
    response = await client.post("/api/users", content=b" " * (MIB + 1), headers=JSON)

    assert response.status_code == 413
    assert_secure(response.headers, "strict-origin-when-cross-origin")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_reset_page_sends_no_referrer(client: AsyncClient, method: str) -> None:
    response = await client.request(method, "/reset-password?token=t")

    assert response.status_code == 200
    assert_secure(response.headers, "no-referrer")


@pytest.mark.parametrize(
    "host",
    [
        "blog.example.com",
        "blog.example.com:8000",
        "localhost.example.com",
        "127.0.0.1.example.com",
        "192.0.2.1",
        "[2001:db8::1]",
    ],
)
@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/api/posts", "/static/css/main.css", "/login/"]
)
async def test_hsts_is_sent_for_public_hosts(
    client: AsyncClient, host: str, path: str
) -> None:
    response = await client.get(path, headers={"Host": host})

    hsts = response.headers["strict-transport-security"]
    assert hsts == "max-age=63072000; includeSubDomains"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LOCALHOST",
        "127.0.0.1",
        "127.0.0.1:80",
        "[::1]:8",
    ],
)
async def test_hsts_is_not_sent_for_local_hosts(client: AsyncClient, host: str) -> None:
    response = await client.get("/login", headers={"Host": host})

    assert "strict-transport-security" not in response.headers


@pytest.mark.parametrize("host", ["", "[", "[::1", "a b", "a:b:c", "\xff"])
@pytest.mark.parametrize("path", ["/", "/login/", "/api/users?limit=1", "/nothing"])
async def test_malformed_host_is_no_error(
    client: AsyncClient, host: str, path: str
) -> None:
    headers = {b"Host": host.encode("latin-1")}

    response = await client.get(path, headers=headers)

    assert response.status_code in {200, 307, 400, 404}


@pytest.mark.parametrize(
    "path", [*READABLE, "/nothing", "/posts/x", "/api/users?limit=1"]
)
async def test_response_omits_host_of_request(
    client: AsyncClient,
    places: dict[str, int],
    bob: dict[str, str],
    path: str,
) -> None:
    forged = {
        "Host": "evil.example",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
        "Forwarded": "host=evil.example",
    }

    response = await client.get(path.format(**places), headers=forged)

    assert b"evil.example" not in response.content
    assert "evil.example" not in str(response.headers)


async def test_static_files_have_content_type(client: AsyncClient) -> None:
    script = await client.get("/static/js/main.js")
    manifest = await client.get("/static/site.webmanifest")

    assert script.headers["content-type"].startswith("text/javascript")
    assert manifest.headers["content-type"] == "application/manifest+json"


# HEAD requests and trailing slashes


@pytest.mark.parametrize("path", READABLE)
async def test_head_matches_get(
    client: AsyncClient, places: dict[str, int], path: str
) -> None:
    path = path.format(**places)
    got = await client.get(path)

    response = await client.head(path)

    assert (response.status_code, response.headers) == (got.status_code, got.headers)
    assert await raw_body("HEAD", path) == b""


@pytest.mark.parametrize("path", ["/nothing", "/posts/x", "/api/posts/0", "/api/x"])
async def test_head_of_error_matches_get(client: AsyncClient, path: str) -> None:
    got = await client.get(path)

    response = await client.head(path)

    assert (response.status_code, response.headers) == (got.status_code, got.headers)
    assert await raw_body("HEAD", path) == b""


@pytest.mark.parametrize("path", [path for path in PAGES if path != "/"])
async def test_trailing_slash_redirects_to_page(
    client: AsyncClient, places: dict[str, int], path: str
) -> None:
    path = path.format(**places)

    response = await client.get(f"{path}/?page=1&x=%2F")

    assert response.status_code == 307
    assert response.headers["location"] == f"{path}?page=1&x=%2F"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/posts"),
        ("HEAD", "/api/posts"),
        ("POST", "/api/posts"),
        ("GET", "/api/posts/1"),
        ("PATCH", "/api/users/me/password"),
        ("POST", "/api/users/token"),
        ("GET", "/api/users/1/posts"),
        ("GET", "/api/users/é%20b"),
    ],
)
async def test_trailing_slash_redirects_in_api(
    client: AsyncClient, method: str, path: str
) -> None:
    response = await client.request(method, f"{path}/", content=b"{}")

    assert response.status_code == 307
    assert response.headers["location"] == path.replace("é", "%C3%A9")


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example/",
        "///evil.example//",
        "/\\evil.example/",
        "/%5Cevil.example/",
        "/%2F/evil.example/",
        "/%09/evil.example/",
        "/%0D%0ASet-Cookie:%20a=b/",
    ],
)
async def test_trailing_slash_never_redirects_to_other_site(
    client: AsyncClient, path: str
) -> None:
    response = await client.get(f"http://127.0.0.1:8000{path}")

    assert response.status_code == 307
    assert re.fullmatch(r"/[^/\\\s][^\\\s]*", response.headers["location"])
    assert "set-cookie" not in response.headers


# Body limits


def padded(size: int) -> bytes:
    """Return a sign-up body of this size."""
    user = {"username": "ada", "email": "ada@example.com", "password": "12345678"}
    return json.dumps(user).encode().ljust(size)


async def test_body_at_limit_is_accepted(client: AsyncClient) -> None:
    response = await client.post("/api/users", content=padded(MIB), headers=JSON)

    assert response.status_code == 201


async def test_body_over_limit_is_rejected(client: AsyncClient) -> None:
    response = await client.post("/api/users", content=padded(MIB + 1), headers=JSON)

    assert response.status_code == 413
    assert response.json() == {"detail": "Request body too large"}


@pytest.mark.parametrize(
    ("method", "path", "content_type"),
    [
        ("POST", "/api/users", "application/json"),
        ("POST", "/api/users/token", "application/x-www-form-urlencoded"),
        ("POST", "/api/users/forgot-password", "application/json"),
        ("POST", "/api/users/reset-password", "application/json"),
        ("PATCH", "/api/users/me/password", "application/json"),
        ("PATCH", "/api/users/{user}", "application/json"),
        ("POST", "/api/posts", "application/json"),
        ("PUT", "/api/posts/{post}", "application/json"),
        ("PATCH", "/api/posts/{post}", "application/json"),
    ],
)
async def test_large_body_is_rejected_while_streaming(
    client: AsyncClient,
    ada: dict[str, str],
    places: dict[str, int],
    method: str,
    path: str,
    content_type: str,
) -> None:
    body = CountingBody(20 * MIB)

    response = await client.request(
        method,
        path.format(**places),
        content=body,
        headers={**ada, "Content-Type": content_type},
    )

    assert response.status_code == 413
    assert response.json() == {"detail": "Request body too large"}
    assert body.read_bytes <= MIB + 4096


# The second one has more digits than Python parses as an integer.
@pytest.mark.parametrize("declared", [str(20 * MIB), "9" * 5000])
async def test_declared_large_body_is_rejected_unread(
    client: AsyncClient, declared: str
) -> None:
    body = CountingBody(20 * MIB)

    response = await client.post(
        "/api/users",
        content=body,
        headers={**JSON, "Content-Length": declared},
    )

    assert response.status_code == 413
    assert body.read_bytes == 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/login", 405), ("GET", "/", 200), ("POST", "/nothing", 404)],
)
async def test_unneeded_body_is_not_read(
    client: AsyncClient, method: str, path: str, status: int
) -> None:
    body = CountingBody(20 * MIB)

    response = await client.request(method, path, content=body)

    assert response.status_code == status
    assert body.read_bytes <= 4096


def dependencies_of(dependant: Dependant) -> Iterator[Dependant]:
    """Yield everything that FastAPI resolves for an operation, and the operation."""
    yield dependant
    for dependency in dependant.dependencies:
        yield from dependencies_of(dependency)


def test_no_operation_runs_in_a_thread() -> None:
    resolved = [
        dependency
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
        for dependency in dependencies_of(route.dependant)
    ]

    # FastAPI calls plain functions in a thread, which waits when the event loop is
    # busy.
    plain = {call for each in resolved if not is_async(call := each.call)}
    assert len(resolved) > 40
    assert plain == set()


def is_async(call: Any) -> bool:
    """Return whether a function or callable object runs on the event loop."""
    return any(
        inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        for function in (call, type(call).__call__)
    )


@pytest.mark.parametrize(
    "charset",
    [
        "; charset=undefined",
        "; charset=punycode",
        ";CHARSET=utf-16",
        ";\xa0charset=utf-16",
        "; charset*=utf-8''utf-16",
        "; charset*0=utf-16",
    ],
)
async def test_form_is_always_decoded_as_utf_8(
    client: AsyncClient, charset: str
) -> None:
    await create_test_user(client)
    fields = {"username": "ada@example.com", "password": PASSWORD}
    parts = "".join(
        f'--;x"\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    kind = f'multipart/form-data; boundary=";x\\""{charset}'

    response = await client.post(
        "/api/users/token",
        content=f'{parts}--;x"--\r\n'.encode(),
        headers={b"Content-Type": kind.encode("latin-1")},
    )

    assert response.status_code == 200


@pytest.mark.parametrize("charset", ["undefined", "punycode", "utf-16"])
async def test_upload_with_any_charset_is_no_server_error(
    client: AsyncClient, ada: dict[str, str], charset: str
) -> None:
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    part = '--x\r\nContent-Disposition: form-data; name="file"; filename="é"\r\n\r\n-'

    response = await client.patch(
        f"/api/users/{await get_user_id(client, ada)}/picture",
        content=f"{part}\r\n--x--\r\n".encode(),
        headers=ada | {"Content-Type": kind},
    )

    assert response.status_code == 400

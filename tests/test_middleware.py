"""HEAD, trailing slashes, charsets, security headers, and errors in middleware."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest.mock import AsyncMock

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from config import ConfigurationError, settings
from exceptions import TOO_MANY_ATTEMPTS
from middleware.errors import ServerErrorMiddleware, StartupErrorMiddleware
from middleware.head import HeadMiddleware
from middleware.server_url import ServerURLMiddleware
from tests.conftest import PASSWORD, create_test_user

HSTS = "strict-transport-security"
# The placeholders are fields of a post.
PAGES = ["/", "/posts/{id}", "/users/{user_id}/posts", "/login", "/docs"]
OTHERS = ["/static/css/main.css", "/openapi.json", "/health", "/feed.atom"]
READABLE = [*PAGES, *OTHERS, "/api/posts", "/api/users/{user_id}"]
FAILING = ["/nothing", "/posts/x", "/static/nothing.css", "/api/posts/0", "/api/x"]


class TestHead:
    @pytest.mark.parametrize("path", [*READABLE, *FAILING])
    async def test_matches_get(self, client, post, path):
        path = path.format(**post)
        got = await client.get(path)

        response = await client.head(path)

        assert response.status_code == got.status_code
        assert response.headers == got.headers

    async def test_has_no_body(self):
        # Call the middleware directly, because HTTPX would drop the body.
        site, send = HeadMiddleware(PlainTextResponse("text")), AsyncMock()

        await site({"type": "http", "method": "HEAD"}, AsyncMock(), send)

        sent = [call.args[0].get("body", b"") for call in send.mock_calls]
        assert sent == [b"", b""]


class TestTrailingSlash:
    @pytest.mark.parametrize(
        ("method", "path", "location"),
        [
            ("GET", "/login/?page=1&x=%2F", "/login?page=1&x=%2F"),
            ("HEAD", "/posts/1/", "/posts/1"),
            ("POST", "/api/posts/", "/api/posts"),
            ("GET", "/api/users/é%20b/", "/api/users/%C3%A9%20b"),
        ],
    )
    async def test_redirects_to_path(self, client, method, path, location):
        response = await client.request(method, path)

        assert response.status_code == 307
        assert response.headers["location"] == location

    @pytest.mark.parametrize(
        "path",
        [
            "///evil.example//",
            "/%5Cevil.example/",
            "/%2F/evil.example/",
            "/%0D%0ASet-Cookie:%20a=b/",
        ],
    )
    async def test_never_redirects_to_another_site(self, client, path):
        response = await client.get(f"http://127.0.0.1:8000{path}")

        assert response.status_code == 307
        assert re.fullmatch(r"/[^/\\\s][^\\\s]*", response.headers["location"])
        assert "set-cookie" not in response.headers


class TestFormCharset:
    @pytest.mark.parametrize(
        "charset", ["; charset=punycode", ";CHARSET=utf-16", "; charset*=a''b"]
    )
    async def test_charset_of_form_is_ignored(self, client, charset):
        await create_test_user(client)
        fields = {"username": "ada@example.com", "password": PASSWORD}
        body = "".join(
            f'--;x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        )
        content_type = f'multipart/form-data; boundary=";x"{charset}'

        response = await client.post(
            "/api/users/token",
            content=f"{body}--;x--\r\n".encode(),
            headers={b"Content-Type": content_type.encode("latin-1")},
        )

        assert response.status_code == 200


class TestSecurityHeaders:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            *(("GET", path) for path in [*READABLE, *FAILING, "/login/"]),
            ("POST", "/login"),
            ("BREW", "/api/users"),
        ],
    )
    async def test_are_in_every_response(self, client, post, method, path):
        headers = {"Host": "blog.example.com"}

        response = await client.request(method, path.format(**post), headers=headers)

        assert response.headers["x-frame-options"] == "SAMEORIGIN"
        assert response.headers["x-content-type-options"] == "nosniff"
        referrer = response.headers["referrer-policy"]
        assert referrer == "strict-origin-when-cross-origin"
        policy = response.headers["content-security-policy"].split("; ")
        assert {"script-src 'self'", "require-trusted-types-for 'script'"} <= {*policy}
        assert response.headers[HSTS] == "max-age=63072000; includeSubDomains"

    async def test_reset_page_sends_no_referrer(self, client):
        response = await client.get("/reset-password?token=t")

        assert response.headers["referrer-policy"] == "no-referrer"

    @pytest.mark.parametrize(
        ("path", "names"),
        [
            ("/docs", "default dompurify dompurify#swagger-ui"),
            ("/redoc", "default dompurify"),
        ],
    )
    async def test_docs_allow_needed_trusted_types(self, client, path, names):
        response = await client.get(path)

        policy = response.headers["content-security-policy"].split("; ")
        assert f"trusted-types {names}" in policy

    @pytest.mark.parametrize(
        ("host", "is_public"),
        [
            ("localhost.example.com", True),
            ("[2001:db8::1]", True),
            ("LOCALHOST:8000", False),
            ("127.0.0.1", False),
            ("[::1]:8", False),
        ],
    )
    async def test_hsts_is_only_for_public_hosts(self, client, host, is_public):
        response = await client.get("/login", headers={"Host": host})

        assert (HSTS in response.headers) == is_public


class TestHost:
    @pytest.mark.parametrize("path", [*READABLE, *FAILING, "/login/", "/api/users"])
    async def test_host_of_request_is_never_used(self, client, post, path):
        evil = "evil.example"
        headers = {"Host": evil, "X-Forwarded-Host": evil, "Forwarded": f"host={evil}"}

        response = await client.get(path.format(**post), headers=headers)

        assert evil not in response.text
        assert evil not in str(response.headers)

    @pytest.mark.parametrize("host", ["", "[", "a:b:c", "\xff"])
    @pytest.mark.parametrize("path", ["/", "/login/", "/api/users?limit=1"])
    async def test_malformed_causes_no_server_error(self, client, host, path):
        response = await client.get(path, headers={b"Host": host.encode("latin-1")})

        assert response.status_code in {200, 307, 400, 404}


class TestErrorAfterResponse:
    async def test_is_only_logged(self, caplog):
        async def site(scope: Scope, receive: Receive, send: Send) -> None:
            await PlainTextResponse("-")(scope, receive, send)
            raise TOO_MANY_ATTEMPTS.exception(Retry_After="7")

        transport = ASGITransport(ServerErrorMiddleware(site))
        async with AsyncClient(transport=transport) as client:
            response = await client.get("http://blog/a%0Ab")

        assert response.text == "-"
        assert "Too many attempts" in caplog.text
        # A line break would let clients forge log entries.
        assert "GET /a%0Ab" in caplog.text

    async def test_incomplete_response_is_aborted(self):
        async def site(_scope: Scope, _receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise RuntimeError("a bug")

        scope = {"type": "http", "method": "GET", "path": "/"}

        with pytest.raises(RuntimeError, match="a bug"):
            await ServerErrorMiddleware(site)(scope, AsyncMock(), AsyncMock())

    async def test_closed_connection_is_not_logged(self, caplog):
        scope = {"type": "http", "method": "GET", "path": "/"}
        # This is what uvloop raises.
        send = AsyncMock(side_effect=RuntimeError("the handler is closed"))

        await ServerErrorMiddleware(PlainTextResponse("-"))(scope, AsyncMock(), send)

        assert caplog.messages == []


class TestServerURL:
    async def test_unix_socket_has_none(self):
        before = settings._server_url
        scope = {"type": "http", "server": ("/run/blog.sock", None)}

        await ServerURLMiddleware(AsyncMock())(scope, AsyncMock(), AsyncMock())

        assert settings._server_url == before


class TestStartupError:
    @pytest.mark.parametrize(
        ("error", "is_expected"),
        [(ConfigurationError("X is missing"), True), (RuntimeError("a bug"), False)],
        ids=["expected", "bug"],
    )
    async def test_has_traceback_unless_expected(self, error, is_expected):
        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
            raise error
            yield

        send = AsyncMock()
        site = StartupErrorMiddleware(FastAPI(lifespan=lifespan))
        receive = AsyncMock(return_value={"type": "lifespan.startup"})

        with pytest.raises(type(error)):
            await site({"type": "lifespan"}, receive, send)

        message = send.call_args.args[0]["message"]
        assert (message == str(error)) == is_expected
        assert ("Traceback" in message) != is_expected

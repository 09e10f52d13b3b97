"""Error responses: JSON, problem details (RFC 9457) and pages."""

from collections.abc import AsyncIterator, Callable
from http import HTTPStatus

import pytest
from fastapi import HTTPException
from httpx import AsyncClient, Response
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from database import DatabaseUnavailable, get_db
from exceptions import TOO_MANY_ATTEMPTS
from executors import QueueFull
from main import app
from tests.conftest import REQUEST_ID, Headers, Json

PROBLEM = "application/problem+json"
# More digits than Python parses (`sys.get_int_max_str_digits`).
HUGE = "1" * 5000

Fail = Callable[[Exception], None]


@pytest.fixture
def fail(client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Return a function that makes requests fail when they use the database."""
    # Don't check the responses, because no operation declares these errors.
    client.event_hooks = {}

    def fail_with(error: Exception) -> None:
        async def failing() -> AsyncIterator[None]:
            raise error
            yield

        monkeypatch.setitem(app.dependency_overrides, get_db, failing)

    return fail_with


def assert_is_page(response: Response, status: int, title: str = "") -> None:
    assert response.status_code == status
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert str(status) in response.text
    assert title in response.text
    assert 'href="/"' in response.text


class TestErrorPage:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/nothing", 404),
            ("GET", "/apis", 404),
            ("GET", "/healthy", 404),
            ("GET", "/users/0/posts", 404),
            ("GET", "/static/nothing.css", 404),
            ("GET", "/posts/x", 422),
            ("GET", f"/?page={HUGE}", 422),
            ("GET", f"/sitemaps/posts-{HUGE}.xml", 422),
            ("POST", "/login", 405),
        ],
        ids=lambda value: str(value)[:30],
    )
    async def test_outside_api(self, client, method, path, status):
        response = await client.request(method, path, headers={"Accept": PROBLEM})

        assert_is_page(response, status)
        assert "Accept" not in response.headers.get("vary", "").split(", ")

    @pytest.mark.parametrize(
        ("status", "title"),
        [
            (404, "Page not found"),
            (405, "Method not allowed"),
            (413, "Request too large"),
            (422, "Invalid URL"),
            (429, "Too many requests"),
            (500, "Something went wrong"),
            (503, "Temporarily unavailable"),
            (502, "Bad Gateway"),
        ],
    )
    async def test_status(self, client, fail, status, title):
        fail(HTTPException(status, headers={"Retry-After": "7"}))

        response = await client.get("/")

        assert_is_page(response, status, title)
        assert response.headers["retry-after"] == "7"


class TestAPIError:
    @pytest.mark.parametrize(
        ("method", "path", "status", "detail"),
        [
            ("GET", "/api", 404, "Not Found"),
            ("GET", "/api/nothing", 404, "Not Found"),
            ("POST", "/health", 405, "Method Not Allowed"),
        ],
    )
    async def test_is_json(self, client, method, path, status, detail):
        response = await client.request(method, path, headers={"Accept": "text/html"})

        assert response.status_code == status
        assert response.headers["content-type"] == "application/json"
        assert response.json() == {"detail": detail}

    async def test_every_invalid_field_is_listed(self, client):
        user = {"username": "", "email": "x", "password": "hunt3r"}

        response = await client.post("/api/users", json=user)

        errors = response.json()["detail"]
        assert [error["loc"][1] for error in errors] == [*user]
        assert all(error.keys() == {"type", "loc", "msg"} for error in errors)
        assert "hunt3r" not in response.text


class TestServerError:
    async def test_in_api(self, client, fail):
        fail(RuntimeError("a secret detail"))

        response = await client.get("/api/posts", headers={"Host": "blog.example.com"})

        assert response.status_code == 500
        assert response.json() == {
            "detail": "Internal Server Error",
            "request_id": REQUEST_ID,
        }
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "strict-transport-security" in response.headers

    async def test_page(self, client, fail, caplog):
        fail(RuntimeError("a secret detail"))

        response = await client.get("/?token=hunt3r")

        assert_is_page(response, 500)
        assert "secret" not in response.text
        assert f"Request ID: <code>{REQUEST_ID}</code>" in response.text
        assert "a secret detail" in caplog.text
        assert "hunt3r" not in caplog.text


class TestUnavailable:
    @pytest.mark.parametrize("path", ["/", "/api/posts", "/health"])
    @pytest.mark.parametrize(
        "error",
        [
            ConnectionRefusedError(),
            OperationalError("SELECT 1", {}, ConnectionRefusedError()),
            DBAPIError("SELECT 1", {}, OSError(), connection_invalidated=True),
            QueueFull(),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_try_again_later(self, client, fail, path, error):
        fail(error)

        response = await client.get(path)

        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0

    async def test_query_error_is_a_bug(self, client, fail):
        fail(ProgrammingError("SELECT x", {}, Exception("no such column")))

        response = await client.get("/api/posts")

        assert response.status_code == 500


class TestProblemDetails:
    @pytest.mark.parametrize(
        ("status", "method", "path", "request_headers"),
        [
            (401, "GET", "/api/users/me", {"Authorization": "-"}),
            (404, "GET", "/api/posts/0", {}),
            (405, "PUT", "/api/posts", {}),
            (412, "DELETE", "/api/posts/{id}", {"If-Match": '"other"'}),
            (413, "POST", "/api/posts", {"Content-Length": "9999999"}),
            (422, "GET", "/api/posts?skip=-1&limit=x", {}),
        ],
    )
    async def test_if_accepted(
        self, client, ada, post, status, method, path, request_headers
    ):
        path = path.format(**post)
        headers = ada | request_headers
        plain = await client.request(method, path, headers=headers)
        headers["Accept"] = PROBLEM

        problem = await client.request(method, path, headers=headers)

        assert (plain.status_code, problem.status_code) == (status, status)
        assert problem.json() == expected_problem(plain)
        assert other_headers(problem) == other_headers(plain)

    @pytest.mark.parametrize("path", ["/api/posts", "/health"])
    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (429, TOO_MANY_ATTEMPTS.exception(Retry_After="7")),
            (500, RuntimeError("a secret detail")),
            (503, DatabaseUnavailable("a secret URL")),
        ],
        ids=lambda value: str(value)[:3],
    )
    async def test_failure(self, client, fail, path, status, error):
        fail(error)
        plain = await client.get(path)

        problem = await client.get(path, headers={"Accept": PROBLEM})

        assert (plain.status_code, problem.status_code) == (status, status)
        assert problem.json() == expected_problem(plain)
        assert "secret" not in problem.text
        assert other_headers(problem) == other_headers(plain)

    @pytest.mark.parametrize(
        ("accept", "media_type"),
        [
            (["Application/PROBLEM+json"], PROBLEM),
            ([f"text/html;q=0.9 , {PROBLEM} ; q=0.001, */*"], PROBLEM),
            (["application/json", PROBLEM], PROBLEM),
            ([], "application/json"),
            (["*/*"], "application/json"),
            ([f"{PROBLEM}x,;,;="], "application/json"),
        ],
    )
    async def test_accept_header(self, client, accept, media_type):
        del client.headers["Accept"]
        headers = [("Accept", value) for value in accept]

        response = await client.get("/api/posts/0", headers=headers)

        assert response.headers["content-type"] == media_type
        assert response.headers["vary"] == "Accept"


def expected_problem(plain: Response) -> Json:
    """Return the problem details that correspond to a plain error."""
    detail = plain.json()["detail"]
    problem = {
        "type": "about:blank",
        # The titles of 413 and 422 depend on the version of Python.
        "title": HTTPStatus(plain.status_code).phrase,
        "status": plain.status_code,
    }
    if plain.status_code >= 500:
        problem["request_id"] = REQUEST_ID
    if isinstance(detail, str):
        return problem | {"detail": detail}
    return problem | {"detail": "The request is invalid", "errors": detail}


def other_headers(response: Response) -> Headers:
    """Return the headers that don't depend on the content type."""
    ignored = {"content-type", "content-length"}
    headers = response.headers.items()
    return {name: value for name, value in headers if name not in ignored}


class TestAllowedMethods:
    @pytest.mark.parametrize(
        ("path", "allowed"),
        [
            ("/api/posts", "GET, HEAD, POST"),
            (f"/api/posts/{HUGE}", "DELETE, GET, HEAD, PATCH, PUT"),
            ("/api/users/1/picture", "DELETE, PATCH"),
            # These are not the methods of /api/users/{user_id}.
            ("/api/users/me", "GET, HEAD"),
            ("/api/users/token", "POST"),
            ("/openapi.json", "GET, HEAD"),
            ("/", "GET, HEAD"),
            ("/static/css/main.css", "GET, HEAD"),
            ("/static/nothing.css", "GET, HEAD"),
        ],
        ids=lambda value: value[:25],
    )
    @pytest.mark.parametrize("method", ["OPTIONS", "BREW"])
    async def test_are_listed(self, client, method, path, allowed):
        response = await client.request(method, path)

        assert response.status_code == 405
        assert response.headers["allow"] == allowed


class TestHugeId:
    """No row can have such an id, and Python refuses to parse it."""

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/api/posts/-{}", 404),
            ("PATCH", "/api/posts/{}", 404),
            ("GET", "/api/users/-{}", 404),
            ("GET", "/users/{}/feed.atom", 404),
            ("DELETE", "/api/users/{}", 403),
            ("DELETE", "/api/users/{}/picture", 403),
        ],
    )
    async def test_in_path(self, client, ada, method, path, status):
        path = path.format(HUGE)

        response = await client.request(method, path, headers=ada, json={})

        assert response.status_code == status

    @pytest.mark.parametrize("name", ["skip", "limit"])
    async def test_in_query(self, client, name):
        response = await client.get(f"/api/posts?{name}={HUGE}")

        assert response.status_code == 422
        assert HUGE not in response.text

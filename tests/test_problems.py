"""API errors as plain JSON or problem details (RFC 9457); allowed methods; huge ids."""

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import pytest
from httpx import AsyncClient, Response

from database import DatabaseUnavailable, get_db
from exceptions import TOO_MANY_ATTEMPTS
from main import app
from tests.conftest import create_post, make_client

PROBLEM = "application/problem+json"
MIB = 1024 * 1024
# More digits than Python parses (`sys.get_int_max_str_digits`).
ENDLESS = "1" * 5000

# Method, path, request arguments, whether ada sends it, and the status phrase (from the
# standard library, where two differ between Python versions).
ERRORS: dict[int, tuple[str, str, dict[str, Any], bool, str]] = {
    400: (
        "PATCH",
        "/api/users/me/password",
        {"json": {"current_password": "wrong", "new_password": "12345678"}},
        True,
        "Bad Request",
    ),
    401: ("GET", "/api/users/me", {}, False, "Unauthorized"),
    403: ("DELETE", "/api/users/0", {}, True, "Forbidden"),
    404: ("GET", "/api/posts/0", {}, False, "Not Found"),
    405: ("PUT", "/api/posts", {}, False, "Method Not Allowed"),
    412: (
        "PATCH",
        "/api/posts/{post}",
        {"json": {}, "headers": {"If-Match": '"other"'}},
        True,
        "Precondition Failed",
    ),
    413: (
        "POST",
        "/api/users",
        {
            "content": b" " * (MIB + 1),
            "headers": {"Content-Type": "application/json"},
        },
        False,
        HTTPStatus(413).phrase,
    ),
    422: ("GET", "/api/posts?skip=-1&limit=x", {}, False, HTTPStatus(422).phrase),
}
# Errors that the database or a rate limit can cause for any request.
FAILURES: dict[int, tuple[Exception, str]] = {
    429: (TOO_MANY_ATTEMPTS.exception(Retry_After="7"), "Too Many Requests"),
    500: (RuntimeError("a secret detail"), "Internal Server Error"),
    503: (DatabaseUnavailable("a secret address"), "Service Unavailable"),
}


async def send(
    client: AsyncClient,
    author: dict[str, str],
    accept: str,
    status: int,
    places: dict[str, int],
) -> Response:
    """Send the request that causes this error."""
    method, path, options, has_login, _ = ERRORS[status]
    headers = {
        **options.get("headers", {}),
        **(author if has_login else {}),
        "Accept": accept,
    }
    return await client.request(
        method, path.format(**places), **{**options, "headers": headers}
    )


@pytest.fixture
async def places(client: AsyncClient, ada: dict[str, str]) -> dict[str, int]:
    """Return the id of a post, to fill into paths."""
    return {"post": (await create_post(client, ada))["id"]}


@pytest.fixture
async def failing_client(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[AsyncClient]:
    """Return a client of an app that fails with one of `FAILURES`."""

    async def failing() -> AsyncIterator[None]:
        raise FAILURES[request.param][0]
        yield

    monkeypatch.setitem(app.dependency_overrides, get_db, failing)
    async with make_client() as client:
        # The document declares neither bugs nor disabled rate limits.
        client.event_hooks = {}
        yield client


def other_headers(response: Response) -> dict[str, str]:
    """Return the headers that do not depend on the body's format."""
    form = {"content-type", "content-length", "x-error-id"}
    return {name: value for name, value in response.headers.items() if name not in form}


def vary(response: Response) -> set[str]:
    return {name.strip() for name in response.headers.get("vary", "").split(",")}


# Both formats


@pytest.mark.parametrize("status", ERRORS)
async def test_error_is_problem_details_if_accepted(
    client: AsyncClient, ada: dict[str, str], places: dict[str, int], status: int
) -> None:
    plain = await send(client, ada, "*/*", status, places)
    problem = await send(client, ada, PROBLEM, status, places)

    *_, title = ERRORS[status]
    detail = plain.json()["detail"]
    assert (plain.status_code, problem.status_code) == (status, status)
    assert plain.headers["content-type"] == "application/json"
    assert plain.json().keys() == {"detail"}
    assert problem.headers["content-type"] == PROBLEM
    assert problem.json() == {
        "type": "about:blank",
        "title": title,
        "status": status,
        **(
            {"detail": detail}
            if isinstance(detail, str)
            else {"detail": "The request is invalid", "errors": detail}
        ),
    }


@pytest.mark.parametrize("status", ERRORS)
async def test_both_formats_have_the_same_headers(
    client: AsyncClient, ada: dict[str, str], places: dict[str, int], status: int
) -> None:
    plain = await send(client, ada, "*/*", status, places)
    problem = await send(client, ada, PROBLEM, status, places)

    needed = {401: "www-authenticate", 405: "allow", 412: "etag", 413: "connection"}
    assert other_headers(problem) == other_headers(plain)
    assert needed.get(status, "cache-control") in problem.headers
    assert "Accept" in vary(problem)


@pytest.mark.parametrize("path", ["/api/posts", "/api/users/1", "/health"])
@pytest.mark.parametrize(
    ("failing_client", "status"),
    [(status, status) for status in FAILURES],
    indirect=["failing_client"],
)
async def test_failure_has_both_formats(
    failing_client: AsyncClient, path: str, status: int
) -> None:
    plain = await failing_client.get(path)
    problem = await failing_client.get(path, headers={"Accept": PROBLEM})

    assert (plain.status_code, problem.status_code) == (status, status)
    assert problem.headers["content-type"] == PROBLEM
    assert problem.json() == {
        "type": "about:blank",
        "title": FAILURES[status][1],
        "status": status,
        **plain.json(),
    }
    assert plain.json().keys() == {"detail"}
    assert "secret" not in problem.text
    assert other_headers(problem) == other_headers(plain)
    assert ("retry-after" in problem.headers) == (status != 500)
    assert "Accept" in vary(problem)


async def test_every_invalid_field_is_listed(client: AsyncClient) -> None:
    response = await client.post(
        "/api/users",
        json={"username": "", "email": "x", "password": "hunt3r"},
        headers={"Accept": PROBLEM},
    )

    faults = response.json()["errors"]
    assert [fault["loc"] for fault in faults] == [
        ["body", "username"],
        ["body", "email"],
        ["body", "password"],
    ]
    assert all(fault.keys() == {"type", "loc", "msg"} for fault in faults)
    assert "hunt3r" not in response.text


async def test_reused_key_error_has_detail_without_errors(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    headers = {**ada, "Idempotency-Key": "k", "Accept": PROBLEM}
    for content in ("one", "two"):
        response = await client.post(
            "/api/posts", json={"content": content}, headers=headers
        )

    assert response.status_code == 422
    assert response.json()["detail"] == "Idempotency-Key was used for another request"
    assert "errors" not in response.json()


# Content negotiation


@pytest.mark.parametrize(
    "accept",
    [
        PROBLEM,
        "Application/PROBLEM+json",
        f"application/json, {PROBLEM}",
        f"{PROBLEM},application/json",
        f"text/html;q=0.9 , {PROBLEM};q=0.001",
        f"{PROBLEM} ; Q=1",
        f"{PROBLEM};profile=x;q=0.5, */*;q=0.1",
        f"{PROBLEM};q=1.0",
        f"*/*;q=0, {PROBLEM}",
    ],
)
@pytest.mark.parametrize("path", ["/api/nothing", "/api/posts/0", "/api"])
async def test_accepted_problem_details_are_sent(
    client: AsyncClient, path: str, accept: str
) -> None:
    response = await client.get(path, headers={"Accept": accept})

    assert response.headers["content-type"] == PROBLEM


async def test_second_accept_header_is_considered(
    client: AsyncClient,
) -> None:
    lines = [("Accept", "application/json"), ("Accept", PROBLEM)]

    response = await client.get("/api/posts/0", headers=lines)

    assert response.headers["content-type"] == PROBLEM


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "application/*",
        "application/json",
        "application/json, text/plain, */*",
        "text/html",
        "application/problem+xml",
        "application/problem",
        "x-application/problem+json",
        f"{PROBLEM}x",
        ",;,;=",
    ],
)
@pytest.mark.parametrize("path", ["/api/nothing", "/api/posts/0"])
async def test_other_clients_get_plain_json(
    client: AsyncClient, path: str, accept: str
) -> None:
    response = await client.get(path, headers={"Accept": accept})

    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == {"detail"}
    assert "Accept" in vary(response)


async def test_client_without_accept_header_gets_plain_json(
    client: AsyncClient,
) -> None:
    del client.headers["Accept"]

    response = await client.get("/api/posts/0")

    assert response.headers["content-type"] == "application/json"


async def test_success_ignores_accepted_problem_details(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    responses = [
        await client.get("/api/posts", headers={"Accept": accept})
        for accept in ("*/*", PROBLEM)
    ]

    assert responses[0].headers == responses[1].headers
    assert responses[0].content == responses[1].content


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/posts/0", 404),
        ("GET", "/posts/x", 422),
        ("POST", "/login", 405),
        ("GET", "/static/nothing.css", 404),
        ("GET", "/apis", 404),
        ("GET", "/healthy", 404),
    ],
)
async def test_error_outside_api_is_always_a_page(
    client: AsyncClient, method: str, path: str, status: int
) -> None:
    response = await client.request(method, path, headers={"Accept": PROBLEM})

    assert response.status_code == status
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "Accept" not in vary(response)


async def test_head_of_problem_details_matches_get(client: AsyncClient) -> None:
    headers = {"Accept": PROBLEM}
    got = await client.get("/api/posts/0", headers=headers)

    response = await client.head("/api/posts/0", headers=headers)

    assert (response.status_code, response.content) == (404, b"")
    assert response.headers == got.headers


# Allowed methods


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api/posts", "GET, HEAD, POST"),
        ("/api/posts/1", "DELETE, GET, HEAD, PATCH, PUT"),
        ("/api/posts/x", "DELETE, GET, HEAD, PATCH, PUT"),
        (f"/api/posts/{ENDLESS}", "DELETE, GET, HEAD, PATCH, PUT"),
        ("/api/users", "GET, HEAD, POST"),
        ("/api/users/1", "DELETE, GET, HEAD, PATCH"),
        ("/api/users/1/posts", "GET, HEAD"),
        ("/api/users/1/picture", "DELETE, PATCH"),
        # Not the methods for a user whose id is "me".
        ("/api/users/me", "GET, HEAD"),
        ("/api/users/me/password", "PATCH"),
        ("/api/users/token", "POST"),
        ("/health", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
        ("/", "GET, HEAD"),
        ("/posts/1", "GET, HEAD"),
        ("/feed.atom", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
        ("/static/css/main.css", "GET, HEAD"),
        ("/static/nothing.css", "GET, HEAD"),
    ],
)
@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "BREW"])
async def test_method_not_allowed_lists_allowed_methods(
    client: AsyncClient, method: str, path: str, allowed: str
) -> None:
    response = await client.request(method, path)

    assert response.status_code == 405
    assert response.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/api/nothing", "/nothing", "/api/posts/1/nothing"])
async def test_not_found_lists_no_methods(client: AsyncClient, path: str) -> None:
    response = await client.request("BREW", path)

    assert response.status_code == 404
    assert "allow" not in response.headers


# Ids that no row can have


@pytest.mark.parametrize("post_or_user_id", [ENDLESS, f"-{ENDLESS}", f"%2B{ENDLESS}"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        *((method, "/api/posts/{}") for method in ("GET", "PUT", "PATCH", "DELETE")),
        ("GET", "/api/users/{}"),
        ("GET", "/api/users/{}/posts"),
        ("GET", "/posts/{}"),
        ("GET", "/users/{}/posts"),
        ("GET", "/users/{}/feed.atom"),
    ],
)
async def test_huge_id_is_not_found(
    client: AsyncClient,
    ada: dict[str, str],
    method: str,
    path: str,
    post_or_user_id: str,
) -> None:
    response = await client.request(
        method,
        path.format(post_or_user_id),
        json={"title": "T", "content": "C"},
        headers=ada,
    )

    assert response.status_code == 404


@pytest.mark.parametrize("user_id", [ENDLESS, f"-{ENDLESS}"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", "/api/users/{}"),
        ("DELETE", "/api/users/{}"),
        ("PATCH", "/api/users/{}/picture"),
        ("DELETE", "/api/users/{}/picture"),
    ],
)
async def test_huge_user_id_is_forbidden(
    client: AsyncClient, ada: dict[str, str], method: str, path: str, user_id: str
) -> None:
    response = await client.request(method, path.format(user_id), json={}, headers=ada)

    assert response.status_code == 403


@pytest.mark.parametrize("path", ["/api/posts?skip={}", "/api/posts?limit={}"])
async def test_huge_number_in_query_is_rejected(client: AsyncClient, path: str) -> None:
    response = await client.get(path.format(ENDLESS))

    assert response.status_code == 422
    assert ENDLESS not in response.text


@pytest.mark.parametrize("path", ["/?page={}", "/sitemaps/posts-{}.xml"])
async def test_huge_number_in_page_path_is_an_error_page(
    client: AsyncClient, path: str
) -> None:
    response = await client.get(path.format(ENDLESS))

    assert response.status_code == 422
    assert response.headers["content-type"] == "text/html; charset=utf-8"

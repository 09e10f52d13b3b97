"""Shared errors: each operation returns those that it declares.

The cases come from the OpenAPI document, so new operations are included. The client's
hook checks that responses match their declarations (`tests/recorder.py`).
"""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from httpx import AsyncClient

from auth import create_access_token
from database import DatabaseUnavailable, get_db
from main import app
from tests.conftest import (
    auth_header,
    create_post,
    get_user_id,
    make_client,
    reset_rate_limits,
    settings,
)
from tests.recorder import Json, follow, operations

DOCUMENT = app.openapi()
OPERATIONS = {
    f"{method} {template}": (method, template, operation)
    for method, template, operation in operations(DOCUMENT)
}
MEBIBYTE = 1024 * 1024
MULTIPART = "multipart/form-data"
PROBLEM = "application/problem+json"
ACCEPTS = ["application/json", PROBLEM]


def declaring(status: str) -> list[str]:
    """Return the names of operations that declare a status."""
    return [
        name
        for name, (_, _, operation) in OPERATIONS.items()
        if status in operation["responses"]
    ]


def fill_path(template: str, row_id: object = 1) -> str:
    """Fill all parameters of a path template with one id."""
    return re.sub(r"\{[^}]+\}", str(row_id), template)


def media_type_of(operation: Json) -> str:
    """Return the media type of an operation's request body."""
    (media_type,) = operation["requestBody"]["content"]
    return str(media_type)


def get_example(operation: Json) -> dict[str, Any]:
    """Return a valid body for an operation as HTTPX arguments, if it has one."""
    if "requestBody" not in operation:
        return {}
    media_type = media_type_of(operation)
    if media_type == MULTIPART:
        return {"files": {"file": b"-"}}
    content = operation["requestBody"]["content"]
    schema = follow(DOCUMENT, content[media_type]["schema"])
    value = {
        name: get_field_example(schema["properties"][name])
        for name in schema.get("required", [])
    }
    return {"json": value} if media_type == "application/json" else {"data": value}


def get_field_example(schema: Json) -> Any:
    """Return the first example of a field, which may be nullable."""
    return schema.get("anyOf", [schema])[0]["examples"][0]


def get_error(response: Any, status: int, accept: str) -> Any:
    """Return an error's text or list, in the accepted format."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == accept
    error = response.json()
    if accept == PROBLEM:
        assert error["status"] == status
    return error.get("errors", error["detail"])


@pytest.fixture
async def disconnected_client(
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[AsyncClient]:
    """Return a client of an app that cannot reach its database."""

    async def lost() -> AsyncIterator[None]:
        raise DatabaseUnavailable("no response")
        yield

    monkeypatch.setitem(app.dependency_overrides, get_db, lost)
    async with make_client() as client:
        yield client


def test_document_declares_all_shared_errors() -> None:
    # Otherwise a test below would have no cases.
    for status in ("401", "413", "422", "429", "503", "304"):
        assert declaring(status)


@pytest.mark.parametrize("accept", ACCEPTS)
@pytest.mark.parametrize("name", declaring("503"))
async def test_unavailable_database_is_503(
    disconnected_client: AsyncClient, name: str, accept: str
) -> None:
    method, template, operation = OPERATIONS[name]
    login = auth_header(create_access_token({"sub": "1"}))

    response = await disconnected_client.request(
        method,
        fill_path(template),
        headers={**login, "Accept": accept},
        **get_example(operation),
    )

    assert get_error(response, 503, accept) == "Database unavailable"
    assert int(response.headers["retry-after"]) > 0


@pytest.fixture
async def exhausted_rate_limit(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[None]:
    """Use up the rate limit of the client IP."""
    monkeypatch.setattr(settings, "rate_limit_enabled", True)
    monkeypatch.setattr(settings, "rate_limit_default", "1/hour")
    await reset_rate_limits()
    await client.get("/")
    yield
    await reset_rate_limits()


@pytest.mark.parametrize("accept", ACCEPTS)
@pytest.mark.parametrize("name", declaring("429"))
async def test_rate_limited_client_gets_429(
    client: AsyncClient, exhausted_rate_limit: None, name: str, accept: str
) -> None:
    method, template, operation = OPERATIONS[name]

    response = await client.request(
        method,
        fill_path(template),
        headers={"Accept": accept},
        **get_example(operation),
    )

    detail = "Too many attempts. Please try again later."
    assert get_error(response, 429, accept) == detail
    assert 0 < int(response.headers["retry-after"]) <= 3600


async def test_health_has_no_rate_limit(
    client: AsyncClient, exhausted_rate_limit: None
) -> None:
    response = await client.get("/health")

    assert response.status_code == 200
    assert set(OPERATIONS) - set(declaring("429")) == {"GET /health"}


@pytest.mark.parametrize("accept", ACCEPTS)
@pytest.mark.parametrize(
    ("login", "detail"),
    [
        ({}, "Not authenticated"),
        ({"Authorization": "Basic YTpi"}, "Not authenticated"),
        (auth_header("forged"), "Invalid or expired token"),
        (auth_header(create_access_token({"sub": "1"})), "Invalid or expired token"),
    ],
    ids=["anonymous", "other scheme", "forged token", "deleted user"],
)
@pytest.mark.parametrize(
    "name", [name for name in declaring("401") if "security" in OPERATIONS[name][2]]
)
async def test_protected_operation_requires_authentication(
    client: AsyncClient, name: str, login: dict[str, str], detail: str, accept: str
) -> None:
    method, template, operation = OPERATIONS[name]

    response = await client.request(
        method,
        fill_path(template),
        headers={**login, "Accept": accept},
        **get_example(operation),
    )

    assert get_error(response, 401, accept) == detail
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("accept", ACCEPTS)
@pytest.mark.parametrize("name", declaring("413"))
async def test_too_large_body_is_rejected(
    client: AsyncClient, ada: dict[str, str], name: str, accept: str
) -> None:
    method, template, operation = OPERATIONS[name]
    media_type = media_type_of(operation)
    size = 6 * MEBIBYTE if media_type == MULTIPART else MEBIBYTE + 1

    response = await client.request(
        method,
        fill_path(template, await get_user_id(client, ada)),
        content=b" " * size,
        headers={**ada, "Content-Type": f"{media_type}; boundary=x", "Accept": accept},
    )

    assert get_error(response, 413, accept) == "Request body too large"
    assert response.headers["connection"] == "close"


def invalid_requests(name: str) -> list[dict[str, Any]]:
    """Return requests with one invalid part each, as HTTPX arguments."""
    _, template, operation = OPERATIONS[name]
    requests: list[dict[str, Any]] = []
    if "{" in template:
        requests.append({"url": fill_path(template, "x")})
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "query":
            requests.append({"params": {parameter["name"]: "x" * 100}})
        elif parameter["in"] == "header" and parameter["name"] != "If-None-Match":
            requests.append({"headers": {parameter["name"]: "x" * 10_000}})
    if "requestBody" in operation:
        media_type = f"{media_type_of(operation)}; boundary=x"
        requests.append({"content": b"{", "headers": {"Content-Type": media_type}})
    return requests


@pytest.mark.parametrize("accept", ACCEPTS)
@pytest.mark.parametrize(
    ("name", "faulty"),
    [(name, faulty) for name in declaring("422") for faulty in invalid_requests(name)],
)
async def test_invalid_request_is_rejected(
    client: AsyncClient,
    ada: dict[str, str],
    name: str,
    faulty: dict[str, Any],
    accept: str,
) -> None:
    method, template, operation = OPERATIONS[name]
    post = await create_post(client, ada)
    path = fill_path(template, post["id" if "{post_id}" in template else "user_id"])
    good = {} if "content" in faulty else get_example(operation)
    headers = {**ada, "Accept": accept, **faulty.get("headers", {})}

    response = await client.request(
        method, **{"url": path, **good, **faulty, "headers": headers}
    )

    faults = get_error(response, 422, accept)
    assert faults
    assert {fault["loc"][0] for fault in faults} <= {"body", "header", "path", "query"}

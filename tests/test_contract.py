"""Each operation gives the errors that it declares for what all of its kind share.

The cases come from the OpenAPI document, so that a new operation is among them. Whether
the answers are as declared, the client's hook sees to (`tests/recorder.py`).
"""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from httpx import AsyncClient

import rate_limit
from auth import create_access_token
from database import DatabaseUnavailable, get_db
from main import app
from tests.conftest import auth_header, create_post, make_client, own_id, settings
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
    """Names of the operations that declare a status."""
    return [
        name
        for name, (_, _, operation) in OPERATIONS.items()
        if status in operation["responses"]
    ]


def path_of(template: str, row_id: object = 1) -> str:
    """A path with one id for all its parameters."""
    return re.sub(r"\{[^}]+\}", str(row_id), template)


def media_type_of(operation: Json) -> str:
    """The media type of what an operation takes."""
    (media_type,) = operation["requestBody"]["content"]
    return str(media_type)


def example_of(operation: Json) -> dict[str, Any]:
    """A good body for an operation, if it takes one, as HTTPX wants it."""
    if "requestBody" not in operation:
        return {}
    media_type = media_type_of(operation)
    if media_type == MULTIPART:
        return {"files": {"file": b"-"}}
    content = operation["requestBody"]["content"]
    schema = follow(DOCUMENT, content[media_type]["schema"])
    value = {
        name: example_of_field(schema["properties"][name])
        for name in schema.get("required", [])
    }
    return {"json": value} if media_type == "application/json" else {"data": value}


def example_of_field(schema: Json) -> Any:
    """Return the first example of a field, which may be nullable."""
    return schema.get("anyOf", [schema])[0]["examples"][0]


def error_of(response: Any, status: int, accept: str) -> Any:
    """What an error says, in words or as a list, in the form that was asked for."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == accept
    error = response.json()
    if accept == PROBLEM:
        assert error["status"] == status
    return error.get("errors", error["detail"])


@pytest.fixture
async def lost_client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncClient]:
    """A client of an application that cannot reach its database."""

    async def lost() -> AsyncIterator[None]:
        raise DatabaseUnavailable("nobody answers")
        yield

    monkeypatch.setitem(app.dependency_overrides, get_db, lost)
    async with make_client() as client:
        yield client


def test_document_declares_every_kind_of_shared_error() -> None:
    # So that no test below is without a case.
    for status in ("401", "413", "422", "429", "503", "304"):
        assert declaring(status)


@pytest.mark.parametrize("accept", ACCEPTS)
@pytest.mark.parametrize("name", declaring("503"))
async def test_database_that_is_away_makes_an_operation_unavailable(
    lost_client: AsyncClient, name: str, accept: str
) -> None:
    method, template, operation = OPERATIONS[name]
    login = auth_header(create_access_token({"sub": "1"}))

    response = await lost_client.request(
        method,
        path_of(template),
        headers={**login, "Accept": accept},
        **example_of(operation),
    )

    assert error_of(response, 503, accept) == "Database unavailable"
    assert int(response.headers["retry-after"]) > 0


@pytest.fixture
async def busy_address(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[None]:
    """As many requests as there may be have come from the client's address."""
    monkeypatch.setattr(settings, "rate_limit_enabled", True)
    monkeypatch.setattr(settings, "rate_limit_default", "1/hour")
    await rate_limit.reset()
    await client.get("/")
    yield
    await rate_limit.reset()


@pytest.mark.parametrize("accept", ACCEPTS)
@pytest.mark.parametrize("name", declaring("429"))
async def test_address_that_asks_very_often_has_to_wait(
    client: AsyncClient, busy_address: None, name: str, accept: str
) -> None:
    method, template, operation = OPERATIONS[name]

    response = await client.request(
        method,
        path_of(template),
        headers={"Accept": accept},
        **example_of(operation),
    )

    detail = "Too many attempts. Please try again later."
    assert error_of(response, 429, accept) == detail
    assert 0 < int(response.headers["retry-after"]) <= 3600


async def test_health_may_be_asked_after_as_often_as_it_takes(
    client: AsyncClient, busy_address: None
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
    ids=["nobody", "in another way", "forged", "of a user who is gone"],
)
@pytest.mark.parametrize(
    "name", [name for name in declaring("401") if "security" in OPERATIONS[name][2]]
)
async def test_operation_for_users_refuses_who_is_none(
    client: AsyncClient, name: str, login: dict[str, str], detail: str, accept: str
) -> None:
    method, template, operation = OPERATIONS[name]

    response = await client.request(
        method,
        path_of(template),
        headers={**login, "Accept": accept},
        **example_of(operation),
    )

    assert error_of(response, 401, accept) == detail
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("accept", ACCEPTS)
@pytest.mark.parametrize("name", declaring("413"))
async def test_operation_refuses_a_body_that_is_too_large(
    client: AsyncClient, ada: dict[str, str], name: str, accept: str
) -> None:
    method, template, operation = OPERATIONS[name]
    media_type = media_type_of(operation)
    size = 6 * MEBIBYTE if media_type == MULTIPART else MEBIBYTE + 1

    response = await client.request(
        method,
        path_of(template, await own_id(client, ada)),
        content=b" " * size,
        headers={**ada, "Content-Type": f"{media_type}; boundary=x", "Accept": accept},
    )

    assert error_of(response, 413, accept) == "Request body too large"
    assert response.headers["connection"] == "close"


def faulty_requests(name: str) -> list[dict[str, Any]]:
    """Requests with one thing that is no good, each as HTTPX wants it."""
    _, template, operation = OPERATIONS[name]
    requests: list[dict[str, Any]] = []
    if "{" in template:
        requests.append({"url": path_of(template, "x")})
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
    [(name, faulty) for name in declaring("422") for faulty in faulty_requests(name)],
)
async def test_operation_refuses_what_is_no_good(
    client: AsyncClient,
    ada: dict[str, str],
    name: str,
    faulty: dict[str, Any],
    accept: str,
) -> None:
    method, template, operation = OPERATIONS[name]
    post = await create_post(client, ada)
    path = path_of(template, post["id" if "{post_id}" in template else "user_id"])
    good = {} if "content" in faulty else example_of(operation)
    headers = {**ada, "Accept": accept, **faulty.get("headers", {})}

    response = await client.request(
        method, **{"url": path, **good, **faulty, "headers": headers}
    )

    faults = error_of(response, 422, accept)
    assert faults
    assert {fault["loc"][0] for fault in faults} <= {"body", "header", "path", "query"}

"""The OpenAPI document, and the errors that it declares for many operations."""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from typing import Any

import pytest
from httpx import AsyncClient, Response

from auth import create_access_token
from config import BASE_DIR, settings
from database import DatabaseUnavailable, get_db
from main import app
from tests.conftest import REQUEST_ID, Json, auth_header, reset_rate_limits
from tests.openapi_coverage import follow, operations
from tools.export_openapi import FILE

MULTIPART = "multipart/form-data"
DOCUMENT = app.openapi()
OPERATIONS = {
    f"{method} {template}": operation
    for method, template, operation in operations(DOCUMENT)
}
SCHEMAS: dict[str, Json] = DOCUMENT["components"]["schemas"]
# A schema is bounded if it has a keyword from each of these sets.
BOUNDS = {
    "string": [{"maxLength", "enum", "const"}],
    "integer": [{"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}],
}

each_operation = pytest.mark.parametrize(
    "operation", OPERATIONS.values(), ids=OPERATIONS
)


def input_schemas(operation: Json) -> dict[str, Json]:
    """Return the schemas of parameters and bodies, by name or media type."""
    body = operation.get("requestBody", {}).get("content", {})
    inputs = {found["name"]: found for found in operation.get("parameters", [])} | body
    # If-None-Match is compared but never stored, and files have their own limit.
    ignored = {"If-None-Match", MULTIPART}
    return {name: inputs[name]["schema"] for name in inputs.keys() - ignored}


def unbounded(schema: Json, place: str) -> Iterator[str]:
    """Yield the places in a schema where a string or integer is unbounded."""
    schema = follow(DOCUMENT, schema)
    parts = schema.get("properties", {}) | dict(enumerate(schema.get("anyOf", [])))
    for name, part in (parts | {"[]": schema.get("items", {})}).items():
        if part:
            yield from unbounded(part, f"{place}.{name}")
    bounds = BOUNDS.get(schema.get("type", ""), [])
    if not all(keywords & schema.keys() for keywords in bounds):
        yield place


class TestDocument:
    def test_file_is_up_to_date(self, tmp_path):
        # The settings of the machine that generates the file must not affect it.
        environment = {"POSTS_PER_PAGE": "7", "MAX_UPLOAD_SIZE_BYTES": "1000"}
        file = tmp_path / "openapi.json"

        subprocess.run(
            [sys.executable, "-m", "tools.export_openapi", str(file)],
            cwd=BASE_DIR,
            env=os.environ | environment,
            check=True,
        )

        assert FILE.read_text() == file.read_text(), "run `make openapi`"

    def test_names_are_unique_and_described(self):
        ids = [operation["operationId"] for operation in OPERATIONS.values()]
        tags = {tag for operation in OPERATIONS.values() for tag in operation["tags"]}

        assert len(ids) == len(set(ids))
        assert tags == {tag["name"] for tag in DOCUMENT["tags"] if tag["description"]}

    @pytest.mark.parametrize("name", SCHEMAS)
    def test_properties_are_described(self, name):
        properties = SCHEMAS[name].get("properties", {}).values()

        assert all(part.get("description") for part in properties)

    @each_operation
    def test_operation_is_described(self, operation):
        described = [operation, *operation.get("parameters", [])]

        assert all(part["description"] for part in described)
        assert operation["operationId"].isidentifier()
        assert operation["summary"]

    @each_operation
    def test_inputs_are_bounded(self, operation):
        schemas = input_schemas(operation).items()

        assert [
            place for name, each in schemas for place in unbounded(each, name)
        ] == []

    @each_operation
    def test_errors_are_described(self, operation):
        errors = [
            follow(DOCUMENT, response)
            for status, response in operation["responses"].items()
            if int(status) >= 400
        ]
        media = [error["content"]["application/json"] for error in errors]

        assert all("$ref" in each["schema"] and each["examples"] for each in media)
        # Python's phrases change. In older versions, 413 is "Request Entity Too Large".
        phrases = {status.phrase for status in HTTPStatus}
        assert phrases.isdisjoint(error["description"] for error in errors)


# Errors


def declaring(status: str) -> pytest.MarkDecorator:
    """Parametrize a test with the operations that declare a status."""
    names = [name for name in OPERATIONS if status in OPERATIONS[name]["responses"]]
    return pytest.mark.parametrize("name", names)


def media_type(name: str) -> str:
    [media_type] = OPERATIONS[name]["requestBody"]["content"]
    return str(media_type)


def invalid_input(name: str) -> dict[str, Any]:
    """Return HTTPX arguments with an invalid body or query, if there is one to send."""
    if "requestBody" in OPERATIONS[name]:
        headers = {"Content-Type": f"{media_type(name)}; boundary=x"}
        return {"content": b"{", "headers": headers}
    return {} if "{" in name else {"params": {"limit": "x"}}


async def send(
    client: AsyncClient, name: str, row_id: object = 1, **options: Any
) -> Response:
    """Send an operation's request with this id in the path."""
    method, template = name.split()
    path = re.sub(r"\{\w+\}", str(row_id), template)
    return await client.request(method, path, **options)


class TestCommonError:
    """Every operation that declares one of these errors responds with it."""

    @declaring("503")
    async def test_unavailable_database(self, client, monkeypatch, name):
        async def disconnected() -> AsyncIterator[None]:
            raise DatabaseUnavailable
            yield

        monkeypatch.setitem(app.dependency_overrides, get_db, disconnected)
        headers = auth_header(create_access_token({"sub": "1"}))

        response = await send(client, name, headers=headers)

        assert response.status_code == 503
        assert response.json() == {
            "detail": "Database unavailable",
            "request_id": REQUEST_ID,
        }
        assert int(response.headers["retry-after"]) > 0

    @declaring("429")
    async def test_rate_limit(self, client, monkeypatch, name):
        monkeypatch.setattr(settings, "rate_limit_enabled", True)
        monkeypatch.setattr(settings, "rate_limit_default", "1/hour")
        await reset_rate_limits()
        await client.get("/")

        response = await send(client, name)

        assert response.status_code == 429
        detail = "Too many attempts. Please try again later."
        assert response.json() == {"detail": detail}
        assert 0 < int(response.headers["retry-after"]) <= 3600

    @declaring("413")
    async def test_too_large_body(self, client, ada, user_id, name):
        headers = ada | {"Content-Length": "9999999"}
        headers["Content-Type"] = f"{media_type(name)}; boundary=x"

        response = await send(client, name, user_id, headers=headers, content=b"-")

        assert response.status_code == 413
        assert response.json() == {"detail": "Request body too large"}
        assert response.headers["connection"] == "close"

    @declaring("422")
    async def test_invalid_request(self, client, ada, user_id, name):
        request = invalid_input(name)
        row_id = user_id if request else "x"
        request["headers"] = ada | request.get("headers", {})

        response = await send(client, name, row_id, **request)

        assert response.status_code == 422
        assert response.json()["detail"][0]["loc"][0] in {"body", "path", "query"}

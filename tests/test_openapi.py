"""The OpenAPI document: up to date and complete."""

import difflib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from config import BASE_DIR
from main import app
from tests.recorder import Json, examples, follow, operations
from tools.export_openapi import FILE, as_text

DOCUMENT = app.openapi()
OPERATIONS = {
    f"{method} {template}": operation
    for method, template, operation in operations(DOCUMENT)
}
SCHEMAS: dict[str, Json] = DOCUMENT["components"]["schemas"]
# Settings that may differ on the machine that generates the document.
OTHER_SETTINGS = {
    "POSTS_PER_PAGE": "7",
    "MAX_UPLOAD_SIZE_BYTES": "1000",
    "ACCESS_TOKEN_EXPIRE_MINUTES": "7",
    "RESET_TOKEN_EXPIRE_MINUTES": "7",
    "RATE_LIMIT_LOGIN_PER_IP": "7/day",
    "FRONTEND_URL": "https://blog.example.com",
    "S3_BUCKET_NAME": "bucket",
}
# Keywords of JSON Schema and OpenAPI that bound a string or limit it to a set.
STRING_BOUNDS = {"maxLength", "enum", "const"}
# Files have their own limit and are not text.
FILE_MARKS = {"contentMediaType", "contentEncoding"}


def difference(old: str, new: str) -> str:
    """Return the diff between two texts."""
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), "openapi.json", "app.openapi()", lineterm=""
    )
    return "\n".join(lines)


def responses(operation: Json) -> dict[str, Json]:
    """Return an operation's responses by status."""
    return {
        status: follow(DOCUMENT, response)
        for status, response in operation["responses"].items()
    }


def errors(operation: Json) -> dict[str, Json]:
    """Return an operation's error responses."""
    return {
        status: response
        for status, response in responses(operation).items()
        if int(status) >= HTTPStatus.BAD_REQUEST
    }


def parameters(operation: Json) -> list[Json]:
    """Return an operation's path, query and header parameters."""
    return [follow(DOCUMENT, found) for found in operation.get("parameters", [])]


def request_schemas(operation: Json) -> dict[str, Json]:
    """Return the schemas of an operation's inputs, by location."""
    body = follow(DOCUMENT, operation.get("requestBody", {}))
    return {found["name"]: found["schema"] for found in parameters(operation)} | {
        media_type: media["schema"]
        for media_type, media in body.get("content", {}).items()
    }


def unbounded(schema: Json, place: str) -> Iterator[str]:
    """Yield the places in a schema where a string or number is unbounded."""
    schema = follow(DOCUMENT, schema)
    for kind in ("anyOf", "oneOf", "allOf"):
        for part in schema.get(kind, []):
            yield from unbounded(part, place)
    for name, part in schema.get("properties", {}).items():
        yield from unbounded(part, f"{place}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from unbounded(schema["items"], f"{place}[]")
    if not is_bounded(schema):
        yield place


def is_bounded(schema: Json) -> bool:
    """Return whether a string has a maximum length, or an integer both bounds."""
    if schema.get("type") == "string":
        is_file = schema.get("format") == "binary" or FILE_MARKS & schema.keys()
        return bool(is_file or STRING_BOUNDS & schema.keys())
    if schema.get("type") == "integer":
        return "const" in schema or "enum" in schema or has_both_ends(schema)
    return True


def has_both_ends(schema: Json) -> bool:
    """Return whether a number has a minimum and a maximum."""
    return bool(
        {"minimum", "exclusiveMinimum"} & schema.keys()
        and {"maximum", "exclusiveMaximum"} & schema.keys()
    )


def written_document(file: Path) -> str:
    """Return what the command generates on a machine with other settings."""
    subprocess.run(
        [sys.executable, "-m", "tools.export_openapi", str(file)],
        cwd=BASE_DIR,
        env={**os.environ, **OTHER_SETTINGS},
        check=True,
    )
    return file.read_text(encoding="utf-8")


# File


def test_file_is_up_to_date(tmp_path: Path) -> None:
    current = written_document(tmp_path / "openapi.json")

    changes = difference(FILE.read_text(encoding="utf-8"), current)

    assert not changes, f"`make openapi` writes openapi.json anew:\n{changes}"


def test_document_is_the_same_on_all_python_versions() -> None:
    # Standard library phrases change: 413 used to be "Request Entity Too Large".
    phrases = {status.phrase for status in HTTPStatus}

    faults = [
        f"{name} {status}"
        for name, operation in OPERATIONS.items()
        for status, response in responses(operation).items()
        if response["description"] in phrases
    ]

    assert not faults, faults


# Document


@pytest.mark.parametrize("key", ["title", "version", "description", "license"])
def test_document_has_title_and_description(key: str) -> None:
    assert DOCUMENT["info"].get(key)


def test_openapi_version_uses_json_schema() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")


def test_tags_have_descriptions() -> None:
    used = {tag for operation in OPERATIONS.values() for tag in operation["tags"]}
    described = {
        tag["name"] for tag in DOCUMENT.get("tags", []) if tag.get("description")
    }

    assert used == described


def test_operation_ids_are_unique() -> None:
    ids = Counter(operation["operationId"] for operation in OPERATIONS.values())

    faults = [name for name, number in ids.items() if number > 1]

    assert not faults, faults


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_properties_have_descriptions(name: str) -> None:
    properties: dict[str, Any] = SCHEMAS[name].get("properties", {})

    faults = [key for key, part in properties.items() if not part.get("description")]

    assert not faults, faults


# Operations


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_operation_has_description(operation: Json) -> None:
    assert operation["operationId"].isidentifier()
    assert operation.get("summary")
    assert operation.get("description")
    assert operation.get("tags")


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_parameters_have_descriptions(operation: Json) -> None:
    faults = [
        parameter["name"]
        for parameter in parameters(operation)
        if not parameter.get("description")
    ]

    assert not faults, faults


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_request_values_are_bounded(operation: Json) -> None:
    faults = [
        place
        for name, schema in request_schemas(operation).items()
        # This is compared and never stored; any length is valid.
        if name != "If-None-Match"
        for place in unbounded(schema, name)
    ]

    assert not faults, faults


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_errors_have_named_schemas(operation: Json) -> None:
    faults = [
        f"{status} {media_type}"
        for status, response in errors(operation).items()
        for media_type, media in response.get("content", {"": {}}).items()
        if media.get("schema", {}).keys() != {"$ref"}
    ]

    assert not faults, faults


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_errors_have_examples(operation: Json) -> None:
    faults = [
        status
        for status, response in errors(operation).items()
        if not any(
            examples(DOCUMENT, media) for media in response.get("content", {}).values()
        )
    ]

    assert not faults, faults


def test_examples_are_json() -> None:
    # Python's non-standard JSON values would make the file invalid.
    assert json.loads(as_text(DOCUMENT)) == DOCUMENT

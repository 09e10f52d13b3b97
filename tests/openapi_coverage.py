"""Check that the tests receive the responses that openapi.json declares, and no others.

An undeclared response fails the test that received it. A declared response that no test
received fails a complete run. Errors may also be problem details (RFC 9457), which the
document mentions only in its description.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from starlette.routing import compile_path

# JSON values can have any type.
Json = dict[str, Any]

# These headers concern the connection, caches or browsers rather than an operation.
COMMON_HEADERS = re.compile(
    "access-control-.*|cache-control|connection|content-.*|cross-origin-opener-policy|"
    "permissions-policy|referrer-policy|strict-transport-security|vary|x-content-.*|"
    "x-frame-options|x-request-id"
)
NUMBER = re.compile(r"\d+(\.\d+)?")


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    """Yield the method, path template and declaration of every operation."""
    for template, path in document["paths"].items():
        for method, operation in path.items():
            yield method.upper(), template, operation


def follow(document: Json, node: Json) -> Json:
    """Return the component that a node refers to, or else the node itself."""
    if "$ref" not in node:
        return node
    _, _, kind, name = node["$ref"].split("/")
    component: Json = document["components"][kind][name]
    return component


def detail_of(body: Any) -> Iterator[str]:
    """Yield an error's text, with 0 in place of numbers that depend on settings."""
    if isinstance(body, dict) and isinstance(body.get("detail"), str):
        yield f"detail {NUMBER.sub('0', body['detail'])}"


def declared_traits(declaration: Json) -> Iterator[str]:
    yield "status"
    for header in declaration.get("headers", {}):
        if not COMMON_HEADERS.fullmatch(header.lower()):
            yield f"header {header.lower()}"
    for media_type, media in declaration.get("content", {}).items():
        yield f"media type {media_type}"
        for example in media.get("examples", {}).values():
            yield from detail_of(example["value"])


def traits(response: httpx.Response, body: Any) -> Iterator[str]:
    yield "status"
    for header in response.headers:
        if not COMMON_HEADERS.fullmatch(header):
            yield f"header {header}"
    if response.content:
        media_type = response.headers["content-type"].partition(";")[0]
        yield f"media type {media_type.replace('problem+json', 'json')}"
        yield from detail_of(body)


def body_of(response: httpx.Response) -> Any:
    """Return a response's JSON, with problem details converted to plain errors."""
    is_html = response.headers.get("content-type", "").startswith("text/html")
    body = response.json() if response.content and not is_html else {}
    if response.headers.get("content-type") == "application/problem+json":
        return {"detail": body.get("errors", body["detail"])}
    return body


class OpenAPISpec:
    """The declared responses, and those that the tests have received."""

    def __init__(self, document: Json) -> None:
        self.operations: list[tuple[str, re.Pattern[str], str]] = []
        self.validators: dict[str, Draft202012Validator] = {}
        self.declared: set[str] = set()
        self.seen: set[str] = set()
        # In OpenAPI, paths without parameters take precedence.
        for method, template, operation in sorted(
            operations(document), key=lambda operation: operation[1].count("{")
        ):
            operation_name = f"{method} {template}"
            self.operations.append((method, compile_path(template)[0], operation_name))
            for status, node in operation["responses"].items():
                name = f"{operation_name} {status}"
                declaration = follow(document, node)
                self.declared |= {
                    f"{name} {each}" for each in declared_traits(declaration)
                }
                media = declaration.get("content", {}).get("application/json", {})
                # Schemas contain references to `#/components/...`.
                components = {"components": document["components"]}
                self.validators[name] = Draft202012Validator(
                    media.get("schema", {}) | components,
                    format_checker=Draft202012Validator.FORMAT_CHECKER,
                )

    async def check(self, response: httpx.Response) -> None:
        """Check the response of an operation. HTTPX clients call this as a hook."""
        await response.aread()
        request = response.request
        for method, path, name in self.operations:
            if method == request.method and path.match(request.url.path):
                self.check_operation(response, f"{name} {response.status_code}")
                return

    def check_operation(self, response: httpx.Response, name: str) -> None:
        body = body_of(response)
        seen = {f"{name} {trait}" for trait in traits(response, body)}
        if undeclared := seen - self.declared:
            raise AssertionError(f"undeclared: {undeclared} {response.text}")
        self.validators[name].validate(body)
        self.seen |= seen


class CoveragePlugin:
    """A pytest plugin that fails a complete run if it missed a declared response."""

    def __init__(self, spec: OpenAPISpec) -> None:
        self.spec = spec
        self.unseen: set[str] = set()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Add the responses that a pytest-xdist worker has received."""
        self.spec.seen |= set(getattr(node, "workeroutput", {}).get("seen", []))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["seen"] = list(self.spec.seen)
        elif session.exitstatus == pytest.ExitCode.OK and is_complete(session.config):
            self.unseen = self.spec.declared - self.spec.seen
            if self.unseen:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> None:
        if self.unseen:
            terminalreporter.section("declared in openapi.json, but seen by no test")
            terminalreporter.write_line("\n".join(sorted(self.unseen)))


def is_complete(config: pytest.Config) -> bool:
    """Return whether all tests were selected."""
    folders = {Path(argument).resolve() for argument in config.args}
    selections = ("keyword", "markexpr", "deselect", "lf")
    return folders == {Path(__file__).parent} and not any(
        config.getoption(option, None) for option in selections
    )

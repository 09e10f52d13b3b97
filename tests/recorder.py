"""Check the tests' responses against the OpenAPI document, and vice versa.

A response that the document does not declare fails the test that got it. A declared
response that no test got fails a complete run at its end. Each declared error may also
be sent as problem details (RFC 9457), which the document only mentions.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

# Part of a document; there is no more precise type for JSON.
Json = dict[str, Any]

PROBLEM_JSON = "application/problem+json"
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
# Any response may have these: they concern the connection, caches, or browsers, not an
# operation. `access-control-*` is allowed, too.
COMMON_HEADERS = {
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-security-policy",
    "content-type",
    "cross-origin-opener-policy",
    "permissions-policy",
    "referrer-policy",
    "strict-transport-security",
    "vary",
    "x-content-type-options",
    "x-frame-options",
}
NUMBER = re.compile(r"\d+(\.\d+)?")
WORKER_OUTPUT = "openapi_recording"


class UndeclaredResponse(AssertionError):
    """A response that the document does not declare."""


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    """Yield the method, path template and declaration of every operation."""
    for template, item in document["paths"].items():
        for method, operation in item.items():
            if method in METHODS:
                yield method.upper(), template, operation


def follow(document: Json, node: Json) -> Json:
    """Return a node, or the component that it refers to."""
    while "$ref" in node:
        node = reduce(getitem, node["$ref"].removeprefix("#/").split("/"), document)
    return node


def examples(document: Json, media: Json) -> list[Any]:
    """Return the values of all examples of a media type."""
    named = [
        follow(document, example).get("value")
        for example in media.get("examples", {}).values()
    ]
    return [*named, media["example"]] if "example" in media else named


def without_numbers(text: str) -> str:
    """Replace all numbers in a text.

    Numbers in errors depend on settings, which tests change: "Maximum size is 5MB".
    """
    return NUMBER.sub("0", text)


class DeclaredResponse:
    """A declared status of an operation."""

    def __init__(self, document: Json, name: str, declaration: Json) -> None:
        self.name = name
        self.headers = {header.lower() for header in declaration.get("headers", {})}
        content = declaration.get("content", {})
        self.validators = {
            media_type: Draft202012Validator(
                # Needed to resolve references to `#/components/...`.
                {**media.get("schema", {}), "components": document["components"]},
                format_checker=Draft202012Validator.FORMAT_CHECKER,
            )
            for media_type, media in content.items()
        }
        self.details = {
            without_numbers(example["detail"]): example["detail"]
            for media in content.values()
            for example in examples(document, media)
            if isinstance(example, dict) and isinstance(example.get("detail"), str)
        }

    def declared(self) -> set[str]:
        """Return the names of everything that a complete run must see."""
        headers = {self.header_name(header) for header in self.headers}
        return {self.name} | headers | set(map(self.detail_name, self.details.values()))

    def seen(self, response: httpx.Response) -> set[str]:
        """Return the names of what a response contains."""
        headers = self.headers & set(response.headers)
        names = {self.name} | {self.header_name(header) for header in headers}
        detail = self.details.get(without_numbers(detail_of(response) or ""))
        return names if detail is None else names | {self.detail_name(detail)}

    def header_name(self, header: str) -> str:
        return f"{self.name}: header {header!r}"

    def detail_name(self, detail: str) -> str:
        return f"{self.name}: detail {detail!r}"

    def find_errors(self, response: httpx.Response) -> Iterator[str]:
        """List what a response contains but the document does not declare."""
        for header in response.headers.keys() - self.headers - COMMON_HEADERS:
            if not header.startswith("access-control-"):
                yield f"the header {header!r} is not declared"
        yield from self.find_body_errors(response)
        detail = detail_of(response)
        if detail is not None and without_numbers(detail) not in self.details:
            yield f"the detail {detail!r} is not among the declared examples"

    def find_body_errors(self, response: httpx.Response) -> Iterator[str]:
        """List schema errors of a body; without declared content, it must be empty."""
        if not self.validators:
            if response.content:
                yield "a body is not declared"
            return
        media_type = media_type_of(response)
        if response.is_error and media_type == PROBLEM_JSON:
            media_type = "application/json"
        validator = self.validators.get(media_type)
        if validator is None:
            yield f"the media type {media_type!r} is not declared"
            return
        for error in validator.iter_errors(body_of(response)):
            yield f"the body does not fit: {error.json_path}: {error.message}"


def media_type_of(response: httpx.Response) -> str:
    """Return the media type of a body, without its parameters."""
    content_type: str = response.headers.get("content-type", "")
    return content_type.partition(";")[0].strip().lower()


def body_of(response: httpx.Response) -> Any:
    """Return the JSON of a response, with problem details in the declared form."""
    if media_type_of(response) == PROBLEM_JSON:
        problem = response.json()
        return {"detail": problem.get("errors", problem.get("detail"))}
    is_json = media_type_of(response) == "application/json"
    return response.json() if is_json else response.text


def detail_of(response: httpx.Response) -> str | None:
    """Return the `detail` text of an error; a 422 has a list with a schema instead."""
    if response.is_error and response.content:
        body = body_of(response)
        if isinstance(body, dict) and isinstance(body.get("detail"), str):
            return str(body["detail"])
    return None


@dataclass(frozen=True)
class Operation:
    """A method and path with its declared responses."""

    method: str
    path: re.Pattern[str]
    name: str
    responses: dict[str, DeclaredResponse]

    def matches(self, request: httpx.Request) -> bool:
        """Return whether a request is for this operation."""
        return self.method == request.method and bool(
            self.path.fullmatch(request.url.path)
        )


class OpenAPISpec:
    """The responses that a document declares, and those seen so far."""

    def __init__(self, document: Json) -> None:
        document = {"components": {}, **document}
        # In OpenAPI, paths without parameters take precedence.
        ordered = sorted(operations(document), key=lambda found: found[1].count("{"))
        self.operations = [operation_of(document, *found) for found in ordered]
        self.seen: set[str] = set()

    async def check(self, response: httpx.Response) -> None:
        """Record a response; use as a response hook of an HTTPX client.

        Raises:
            UndeclaredResponse: The response is not declared. Requests that match no
                operation, such as OPTIONS or pages, are not checked.
        """
        await response.aread()
        operation = next(
            (found for found in self.operations if found.matches(response.request)),
            None,
        )
        if operation is None:
            return
        status = str(response.status_code)
        declared = operation.responses.get(status)
        if declared is None:
            raise UndeclaredResponse(
                f"{operation.name} {status}: the status is not declared "
                f"(among {', '.join(operation.responses)}); {response.text[:200]}"
            )
        self.seen |= declared.seen(response)
        if errors := list(declared.find_errors(response)):
            raise UndeclaredResponse(f"{declared.name}: {'; '.join(errors)}")

    def missing(self) -> list[str]:
        """Return everything that is declared but has not been seen."""
        declared = {
            name
            for operation in self.operations
            for response in operation.responses.values()
            for name in response.declared()
        }
        return sorted(declared - self.seen)


def operation_of(
    document: Json, method: str, template: str, declaration: Json
) -> Operation:
    """Build an operation from its declaration."""
    name = f"{method} {template}"
    literals = map(re.escape, re.split(r"\{[^}]+\}", template))
    responses = {
        status: DeclaredResponse(
            document, f"{name} {status}", follow(document, response)
        )
        for status, response in declaration["responses"].items()
    }
    return Operation(method, re.compile("[^/]+".join(literals)), name, responses)


class CoveragePlugin:
    """A pytest plugin that fails a complete run unless it has seen every declaration.

    A run is complete if each test file next to `conftest.py` was collected, nothing was
    deselected, and every collected test finished. This depends on what actually ran,
    not on options, arguments, failures or interrupts. Subfolders do not count, because
    their tests send requests to other processes.
    """

    def __init__(self, contract: OpenAPISpec, folder: Path, root: Path) -> None:
        self.contract = contract
        self.all_files = {
            file.relative_to(root).as_posix() for file in folder.glob("test_*.py")
        }
        self.files: set[str] = set()
        self.collected = 0
        self.ended = 0
        self.is_selection = False
        self.missing: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.failed:
            self.files.add(report.nodeid)

    def pytest_deselected(self) -> None:
        self.is_selection = True

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        # Selecting one test of a file skips the others without deselecting them.
        self.is_selection |= any("::" in argument for argument in session.config.args)
        self.collected = len(session.items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.ended += report.when == "teardown"

    # With xdist, workers collect and run the tests; the controller sees the reports,
    # too.

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        # A crashed worker has no output, and its last test has not finished.
        output = getattr(node, "workeroutput", {}).get(WORKER_OUTPUT)
        if output is not None:
            seen, files, collected, is_selection = output
            self.contract.seen |= set(seen)
            self.files |= set(files)
            self.collected = max(self.collected, collected)
            self.is_selection |= is_selection

    def output(self) -> Sequence[Any]:
        """Return a worker's results in types that can be sent between processes."""
        files = list(self.files & self.all_files)
        return [list(self.contract.seen), files, self.collected, self.is_selection]

    def is_complete(self) -> bool:
        """Return whether the run was complete; see the class."""
        return (
            self.all_files <= self.files
            and not self.is_selection
            and self.ended == self.collected
        )

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        worker_output = getattr(session.config, "workeroutput", None)
        if worker_output is not None:
            worker_output[WORKER_OUTPUT] = self.output()
        elif self.is_complete():
            self.missing = self.contract.missing()
            if self.missing and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> None:
        if self.missing:
            terminalreporter.section(
                "declared in the OpenAPI document, but seen by no test", red=True
            )
            for name in self.missing:
                terminalreporter.line(name)

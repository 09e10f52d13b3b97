"""Holds the tests to the OpenAPI document, and the document to the tests.

An answer that the document does not declare fails the test that got it. What the
document declares and no test got fails a complete run at its end. Each declared error
may also come as problem details (RFC 9457), which the document only mentions.
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

# A part of a document; JSON has no better type.
Json = dict[str, Any]

PROBLEM_JSON = "application/problem+json"
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
# Every answer may have them: they belong to the connection, to caches or to browsers,
# and not to an operation. `access-control-*` is among them.
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


class Breach(AssertionError):
    """An answer that the document does not declare."""


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    """Method, path template and declaration of every operation."""
    for template, item in document["paths"].items():
        for method, operation in item.items():
            if method in METHODS:
                yield method.upper(), template, operation


def follow(document: Json, node: Json) -> Json:
    """What a node stands for: itself, or the component that it refers to."""
    while "$ref" in node:
        node = reduce(getitem, node["$ref"].removeprefix("#/").split("/"), document)
    return node


def examples(document: Json, media: Json) -> list[Any]:
    """The values of all examples of a media type."""
    named = [
        follow(document, example).get("value")
        for example in media.get("examples", {}).values()
    ]
    return [*named, media["example"]] if "example" in media else named


def without_numbers(text: str) -> str:
    """A text in which all numbers look alike.

    Numbers in errors follow settings, which tests change: "Maximum size is 5MB".
    """
    return NUMBER.sub("0", text)


class Answer:
    """A status that an operation declares."""

    def __init__(self, document: Json, name: str, declaration: Json) -> None:
        self.name = name
        self.headers = {header.lower() for header in declaration.get("headers", {})}
        content = declaration.get("content", {})
        self.validators = {
            media_type: Draft202012Validator(
                # So that a reference to `#/components/...` leads somewhere.
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
        """Names of what must have been seen by the end of a complete run."""
        headers = {self.header_name(header) for header in self.headers}
        return {self.name} | headers | set(map(self.detail_name, self.details.values()))

    def seen(self, response: httpx.Response) -> set[str]:
        """Names of what of this is in an answer."""
        headers = self.headers & set(response.headers)
        names = {self.name} | {self.header_name(header) for header in headers}
        detail = self.details.get(without_numbers(detail_of(response) or ""))
        return names if detail is None else names | {self.detail_name(detail)}

    def header_name(self, header: str) -> str:
        return f"{self.name}: header {header!r}"

    def detail_name(self, detail: str) -> str:
        return f"{self.name}: detail {detail!r}"

    def faults(self, response: httpx.Response) -> Iterator[str]:
        """What of an answer is not declared."""
        for header in response.headers.keys() - self.headers - COMMON_HEADERS:
            if not header.startswith("access-control-"):
                yield f"the header {header!r} is not declared"
        yield from self.faults_of_body(response)
        detail = detail_of(response)
        if detail is not None and without_numbers(detail) not in self.details:
            yield f"the detail {detail!r} is not among the declared examples"

    def faults_of_body(self, response: httpx.Response) -> Iterator[str]:
        """Where the body is not as declared; without declared content there is none."""
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
    """The media type of a body, without its parameters."""
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
    """What an error says in words; the list of a 422 has a schema and no words."""
    if response.is_error and response.content:
        body = body_of(response)
        if isinstance(body, dict) and isinstance(body.get("detail"), str):
            return str(body["detail"])
    return None


@dataclass(frozen=True)
class Operation:
    """A method on a path, and the answers that it declares."""

    method: str
    path: re.Pattern[str]
    name: str
    answers: dict[str, Answer]

    def answers_to(self, request: httpx.Request) -> bool:
        """Whether it is this operation that a request asks for."""
        return self.method == request.method and bool(
            self.path.fullmatch(request.url.path)
        )


class Contract:
    """What a document declares, and what of it has been seen so far."""

    def __init__(self, document: Json) -> None:
        document = {"components": {}, **document}
        # As OpenAPI has it, a path without parameters comes before one that has them.
        ordered = sorted(operations(document), key=lambda found: found[1].count("{"))
        self.operations = [operation_of(document, *found) for found in ordered]
        self.seen: set[str] = set()

    async def check(self, response: httpx.Response) -> None:
        """Note an answer: a hook for the responses of an httpx client.

        Raises:
            Breach: The answer is not declared. What is no operation, such as OPTIONS or
                a page, may answer as it likes.
        """
        await response.aread()
        operation = next(
            (found for found in self.operations if found.answers_to(response.request)),
            None,
        )
        if operation is None:
            return
        status = str(response.status_code)
        answer = operation.answers.get(status)
        if answer is None:
            raise Breach(
                f"{operation.name} {status}: the status is not declared "
                f"(among {', '.join(operation.answers)}); {response.text[:200]}"
            )
        self.seen |= answer.seen(response)
        if faults := list(answer.faults(response)):
            raise Breach(f"{answer.name}: {'; '.join(faults)}")

    def missing(self) -> list[str]:
        """What is declared and has not been seen."""
        declared = {
            name
            for operation in self.operations
            for answer in operation.answers.values()
            for name in answer.declared()
        }
        return sorted(declared - self.seen)


def operation_of(
    document: Json, method: str, template: str, declaration: Json
) -> Operation:
    """An operation as the document declares it."""
    name = f"{method} {template}"
    literals = map(re.escape, re.split(r"\{[^}]+\}", template))
    answers = {
        status: Answer(document, f"{name} {status}", follow(document, response))
        for status, response in declaration["responses"].items()
    }
    return Operation(method, re.compile("[^/]+".join(literals)), name, answers)


class Recording:
    """A pytest plugin: at the end of a complete run all that is declared was seen.

    A run is complete when each test file beside `conftest.py` was collected, nothing
    was deselected, and each test that was collected has come to its end. So it is by
    what happened, whatever options, arguments, failures or interrupts made it so. The
    folders below do not count: their tests ask another process.
    """

    def __init__(self, contract: Contract, folder: Path, root: Path) -> None:
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
        # One test of a file leaves the others out without deselecting them.
        self.is_selection |= any("::" in argument for argument in session.config.args)
        self.collected = len(session.items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.ended += report.when == "teardown"

    # With xdist the workers collect and run; what has ended the controller hears too.

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        # A worker that crashed has no output, nor has its last test come to its end.
        output = getattr(node, "workeroutput", {}).get(WORKER_OUTPUT)
        if output is not None:
            seen, files, collected, is_selection = output
            self.contract.seen |= set(seen)
            self.files |= set(files)
            self.collected = max(self.collected, collected)
            self.is_selection |= is_selection

    def output(self) -> Sequence[Any]:
        """What a worker has to tell, in types that cross processes."""
        files = list(self.files & self.all_files)
        return [list(self.contract.seen), files, self.collected, self.is_selection]

    def is_complete(self) -> bool:
        """Whether everything that could be seen should have been; see the class."""
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

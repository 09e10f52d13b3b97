"""The OpenAPI recorder: undeclared responses and missing coverage."""

from typing import Any

import httpx
import pytest

from config import BASE_DIR
from tests.recorder import OpenAPISpec, UndeclaredResponse

pytest_plugins = ["pytester"]

ERROR = {
    "description": "Not there.",
    "content": {
        "application/json": {
            "schema": {"$ref": "#/components/schemas/Error"},
            "examples": {
                "none": {"value": {"detail": "No such thing"}},
                "large": {"value": {"detail": "More than 5MB"}},
            },
        },
    },
}
DOCUMENT: dict[str, Any] = {
    "paths": {
        "/things/{thing_id}": {
            "parameters": [],
            "get": {
                "responses": {
                    "200": {
                        "headers": {"ETag": {"schema": {"type": "string"}}},
                        "content": {
                            "application/json": {
                                "schema": {"$ref": "#/components/schemas/Thing"}
                            }
                        },
                    },
                    "304": {"description": "Still the same."},
                    "404": {"$ref": "#/components/responses/Error"},
                }
            },
        },
        "/things/new": {"get": {"responses": {"204": {}}}},
    },
    "components": {
        "schemas": {
            "Thing": {"properties": {"parts": {"$ref": "#/components/schemas/Parts"}}},
            "Parts": {"type": "array", "items": {"type": "integer"}},
            "Error": {
                "type": "object",
                "required": ["detail"],
                "properties": {"detail": {"type": ["string", "array"]}},
            },
        },
        "responses": {"Error": ERROR},
    },
}
THING: dict[str, Any] = {"parts": [1, 2]}
PROBLEM = {"Content-Type": "application/problem+json"}


async def get(response: httpx.Response, *, path: str = "/things/7") -> OpenAPISpec:
    """Return a spec that has seen this response."""
    contract = OpenAPISpec(DOCUMENT)
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(lambda _request: response),
        base_url="http://127.0.0.1",
        event_hooks={"response": [contract.check]},
    ) as client:
        await client.get(path)
    return contract


# Single responses


async def test_declared_response_is_seen() -> None:
    contract = await get(httpx.Response(200, json=THING, headers={"ETag": '"1"'}))

    assert contract.seen == {
        "GET /things/{thing_id} 200",
        "GET /things/{thing_id} 200: header 'etag'",
    }


async def test_declared_error_is_seen_with_its_detail() -> None:
    contract = await get(httpx.Response(404, json={"detail": "No such thing"}))

    assert contract.seen == {
        "GET /things/{thing_id} 404",
        "GET /things/{thing_id} 404: detail 'No such thing'",
    }


async def test_number_in_error_may_differ_from_example() -> None:
    contract = await get(httpx.Response(404, json={"detail": "More than 0.25MB"}))

    assert "GET /things/{thing_id} 404: detail 'More than 5MB'" in contract.seen


async def test_problem_details_count_as_declared_error() -> None:
    problem = {"type": "about:blank", "status": 404, "detail": "No such thing"}

    contract = await get(httpx.Response(404, json=problem, headers=PROBLEM))

    assert "GET /things/{thing_id} 404: detail 'No such thing'" in contract.seen


async def test_unseen_declarations_are_missing() -> None:
    contract = await get(httpx.Response(304))

    assert contract.missing() == [
        "GET /things/new 204",
        "GET /things/{thing_id} 200",
        "GET /things/{thing_id} 200: header 'etag'",
        "GET /things/{thing_id} 404",
        "GET /things/{thing_id} 404: detail 'More than 5MB'",
        "GET /things/{thing_id} 404: detail 'No such thing'",
    ]


@pytest.mark.parametrize(
    ("response", "fault"),
    [
        (httpx.Response(418), "418: the status is not declared"),
        (
            httpx.Response(200, json={"parts": [1, "two"]}),
            r"200: the body does not fit: \$\.parts\[1\]: 'two' is not of type",
        ),
        (
            httpx.Response(200, text="A thing"),
            "200: the media type 'text/plain' is not declared",
        ),
        (httpx.Response(200), "200: the media type '' is not declared"),
        (httpx.Response(304, text="A thing"), "304: a body is not declared"),
        (
            httpx.Response(200, json=THING, headers={"Link": "</>"}),
            "200: the header 'link' is not declared",
        ),
        (
            httpx.Response(304, headers={"ETag": '"1"'}),
            "304: the header 'etag' is not declared",
        ),
        (
            httpx.Response(404, json={"detail": "Nothing there"}),
            "404: the detail 'Nothing there' is not among the declared examples",
        ),
        (
            httpx.Response(404, json={"message": "No such thing"}),
            r"404: the body does not fit: \$: 'detail' is a required property",
        ),
        (
            httpx.Response(404, json={"detail": "Nothing there"}, headers=PROBLEM),
            "404: the detail 'Nothing there' is not among the declared examples",
        ),
        (
            httpx.Response(404, json={"title": "Not Found"}, headers=PROBLEM),
            r"404: the body does not fit: \$\.detail: None is not of type",
        ),
        (
            httpx.Response(200, json=THING, headers=PROBLEM),
            "200: the media type 'application/problem\\+json' is not declared",
        ),
    ],
)
async def test_undeclared_response_fails_test(
    response: httpx.Response, fault: str
) -> None:
    with pytest.raises(UndeclaredResponse, match=r"^GET /things/\{thing_id\} " + fault):
        await get(response)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(304, headers={"Vary": "Accept", "Cache-Control": "no-cache"}),
        httpx.Response(304, headers={"Access-Control-Allow-Origin": "*"}),
        httpx.Response(404, json={"detail": [{"msg": "Everything wrong"}]}),
        httpx.Response(
            404,
            json={"detail": "In words", "errors": [{"msg": "Everything wrong"}]},
            headers=PROBLEM,
        ),
    ],
)
async def test_common_headers_and_errors_are_allowed(
    response: httpx.Response,
) -> None:
    assert (await get(response)).seen


async def test_path_without_parameters_takes_precedence() -> None:
    contract = await get(httpx.Response(204), path="/things/new")

    assert contract.seen == {"GET /things/new 204"}


@pytest.mark.parametrize("path", ["/", "/things", "/things/7/parts", "/things/7/"])
async def test_undocumented_path_is_not_checked(path: str) -> None:
    contract = await get(httpx.Response(418, text="teapot"), path=path)

    assert contract.seen == set()


# Complete runs

CONFTEST = """
import asyncio
from pathlib import Path

import httpx
import pytest

from tests.recorder import OpenAPISpec, CoveragePlugin

RESPONSES = {"200": {}, "404": {}, "409": {}}
contract = OpenAPISpec({"paths": {"/": {"get": {"responses": RESPONSES}}}})


def pytest_configure(config):
    recording = CoveragePlugin(contract, Path(__file__).parent, config.rootpath)
    config.pluginmanager.register(recording)


@pytest.fixture
def get():
    async def ask(status):
        async with httpx.AsyncClient(
            transport=httpx.MockTransport(lambda _: httpx.Response(status)),
            base_url="http://127.0.0.1",
            event_hooks={"response": [contract.check]},
        ) as client:
            await client.get("/")

    return lambda status: asyncio.run(ask(status))
"""
TEST_FOUND = """
def test_found(get):
    get(200)


def test_not_found(get):
    get(404)
"""
TEST_CONFLICT = """
def test_nothing():
    pass


def test_conflict(get):
    get(409)
"""
NEVER_SEEN = "seen by no test"
PARALLEL = ["-p", "xdist", "--numprocesses=2", "--dist=loadfile"]


@pytest.fixture
def project(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """Create a test folder that sees every declaration if run completely."""
    # Some installed plugins take seconds to import.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(BASE_DIR))
    # Do not measure the coverage of this nested run.
    for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeini("[pytest]")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_found=TEST_FOUND, test_conflict=TEST_CONFLICT)
    return pytester


@pytest.mark.parametrize("options", [[], PARALLEL])
def test_complete_run_succeeds(project: pytest.Pytester, options: list[str]) -> None:
    result = project.runpytest_subprocess(*options)

    assert result.ret == 0
    assert NEVER_SEEN not in result.stdout.str()


@pytest.mark.parametrize("options", [[], PARALLEL])
def test_run_fails_if_declaration_was_not_seen(
    project: pytest.Pytester, options: list[str]
) -> None:
    project.makepyfile(test_conflict="def test_nothing(): pass")

    result = project.runpytest_subprocess(*options)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert NEVER_SEEN in result.stdout.str()
    assert "\nGET / 409\n" in result.stdout.str()
    assert "GET / 404" not in result.stdout.str()


def test_skipped_test_sees_nothing(project: pytest.Pytester) -> None:
    skip = "import pytest\npytestmark = pytest.mark.skip\n"
    project.makepyfile(test_conflict=skip + TEST_CONFLICT)

    result = project.runpytest_subprocess()

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "\nGET / 409\n" in result.stdout.str()


@pytest.mark.parametrize(
    "selection",
    [
        ["-k", "not test_conflict"],
        ["test_found.py"],
        ["test_found.py", "test_conflict.py::test_nothing"],
        ["--ignore=test_conflict.py"],
        ["--deselect=test_conflict.py::test_conflict"],
        ["test_found.py", *PARALLEL],
    ],
)
def test_partial_run_requires_no_full_coverage(
    project: pytest.Pytester, selection: list[str]
) -> None:
    result = project.runpytest_subprocess(*selection)

    assert result.ret == 0
    assert NEVER_SEEN not in result.stdout.str()


def test_rerun_of_failures_requires_no_full_coverage(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(test_found="def test_found(get): get(418)")
    assert project.runpytest_subprocess().ret == pytest.ExitCode.TESTS_FAILED
    project.makepyfile(test_found=TEST_FOUND)

    result = project.runpytest_subprocess("--last-failed")

    assert result.ret == 0
    assert NEVER_SEEN not in result.stdout.str()


@pytest.mark.parametrize(
    ("failure", "options"),
    [
        ("assert False", ["--exitfirst"]),
        ("import pytest; pytest.exit('Enough')", []),
        ("import os; os._exit(1)", [*PARALLEL, "--max-worker-restart=0"]),
    ],
)
def test_aborted_run_requires_no_full_coverage(
    project: pytest.Pytester, failure: str, options: list[str]
) -> None:
    test = f"def test_first(): {failure}\n"
    project.makepyfile(test_conflict=test + TEST_CONFLICT)

    result = project.runpytest_subprocess(*options)

    assert result.ret != 0
    assert NEVER_SEEN not in result.stdout.str()

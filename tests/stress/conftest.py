"""Shared fixtures of the stress tests: duration, measurements, and sites.

`--stress` (set by `make stress`) runs them at full length; otherwise a short form
fits into every test run. Only the full form fails on timings, because on a busy machine
they prove nothing.
"""

import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from config import BASE_DIR
from tests.stress.site import (
    Postgres,
    Site,
    migrated_database,
    running,
    running_postgres,
)

FULL = "--stress" in sys.argv
REPORT = BASE_DIR / "var" / "stress.md"
HEADINGS = ("what", "measured", "limit", "holds")
FIGURE = "figure"

NewSite = Callable[..., Site]


@pytest.fixture(scope="session")
def full() -> bool:
    """Return whether the full form is requested."""
    return FULL


class Figures:
    """Measurements for the table at the end of the run."""

    def __init__(self, record_property: Callable[[str, object], None]) -> None:
        self._record_property = record_property

    def add(self, what: str, measured: str, limit: str, holds: bool) -> None:
        """Record a figure; in the full form, a missed limit fails the test."""
        # Properties are part of the test's report, also from another process.
        row = (what, measured, limit, "yes" if holds else "NO")
        self._record_property(FIGURE, row)


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Figures:
    """Return where a test records its measurements."""
    return Figures(record_property)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(
    pyfuncitem: pytest.Function,
) -> Generator[None, object, object]:
    """Fail at the end of a test, so that the table has all its figures."""
    outcome = yield
    broken = [row for row in read_figures(pyfuncitem.user_properties) if row[3] == "NO"]
    assert not broken or not FULL, table([HEADINGS, *broken])
    return outcome


def read_figures(properties: Iterable[tuple[str, Any]]) -> list[tuple[str, ...]]:
    """Return the figures among a test's properties."""
    return [tuple(value) for name, value in properties if name == FIGURE]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the measurements, and save them after a complete run."""
    reports = [
        report
        for kind in ("passed", "failed")
        for report in terminalreporter.stats.get(kind, [])
    ]
    rows = [
        row
        for report in sorted(reports, key=lambda report: report.nodeid)
        if report.when == "call"
        for row in read_figures(report.user_properties)
    ]
    if not rows:
        return
    lines = table([HEADINGS, *rows])
    terminalreporter.section("stress")
    for line in lines:
        terminalreporter.write_line(line)
    if FULL:
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text("\n".join(lines) + "\n")


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Format rows, headings first, as an aligned Markdown table."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        + " |"
        for row in rows
    ]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return [lines[0], rule, *lines[1:]]


# Sites


@pytest.fixture(scope="module")
def database(schema: None) -> Iterator[str]:
    """Create a database with tables for a module; return its URL."""
    with migrated_database() as url:
        yield url


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Start a server for one module that writes commits to disk."""
    with running_postgres(tmp_path_factory.mktemp("database")) as postgres:
        yield postgres


@pytest.fixture
def new_site(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a function that starts sites on that database; stop them after the test.

    It accepts the arguments of `Site` after the database, and another `database_url`.
    """
    with ExitStack() as sites:

        def start(database_url: str = database, **options: Any) -> Site:
            folder: Path = tmp_path_factory.mktemp("site")
            return sites.enter_context(running(Site(folder, database_url, **options)))

        yield start


@pytest.fixture(scope="module")
def site(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run the app in another process, with pictures and emails as files."""
    with running(Site(tmp_path_factory.mktemp("site"), database)) as site:
        yield site

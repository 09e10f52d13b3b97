"""What the torture tests share: their length, their figures, sites to torture.

`TORTURE=full` (as `make torture` sets it) runs them as long and as hard as they are
meant; without it they take a short form that fits into every run of the tests. Only the
full form fails on times: on a busy machine they prove nothing.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from config import BASE_DIR
from tests.torture.site import (
    Postgres,
    Site,
    migrated_database,
    own_postgres,
    running,
)

FULL = os.environ.get("TORTURE") == "full"
REPORT = BASE_DIR / "var" / "torture.md"
HEADINGS = ("what", "measured", "limit", "holds")
FIGURE = "figure"

NewSite = Callable[..., Site]


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether the long form is wanted."""
    return FULL


class Figures:
    """What was measured, for the table at the end of the run."""

    def __init__(self, record_property: Callable[[str, object], None]) -> None:
        self._record_property = record_property

    def add(self, what: str, measured: str, limit: str, holds: bool) -> None:
        """Note a figure; in the full form one that does not hold fails the test."""
        # Properties come with the report of the test, also from another process.
        row = (what, measured, limit, "yes" if holds else "NO")
        self._record_property(FIGURE, row)


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Figures:
    """Where a test notes what it has measured."""
    return Figures(record_property)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(
    pyfuncitem: pytest.Function,
) -> Generator[None, object, object]:
    """Fail at the end of a test, so that all its figures are in the table."""
    outcome = yield
    broken = [row for row in figures_of(pyfuncitem.user_properties) if row[3] == "NO"]
    assert not broken or not FULL, table([HEADINGS, *broken])
    return outcome


def figures_of(properties: Iterable[tuple[str, Any]]) -> list[tuple[str, ...]]:
    """The figures among the properties of a test."""
    return [tuple(value) for name, value in properties if name == FIGURE]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was measured, and keep it when it is the whole."""
    reports = [
        report
        for kind in ("passed", "failed")
        for report in terminalreporter.stats.get(kind, [])
    ]
    rows = [
        row
        for report in sorted(reports, key=lambda report: report.nodeid)
        if report.when == "call"
        for row in figures_of(report.user_properties)
    ]
    if not rows:
        return
    lines = table([HEADINGS, *rows])
    terminalreporter.section("torture")
    for line in lines:
        terminalreporter.write_line(line)
    if FULL:
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text("\n".join(lines) + "\n")


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows, the headings first, as an aligned table in Markdown."""
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
    """The URL of a database with the tables, for the tests of a module."""
    with migrated_database() as url:
        yield url


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server for a module alone, that writes to the disk what it commits."""
    with own_postgres(tmp_path_factory.mktemp("database")) as postgres:
        yield postgres


@pytest.fixture
def new_site(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start sites on that database; they end after the test.

    Takes what `Site` takes after the database, and `database_url` for another one.
    """
    with ExitStack() as sites:

        def start(database_url: str = database, **options: Any) -> Site:
            folder: Path = tmp_path_factory.mktemp("site")
            return sites.enter_context(running(Site(folder, database_url, **options)))

        yield start


@pytest.fixture(scope="module")
def site(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The application in a process of its own, with pictures and mails as files."""
    with running(Site(tmp_path_factory.mktemp("site"), database)) as site:
        yield site

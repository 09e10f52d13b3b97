"""Fixtures of the stress tests: servers, and figures with limits.

Without `--stress`, the tests are small, and a figure beyond its limit is only reported:
timings on a busy machine prove nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from config import BASE_DIR
from tests.conftest import ADMIN_URL
from tests.databases import scratch_database
from tests.server import LiveServer
from tests.stress.postgres import Postgres

REPORT = BASE_DIR / "var" / "stress.md"
HEADINGS = ("what", "measured", "limit", "holds")
FIGURE = "figure"


class Figures:
    """Measurements of a test, for the table at the end of the run."""

    def __init__(self, record: Callable[[str, object], None], *, stress: bool) -> None:
        self.stress = stress
        self.missed: list[str] = []
        # Properties are part of the test's report, also from another process.
        self._record = record

    def add(
        self, what: str, measured: str, limit: str = "-", holds: bool = True
    ) -> None:
        self._record(FIGURE, (what, measured, limit, "yes" if holds else "NO"))
        if not holds:
            self.missed.append(f"{what}: {measured}, limit {limit}")

    def add_seconds(self, what: str, seconds: float, *, limit: float) -> None:
        self.add(what, f"{seconds:.2f} s", f"{limit:g} s", seconds <= limit)


@pytest.fixture
def figures(
    record_property: Callable[[str, object], None], stress: bool
) -> Iterator[Figures]:
    """Record measurements; with `--stress`, missed limits are errors."""
    figures = Figures(record_property, stress=stress)
    yield figures
    assert not (stress and figures.missed), figures.missed


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the figures; with `--stress`, save them."""
    stats = terminalreporter.stats
    reports = [*stats.get("passed", []), *stats.get("failed", [])]
    rows = [
        tuple(value)
        for report in sorted(reports, key=lambda report: report.nodeid)
        if report.when == "call"
        for name, value in report.user_properties
        if name == FIGURE
    ]
    if not rows:
        return
    lines = [f"| {' | '.join(row)} |" for row in [HEADINGS, ("---",) * 4, *rows]]
    terminalreporter.section("figures")
    terminalreporter.write_line("\n".join(lines))
    if config.getoption("--stress"):
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def server(
    schema: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """Run the app behind a proxy, without rate limits."""
    with (
        scratch_database(ADMIN_URL) as url,
        LiveServer(
            tmp_path_factory.mktemp("server"),
            database_url=url,
            TRUSTED_PROXY_HOPS="1",
            UVICORN_TIMEOUT_KEEP_ALIVE="75",
        ) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Run a database server that tests may pause or kill, and must start again."""
    with Postgres(tmp_path_factory.mktemp("postgres")) as postgres:
        yield postgres


@pytest.fixture(scope="session")
def server_on_postgres(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """Run the app with that database server."""
    folder = tmp_path_factory.mktemp("server")
    with LiveServer(folder, database_url=postgres.url) as server:
        yield server

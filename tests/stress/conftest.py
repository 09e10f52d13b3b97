"""Fixtures for the stress tests: servers, and measurements with limits.

Without `--stress`, the tests are small, and a measurement beyond its limit is only
logged, because timings on a busy machine prove nothing.
"""

import logging
from collections.abc import Iterator

import pytest

from tests.conftest import ADMIN_URL
from tests.databases import scratch_database
from tests.server import LiveServer
from tests.stress.postgres import Postgres

logger = logging.getLogger(__name__)


class Figures:
    """The measurements of a test, which are logged."""

    def __init__(self, *, stress: bool) -> None:
        self.stress = stress
        self.missed: list[str] = []

    def add(
        self, what: str, measured: str, limit: str = "-", holds: bool = True
    ) -> None:
        logger.info("%s: %s, limit %s", what, measured, limit)
        if not holds:
            self.missed.append(f"{what}: {measured}, limit {limit}")

    def add_seconds(self, what: str, seconds: float, *, limit: float) -> None:
        self.add(what, f"{seconds:.2f} s", f"{limit:g} s", seconds <= limit)


@pytest.fixture
def figures(stress: bool) -> Iterator[Figures]:
    """Record measurements. With `--stress`, fail if one is beyond its limit."""
    figures = Figures(stress=stress)
    yield figures
    assert not (stress and figures.missed), figures.missed


@pytest.fixture
def empty_database() -> Iterator[str]:
    with scratch_database(ADMIN_URL) as url:
        yield url


@pytest.fixture(scope="session")
def server(
    schema: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """Run the app as if behind a proxy, without rate limits."""
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
    """Run a database server. A test that pauses or stops it must also resume it."""
    postgres = Postgres(tmp_path_factory.mktemp("postgres"))
    postgres.start()
    yield postgres
    postgres.stop()


@pytest.fixture(scope="session")
def server_on_postgres(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """Run the app on a database server that tests may pause or stop."""
    folder = tmp_path_factory.mktemp("server")
    with LiveServer(folder, database_url=postgres.url) as server:
        yield server

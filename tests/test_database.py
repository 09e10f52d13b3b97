"""Query helpers, and an unavailable database."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from httpx import AsyncClient, Response
from pydantic import SecretStr
from sqlalchemy import URL, make_url, text
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection

from config import settings
from database import (
    DatabaseUnavailable,
    engine,
    is_unavailable,
)
from tests.conftest import auth_header, make_client, sign_up
from tests.databases import execute, free_port


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Override the mocked bucket: no picture is stored here, and setup is slow."""


# Whose fault it is


class DriverError(Exception):
    """A driver error with a PostgreSQL error code."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__("")
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(DatabaseUnavailable(), id="no connection"),
        pytest.param(PoolTimeoutError(), id="no connection free"),
        pytest.param(InterfaceError("", {}, DriverError(None)), id="connection closed"),
        pytest.param(
            OperationalError("", {}, ConnectionRefusedError()), id="operation failed"
        ),
        pytest.param(ConnectionRefusedError(), id="connection refused"),
        pytest.param(socket.gaierror(), id="no such host"),
        pytest.param(TimeoutError(), id="no response"),
        pytest.param(InternalError("", {}, DriverError(None)), id="driver out of step"),
        pytest.param(
            DBAPIError("", {}, DriverError(None), connection_invalidated=True),
            id="connection lost",
        ),
        *(
            pytest.param(DBAPIError("", {}, DriverError(state)), id=state)
            for state in [
                "08006",
                "40001",
                "40P01",
                "53300",
                "55P03",
                "57014",
                "57P01",
                "58030",
            ]
        ),
    ],
)
def test_connection_error_means_unavailable(error: Exception) -> None:
    assert is_unavailable(error)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(IntegrityError("", {}, DriverError("23505")), id="not unique"),
        pytest.param(ProgrammingError("", {}, DriverError("42P01")), id="no table"),
        pytest.param(DBAPIError("", {}, DriverError("22021")), id="no UTF-8"),
        pytest.param(DBAPIError("", {}, DriverError(None)), id="no code"),
        pytest.param(FileNotFoundError(), id="no file"),
        pytest.param(ValueError(), id="another error"),
    ],
)
def test_query_error_does_not_mean_unavailable(error: Exception) -> None:
    assert not is_unavailable(error)


# Unavailable from the start


@pytest.fixture
async def unresponsive_port() -> AsyncIterator[int]:
    """Listen on a port that accepts connections and never responds."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
async def pool() -> AsyncIterator[None]:
    """Close all pooled connections before and after the test."""
    await engine.dispose()
    yield
    await engine.dispose()


@pytest.fixture(params=["connection refused", "no response"])
async def disconnected_client(
    request: pytest.FixtureRequest,
    unresponsive_port: int,
    pool: None,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[AsyncClient]:
    """Return a client of an app that cannot reach its database."""
    ports: dict[str, int] = {
        "connection refused": free_port(),
        "no response": unresponsive_port,
    }
    url = f"postgresql://ada:database-password@127.0.0.1:{ports[request.param]}/blog"
    monkeypatch.setattr(settings, "database_url", SecretStr(url))
    async with make_client() as client:
        yield client


async def timed(call: Any) -> tuple[Response, float]:
    """Return a response and its duration in seconds."""
    start = time.monotonic()
    response: Response = await call
    return response, time.monotonic() - start


CALLS: list[Callable[[AsyncClient], Any]] = [
    lambda client: client.get("/api/posts"),
    lambda client: client.get("/api/posts/1"),
    lambda client: client.get("/api/users"),
    lambda client: client.post(
        "/api/users",
        json={"username": "a", "email": "a@a.aa", "password": "correct horse"},
    ),
    lambda client: client.post(
        "/api/users/token", data={"username": "a@a.aa", "password": "correct horse"}
    ),
    lambda client: client.post("/api/users/forgot-password", json={"email": "a@a.aa"}),
]


async def test_api_returns_503_within_5_seconds(
    disconnected_client: AsyncClient,
) -> None:
    responses = await asyncio.gather(
        *(timed(call(disconnected_client)) for call in CALLS)
    )

    assert {
        (response.status_code, response.json()["detail"]) for response, _ in responses
    } == {(503, "Database unavailable")}
    assert all(int(response.headers["retry-after"]) > 0 for response, _ in responses)
    assert max(seconds for _, seconds in responses) < 5


async def test_page_returns_503_within_5_seconds(
    disconnected_client: AsyncClient,
) -> None:
    response, seconds = await timed(disconnected_client.get("/"))

    assert response.status_code == 503
    assert "Temporarily unavailable" in response.text
    assert int(response.headers["retry-after"]) > 0
    assert seconds < 5


async def test_health_returns_503_within_2_seconds(
    disconnected_client: AsyncClient,
) -> None:
    response, seconds = await timed(disconnected_client.get("/health"))

    assert response.status_code == 503
    assert response.json() == {"detail": "Database unavailable"}
    assert seconds < 2


async def test_page_without_data_still_works(disconnected_client: AsyncClient) -> None:
    response, seconds = await timed(disconnected_client.get("/login"))

    assert response.status_code == 200
    assert seconds < 1


@pytest.mark.parametrize("disconnected_client", ["connection refused"], indirect=True)
async def test_log_names_the_error_without_credentials(
    disconnected_client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await disconnected_client.get("/api/posts")

    assert "Database unavailable" in caplog.text
    assert "database-password" not in caplog.text


async def test_concurrent_requests_get_503_within_5_seconds(
    disconnected_client: AsyncClient,
) -> None:
    responses = await asyncio.gather(
        *(timed(disconnected_client.get("/api/posts")) for _ in range(60))
    )

    assert {response.status_code for response, _ in responses} == {503}
    assert max(seconds for _, seconds in responses) < 5


# Connections that break or hang


class DatabaseProxy:
    """A proxy between the app and its database that can stop responding."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.works = asyncio.Event()
        self.works.set()
        self.tasks: list[asyncio.Task[None]] = []

    async def connect(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Connect a client of the proxy to the database."""
        port = self.url.port or 5432
        folder = self.url.query.get("host")
        there = (
            asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{port}")
            if folder
            else asyncio.open_connection(self.url.host, port)
        )
        other_reader, other_writer = await there
        self.tasks += [
            asyncio.create_task(self.carry(reader, other_writer)),
            asyncio.create_task(self.carry(other_reader, writer)),
        ]

    async def carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Forward data while the proxy works."""
        try:
            with suppress(ConnectionError):
                while data := await reader.read(65_536):
                    await self.works.wait()
                    writer.write(data)
        finally:
            writer.close()

    async def cut(self) -> None:
        """Close all connections."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def proxy(
    pool: None, schema: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[DatabaseProxy]:
    """Route the app's database connections through a proxy."""
    assert settings.database_url is not None
    url = make_url(settings.database_url.get_secret_value())
    proxy = DatabaseProxy(url)
    server = await asyncio.start_server(proxy.connect, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = url.difference_update_query(["host"]).set(host="127.0.0.1", port=port)
    monkeypatch.setattr(
        settings,
        "database_url",
        SecretStr(url.render_as_string(hide_password=False)),
    )
    yield proxy
    proxy.works.set()
    await engine.dispose()
    server.close()
    await proxy.cut()


async def test_hanging_database_is_503_within_5_seconds(
    proxy: DatabaseProxy, concurrent_client: AsyncClient
) -> None:
    before = await concurrent_client.get("/api/posts")
    proxy.works.clear()

    response, seconds = await timed(concurrent_client.get("/api/posts"))
    proxy.works.set()

    assert (before.status_code, response.status_code) == (200, 503)
    assert seconds < 5


async def test_health_reports_hanging_database_within_2_seconds(
    proxy: DatabaseProxy, concurrent_client: AsyncClient
) -> None:
    before = await concurrent_client.get("/health")
    proxy.works.clear()

    response, seconds = await timed(concurrent_client.get("/health"))
    proxy.works.set()

    assert (before.status_code, response.status_code) == (200, 503)
    assert seconds < 2


async def test_app_recovers_when_database_responds_again(
    proxy: DatabaseProxy, concurrent_client: AsyncClient
) -> None:
    await concurrent_client.get("/api/posts")
    proxy.works.clear()
    away = await concurrent_client.get("/api/posts")
    proxy.works.set()

    back = await concurrent_client.get("/api/posts")

    assert (away.status_code, back.status_code) == (503, 200)


async def test_lost_connections_are_replaced_without_errors(
    concurrent_client: AsyncClient,
) -> None:
    ada = await sign_up(concurrent_client, "ada")
    assert settings.database_url is not None
    # Not over a pooled connection, which would survive.
    await execute(
        make_url(settings.database_url.get_secret_value()),
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )

    response = await concurrent_client.get("/api/users/me", headers=ada)

    assert response.status_code == 200


async def test_out_of_sync_driver_is_503(
    pool: None, concurrent_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This happens if the server announces a shutdown but keeps the connection open.
    await concurrent_client.get("/api/posts")

    async def fail(*_: Any, **__: Any) -> None:
        raise asyncpg.InternalClientError("unexpected state")

    with monkeypatch.context() as patch:
        patch.setattr(asyncpg.Connection, "fetchrow", fail)
        away = await concurrent_client.get("/api/posts")
    back = await concurrent_client.get("/api/posts")

    assert (away.status_code, back.status_code) == (503, 200)


async def test_forged_token_needs_no_database(
    disconnected_client: AsyncClient,
) -> None:
    response = await disconnected_client.get(
        "/api/users/me", headers=auth_header("forged")
    )

    assert response.status_code == 401


async def test_plan_invalidated_by_migration_is_unavailable(
    connection: AsyncConnection,
) -> None:
    query = text("SELECT * FROM changing")
    await connection.execute(text("CREATE TEMPORARY TABLE changing (name varchar(9))"))
    await connection.execute(query)
    await connection.execute(text("ALTER TABLE changing ALTER name TYPE varchar(99)"))

    with pytest.raises(DBAPIError) as caught:
        await connection.execute(query)

    assert is_unavailable(caught.value)

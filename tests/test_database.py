"""What queries share, and what happens while the database is away."""

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
    """No picture is stored here, and making a bucket takes a while."""


# Whose fault it is


class DriverError(Exception):
    """An error of the driver with a code of PostgreSQL."""

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
def test_database_is_at_fault(error: Exception) -> None:
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
def test_query_is_at_fault(error: Exception) -> None:
    assert not is_unavailable(error)


# While it is away


@pytest.fixture
async def silent_port() -> AsyncIterator[int]:
    """A port where connections are accepted and never answered."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
async def pool() -> AsyncIterator[None]:
    """No open connections, neither before the test nor after it."""
    await engine.dispose()
    yield
    await engine.dispose()


@pytest.fixture(params=["nobody listens", "nobody answers"])
async def lost_client(
    request: pytest.FixtureRequest,
    silent_port: int,
    pool: None,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[AsyncClient]:
    """A client of the application, whose database cannot be reached."""
    ports: dict[str, int] = {
        "nobody listens": free_port(),
        "nobody answers": silent_port,
    }
    url = f"postgresql://ada:database-password@127.0.0.1:{ports[request.param]}/blog"
    monkeypatch.setattr(settings, "database_url", SecretStr(url))
    async with make_client() as client:
        yield client


async def timed(call: Any) -> tuple[Response, float]:
    """An answer and after how many seconds it came."""
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


async def test_api_answers_503_within_5_seconds(lost_client: AsyncClient) -> None:
    answers = await asyncio.gather(*(timed(call(lost_client)) for call in CALLS))

    assert {
        (response.status_code, response.json()["detail"]) for response, _ in answers
    } == {(503, "Database unavailable")}
    assert all(int(response.headers["retry-after"]) > 0 for response, _ in answers)
    assert max(seconds for _, seconds in answers) < 5


async def test_page_answers_503_within_5_seconds(lost_client: AsyncClient) -> None:
    response, seconds = await timed(lost_client.get("/"))

    assert response.status_code == 503
    assert "Temporarily unavailable" in response.text
    assert int(response.headers["retry-after"]) > 0
    assert seconds < 5


async def test_health_answers_503_within_2_seconds(lost_client: AsyncClient) -> None:
    response, seconds = await timed(lost_client.get("/health"))

    assert response.status_code == 503
    assert response.json() == {"detail": "Database unavailable"}
    assert seconds < 2


async def test_page_without_data_still_works(lost_client: AsyncClient) -> None:
    response, seconds = await timed(lost_client.get("/login"))

    assert response.status_code == 200
    assert seconds < 1


@pytest.mark.parametrize("lost_client", ["nobody listens"], indirect=True)
async def test_log_says_that_it_is_away_and_not_how_to_log_in(
    lost_client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await lost_client.get("/api/posts")

    assert "Database unavailable" in caplog.text
    assert "database-password" not in caplog.text


async def test_many_requests_at_once_are_all_answered_within_5_seconds(
    lost_client: AsyncClient,
) -> None:
    answers = await asyncio.gather(
        *(timed(lost_client.get("/api/posts")) for _ in range(60))
    )

    assert {response.status_code for response, _ in answers} == {503}
    assert max(seconds for _, seconds in answers) < 5


# When the wire to it is cut while connections are open


class Wire:
    """A server between the application and its database, which can fall silent."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.works = asyncio.Event()
        self.works.set()
        self.tasks: list[asyncio.Task[None]] = []

    async def connect(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Join a connection of the application to one of the database."""
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
        """Pass on what comes, as long as the wire works."""
        try:
            with suppress(ConnectionError):
                while data := await reader.read(65_536):
                    await self.works.wait()
                    writer.write(data)
        finally:
            writer.close()

    async def cut(self) -> None:
        """End all connections."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def wire(
    pool: None, schema: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Wire]:
    """The way of the application to its database."""
    assert settings.database_url is not None
    url = make_url(settings.database_url.get_secret_value())
    wire = Wire(url)
    server = await asyncio.start_server(wire.connect, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = url.difference_update_query(["host"]).set(host="127.0.0.1", port=port)
    monkeypatch.setattr(
        settings,
        "database_url",
        SecretStr(url.render_as_string(hide_password=False)),
    )
    yield wire
    wire.works.set()
    await engine.dispose()
    server.close()
    await wire.cut()


async def test_database_that_falls_silent_is_answered_within_5_seconds(
    wire: Wire, concurrent_client: AsyncClient
) -> None:
    before = await concurrent_client.get("/api/posts")
    wire.works.clear()

    response, seconds = await timed(concurrent_client.get("/api/posts"))
    wire.works.set()

    assert (before.status_code, response.status_code) == (200, 503)
    assert seconds < 5


async def test_health_of_a_database_that_falls_silent_is_told_within_2_seconds(
    wire: Wire, concurrent_client: AsyncClient
) -> None:
    before = await concurrent_client.get("/health")
    wire.works.clear()

    response, seconds = await timed(concurrent_client.get("/health"))
    wire.works.set()

    assert (before.status_code, response.status_code) == (200, 503)
    assert seconds < 2


async def test_all_is_well_again_when_the_database_speaks_again(
    wire: Wire, concurrent_client: AsyncClient
) -> None:
    await concurrent_client.get("/api/posts")
    wire.works.clear()
    away = await concurrent_client.get("/api/posts")
    wire.works.set()

    back = await concurrent_client.get("/api/posts")

    assert (away.status_code, back.status_code) == (503, 200)


async def test_lost_connections_are_replaced_without_an_error(
    concurrent_client: AsyncClient,
) -> None:
    ada = await sign_up(concurrent_client, "ada")
    assert settings.database_url is not None
    # Not over a connection of the pool, which would survive.
    await execute(
        make_url(settings.database_url.get_secret_value()),
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )

    response = await concurrent_client.get("/api/users/me", headers=ada)

    assert response.status_code == 200


async def test_driver_that_is_out_of_step_gives_503(
    pool: None, concurrent_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is when the server says that it shuts down, and has not closed the connection.
    await concurrent_client.get("/api/posts")

    async def fail(*_: Any, **__: Any) -> None:
        raise asyncpg.InternalClientError("unexpected state")

    with monkeypatch.context() as patch:
        patch.setattr(asyncpg.Connection, "fetchrow", fail)
        away = await concurrent_client.get("/api/posts")
    back = await concurrent_client.get("/api/posts")

    assert (away.status_code, back.status_code) == (503, 200)


async def test_token_of_nobody_known_asks_no_database(
    lost_client: AsyncClient,
) -> None:
    response = await lost_client.get("/api/users/me", headers=auth_header("forged"))

    assert response.status_code == 401


async def test_plan_that_a_migration_made_invalid_is_no_bug(
    connection: AsyncConnection,
) -> None:
    query = text("SELECT * FROM changing")
    await connection.execute(text("CREATE TEMPORARY TABLE changing (name varchar(9))"))
    await connection.execute(query)
    await connection.execute(text("ALTER TABLE changing ALTER name TYPE varchar(99)"))

    with pytest.raises(DBAPIError) as caught:
        await connection.execute(query)

    assert is_unavailable(caught.value)

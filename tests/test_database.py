"""Connections, and an unavailable database."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress

import asyncpg
import pytest
from httpx import AsyncClient
from pydantic import SecretStr
from sqlalchemy import URL, exc, func, select, text

import database
from config import settings
from database import AsyncSessionLocal, DatabaseUnavailable, engine, is_unavailable
from tests.conftest import (
    PASSWORD,
    REQUEST_ID,
    auth_header,
    database_url,
    make_client,
    sign_up,
)
from tests.databases import execute, free_port

LOGIN = {"username": "ada@example.com", "password": PASSWORD}


class DriverError(Exception):
    """A driver error with a PostgreSQL error code."""

    def __init__(self, sqlstate: str | None = None) -> None:
        super().__init__("")
        self.sqlstate = sqlstate


class TestIsUnavailable:
    @pytest.mark.parametrize(
        "error",
        [
            DatabaseUnavailable(),
            ConnectionRefusedError(),
            TimeoutError(),
            socket.gaierror(),
            exc.TimeoutError(),
            exc.InterfaceError("", {}, DriverError()),
            exc.InternalError("", {}, DriverError()),
            exc.OperationalError("", {}, DriverError()),
            exc.DBAPIError("", {}, DriverError(), connection_invalidated=True),
        ],
        ids=repr,
    )
    def test_connection_error(self, error):
        assert is_unavailable(error)

    @pytest.mark.parametrize(
        "state", ["08006", "40P01", "53300", "55P03", "57014", "58030", "25P03"]
    )
    def test_temporary_state(self, state):
        assert is_unavailable(exc.DBAPIError("", {}, DriverError(state)))

    @pytest.mark.parametrize(
        "error",
        [
            exc.IntegrityError("", {}, DriverError("23505")),
            exc.DBAPIError("", {}, DriverError("22021")),
            exc.DBAPIError("", {}, DriverError()),
            FileNotFoundError(),
        ],
        ids=repr,
    )
    def test_other_error(self, error):
        assert not is_unavailable(error)

    async def test_plan_invalidated_by_migration(self, connection):
        query = text("SELECT * FROM changing")
        await connection.execute(text("CREATE TEMP TABLE changing (name varchar(9))"))
        await connection.execute(query)
        await connection.execute(text("ALTER TABLE changing ALTER name TYPE text"))

        with pytest.raises(exc.DBAPIError) as raised:
            await connection.execute(query)

        assert is_unavailable(raised.value)


async def test_errors_contain_no_rows(db):
    insert = text("INSERT INTO users (username, email) VALUES (:name, :name)")

    with pytest.raises(exc.IntegrityError) as raised:
        await db.execute(insert, {"name": "ada"})

    assert "null value in column" in str(raised.value)
    assert "ada" not in str(raised.value)


class TestConnect:
    @pytest.mark.parametrize(
        ("for_requests", "timeouts"),
        [(True, ("2s", "2s", "10s")), (False, ("0", "0", "0"))],
    )
    async def test_timeouts(self, for_requests, timeouts):
        connection = await database.connect(for_requests=for_requests)

        statement = await connection.fetchval("SHOW statement_timeout")
        lock = await connection.fetchval("SHOW lock_timeout")
        idle = await connection.fetchval("SHOW idle_in_transaction_session_timeout")
        await connection.close()

        assert (statement, lock, idle) == timeouts

    @pytest.mark.parametrize(
        ("query", "checks_hostname"),
        [("verify-full", True), ("verify-ca&sslrootcert=system", False)],
    )
    async def test_certificate_is_verified(self, monkeypatch, query, checks_hostname):
        url = SecretStr(f"postgresql://db.example.com/blog?sslmode={query}")
        monkeypatch.setattr(settings, "database_url", url)

        target = await database.connection_target(for_requests=True)

        assert target["ssl"].verify_mode == ssl.CERT_REQUIRED
        assert target["ssl"].check_hostname == checks_hostname

    @pytest.mark.parametrize("query", ["require", "verify-full&sslrootcert=/ca.pem"])
    async def test_driver_handles_other_modes(self, monkeypatch, query):
        url = SecretStr(f"postgresql://db.example.com/blog?sslmode={query}")
        monkeypatch.setattr(settings, "database_url", url)

        target = await database.connection_target(for_requests=True)

        assert target.keys() == {"dsn"}

    async def test_pooler_without_direct_url(self, monkeypatch):
        monkeypatch.setattr(settings, "database_pool_mode", "transaction")
        monkeypatch.setattr(database, "is_pooled", True)

        with pytest.raises(DatabaseUnavailable, match="DATABASE_DIRECT_URL is missing"):
            await database.connect(for_requests=False)

        # PgBouncer would reject any other setting.
        sent = database.server_settings(for_requests=True)
        assert sent.keys() == {"application_name"}


async def test_connection_is_returned_before_response(concurrent_client, monkeypatch):
    statuses: list[str] = []

    def record(_body: bytes) -> str:
        statuses.append(engine.pool.status())
        return '""'

    # The ETag is computed just before the response starts.
    monkeypatch.setattr("middleware.etags.etag_of", record)

    await concurrent_client.get("/sitemap.xml")

    [status] = statuses
    assert "Current Checked out connections: 0" in status


@pytest.fixture
async def pool() -> AsyncIterator[None]:
    """Close all connections before and after the test."""
    await engine.dispose()
    yield
    await engine.dispose()


@pytest.fixture(params=["refused", "hanging"])
async def disconnected(
    request: pytest.FixtureRequest, pool: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[AsyncClient]:
    """Return a client for an app that can't connect to its database."""
    # This server accepts connections but never responds.
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    hanging_port = server.sockets[0].getsockname()[1]
    port = hanging_port if request.param == "hanging" else free_port()
    url = f"postgresql://ada:database-password@127.0.0.1:{port}/blog"
    monkeypatch.setattr(settings, "database_url", SecretStr(url))
    monkeypatch.setattr(database, "CONNECT_TIMEOUT", 0.5)
    async with make_client() as client, asyncio.timeout(30):
        yield client
    server.close()


class TestDisconnected:
    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", "/api/posts"), ("GET", "/health"), ("POST", "/api/users/token")],
    )
    async def test_api(self, disconnected, method, path):
        response = await disconnected.request(method, path, data=LOGIN)

        assert response.status_code == 503
        assert response.json() == {
            "detail": "Database unavailable",
            "request_id": REQUEST_ID,
        }
        assert int(response.headers["retry-after"]) > 0

    async def test_page(self, disconnected, caplog):
        response = await disconnected.get("/")

        assert response.status_code == 503
        assert "Temporarily unavailable" in response.text
        assert int(response.headers["retry-after"]) > 0
        assert "Database unavailable" in caplog.text
        assert "database-password" not in caplog.text

    @pytest.mark.parametrize(
        ("path", "status"), [("/login", 200), ("/api/users/me", 401)]
    )
    async def test_database_is_not_needed(self, disconnected, path, status):
        response = await disconnected.get(path, headers=auth_header("forged"))

        assert response.status_code == status

    @pytest.mark.parametrize("disconnected", ["hanging"], indirect=True)
    async def test_health_does_not_wait_for_database(self, disconnected, monkeypatch):
        monkeypatch.setattr(database, "CONNECT_TIMEOUT", 300)

        response = await disconnected.get("/health")

        assert response.status_code == 503


class Proxy:
    """A proxy to the database, which forwards nothing while `works` is cleared."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.works = asyncio.Event()
        self.works.set()

    async def connect(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        port = self.url.port or 5432
        if directory := self.url.query.get("host"):
            server = asyncio.open_unix_connection(f"{directory}/.s.PGSQL.{port}")
        else:
            server = asyncio.open_connection(self.url.host, port)
        server_reader, server_writer = await server
        await asyncio.gather(
            self.forward(reader, server_writer), self.forward(server_reader, writer)
        )

    async def forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65_536):
            await self.works.wait()
            writer.write(data)
        writer.close()


@pytest.fixture
async def proxy(
    pool: None, concurrent_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Proxy]:
    """Connect the app to its database through a proxy."""
    proxy = Proxy(database_url())
    server = await asyncio.start_server(proxy.connect, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = proxy.url.difference_update_query(["host"]).set(host="127.0.0.1", port=port)
    secret = SecretStr(url.render_as_string(hide_password=False))
    with monkeypatch.context() as patch:
        patch.setattr(settings, "database_url", secret)
        await concurrent_client.get("/api/posts")
        yield proxy
    proxy.works.set()
    await engine.dispose()
    server.close()


class TestInterruption:
    async def test_hanging_database(self, proxy, concurrent_client):
        never_again = proxy.works
        never_again.clear()

        async with asyncio.timeout(30):
            hanging = await concurrent_client.get("/api/posts")
        # Only new connections work, as after a failover.
        proxy.works = asyncio.Event()
        proxy.works.set()
        recovered = await concurrent_client.get("/api/posts")

        assert (hanging.status_code, recovered.status_code) == (503, 200)
        never_again.set()

    async def test_lost_connections_are_replaced(self, concurrent_client):
        ada = await sign_up(concurrent_client, "ada")
        # Don't use a pooled connection, because it would not terminate itself.
        await execute(
            database_url(),
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )

        response = await concurrent_client.get("/api/users/me", headers=ada)

        assert response.status_code == 200

    @pytest.mark.parametrize(
        ("method", "path", "statuses"),
        [("POST", "/api/posts", [503, 201]), ("GET", "/health", [503, 200])],
    )
    async def test_read_only_connection_is_replaced(
        self, pool, concurrent_client, method, path, statuses
    ):
        ada = await sign_up(concurrent_client, "ada")
        # This leaves a read-only connection in the pool, as after a failover.
        async with AsyncSessionLocal() as session:
            await session.execute(text("SET default_transaction_read_only = on"))
            await session.commit()
        request = {"json": {"content": "Text"}, "headers": ada}

        responses = [
            await concurrent_client.request(method, path, **request) for _ in range(2)
        ]

        assert [response.status_code for response in responses] == statuses

    async def test_canceled_query_closes_connection(self, pool, concurrent_client):
        async with AsyncSessionLocal() as session:
            sleep = database.fetch(session, select(func.pg_sleep(60)), {})
            with suppress(TimeoutError):
                await asyncio.wait_for(sleep, 0.1)

            assert database.connections_in_use() == 0
            assert await session.scalar(text("SELECT count(*) FROM users")) == 0

    async def test_driver_is_out_of_sync(self, concurrent_client, monkeypatch):
        # This happens if the server announces a shutdown but keeps the connection open.
        ada = await sign_up(concurrent_client, "ada")

        async def fail(*_):
            raise asyncpg.InternalClientError("unexpected state")

        with monkeypatch.context() as patch:
            patch.setattr(asyncpg.prepared_stmt.PreparedStatement, "fetch", fail)
            patch.setattr(asyncpg.Connection, "fetch", fail)
            interrupted = [
                await concurrent_client.get("/api/posts"),
                await concurrent_client.get("/api/users/me", headers=ada),
            ]
        recovered = await concurrent_client.get("/api/posts")

        assert [response.status_code for response in interrupted] == [503, 503]
        assert recovered.status_code == 200

    async def test_public_read_is_retried(self, concurrent_client, monkeypatch):
        fetch = asyncpg.Connection.fetch
        failures = [asyncpg.ConnectionDoesNotExistError("lost")]

        async def fail_once(*arguments):
            if failures:
                raise failures.pop()
            return await fetch(*arguments)

        monkeypatch.setattr(asyncpg.Connection, "fetch", fail_once)
        response = await concurrent_client.get("/api/posts")

        assert response.status_code == 200
        assert failures == []

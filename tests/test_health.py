"""Health checks."""

from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from database_state import migrations
from tests.conftest import REQUEST_ID

HEAD = str(migrations().get_current_head())
UNAVAILABLE = {"detail": "Database unavailable", "request_id": REQUEST_ID}

SetRevision = Callable[[str], Awaitable[None]]


@pytest.fixture
async def set_revision(db: AsyncSession) -> SetRevision:
    """Return a function that changes the stored schema revision."""
    await db.execute(text("CREATE TABLE alembic_version (version_num text)"))

    async def store(revision: str) -> None:
        insert = text("INSERT INTO alembic_version VALUES (:revision)")
        await db.execute(insert, {"revision": revision})
        await db.commit()

    return store


class TestHealth:
    async def test_healthy(self, client):
        response = await client.get("/health")

        assert (response.status_code, response.json()) == (200, {"status": "healthy"})
        assert response.headers["cache-control"] == "no-store"

    @pytest.mark.parametrize("revision", [HEAD, "a newer one"])
    async def test_current_schema(self, client, set_revision, revision):
        await set_revision(revision)

        response = await client.get("/health")

        assert response.status_code == 200

    async def test_older_schema(self, client, set_revision, caplog):
        await set_revision("0001")

        response = await client.get("/health")

        assert (response.status_code, response.json()) == (503, UNAVAILABLE)
        assert caplog.messages == [
            "Database unavailable: the schema is at revision 0001, and the code needs "
            f"{HEAD}; run: alembic upgrade head"
        ]

    @pytest.mark.parametrize(
        ("statement", "cause"),
        [
            ("ALTER TABLE posts DROP likes", "the schema is at revision none"),
            ("DROP TABLE users CASCADE", "the schema is at revision none"),
            ("CREATE TABLE alembic_version (version_num text)", None),
            ("SET TRANSACTION READ ONLY", "the server is read-only"),
        ],
        ids=["column", "table", "empty version", "read-only"],
    )
    async def test_state(self, client, connection, caplog, statement, cause):
        await connection.execute(text(statement))

        response = await client.get("/health")

        assert response.status_code == (503 if cause else 200)
        assert (cause or "") in caplog.text


class TestLiveness:
    async def test_needs_no_database(self, client, monkeypatch):
        monkeypatch.delattr("routers.health.read_database_state")

        response = await client.get("/health/live")

        assert (response.status_code, response.json()) == (200, {"status": "alive"})
        assert response.headers["x-client-ip"] == "127.0.0.1"
        assert response.headers["cache-control"] == "no-store"

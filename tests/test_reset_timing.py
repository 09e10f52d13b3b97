"""A password reset takes as much work for unknown email addresses as for known ones."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP
from httpx import AsyncClient

from config import settings
from tests.conftest import capture_queries, create_test_user
from tests.server import outbox


class Server(SMTP):
    """An SMTP server that records some commands."""

    commands: list[str]

    async def smtp_NOOP(self, arg: str) -> None:  # noqa: N802 -- aiosmtpd's name
        self.commands.append("NOOP")
        await super().smtp_NOOP(arg)

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802 -- aiosmtpd's name
        self.commands.append("DATA")
        await super().smtp_DATA(arg)


@pytest.fixture
async def commands(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """Run an SMTP server; return the commands that it has received."""
    Server.commands = []
    server = await asyncio.get_running_loop().create_server(
        lambda: Server(object()), "127.0.0.1", 0
    )
    monkeypatch.setattr(settings, "mail_server", "127.0.0.1")
    monkeypatch.setattr(settings, "mail_port", server.sockets[0].getsockname()[1])
    yield Server.commands
    server.close()


async def request_reset(client: AsyncClient, email: str) -> None:
    response = await client.post("/api/users/forgot-password", json={"email": email})
    assert response.status_code == 202


async def test_same_statements(client: AsyncClient) -> None:
    await create_test_user(client, email="ada@example.com")

    with capture_queries() as for_known:
        await request_reset(client, "ada@example.com")
    with capture_queries() as for_unknown:
        await request_reset(client, "eve@example.com")

    assert for_unknown == for_known


async def test_connection_without_email(
    client: AsyncClient, commands: list[str]
) -> None:
    await create_test_user(client, email="ada@example.com")

    await request_reset(client, "ada@example.com")
    await request_reset(client, "eve@example.com")

    assert commands == ["DATA", "NOOP"]


async def test_nothing_stays_in_outbox(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(settings, "var_dir", tmp_path)

    await request_reset(client, "eve@example.com")

    assert outbox(tmp_path) == []
    assert list((tmp_path / "outbox").iterdir()) == []

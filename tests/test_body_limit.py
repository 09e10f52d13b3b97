"""Limits on the size of request bodies, and on the time they take to arrive."""

import asyncio
import json
from collections.abc import AsyncIterator
from unittest.mock import AsyncMock, Mock, call

import pytest
from starlette.types import Receive, Scope, Send

from middleware.body_limit import BodyLimitMiddleware
from tests.conftest import CountingBody

MIB = 1024 * 1024
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}


class TestSize:
    @pytest.mark.parametrize(("size", "status"), [(MIB, 201), (MIB + 1, 413)])
    async def test_complete_body(self, client, size, status):
        user = {"username": "ada", "email": "ada@example.com", "password": "12345678"}
        body = json.dumps(user).encode().ljust(size)

        response = await client.post("/api/users", content=body, headers=JSON)

        assert response.status_code == status

    # The last length has more digits than Python parses.
    @pytest.mark.parametrize(
        ("path", "headers", "max_read"),
        [
            ("/api/users", JSON, MIB + 4096),
            ("/api/users/token", FORM, MIB + 4096),
            ("/api/users", JSON | {"Content-Length": str(20 * MIB)}, 0),
            ("/api/users", JSON | {"Content-Length": "9" * 5000}, 0),
        ],
        ids=["streamed", "streamed form", "declared", "many digits"],
    )
    async def test_large_body(self, client, path, headers, max_read):
        body = CountingBody(20 * MIB)

        response = await client.post(path, content=body, headers=headers)

        assert response.status_code == 413
        assert response.json() == {"detail": "Request body too large"}
        assert body.read_bytes <= max_read

    @pytest.mark.parametrize(
        ("method", "path", "status"), [("POST", "/login", 405), ("GET", "/", 200)]
    )
    async def test_unneeded_body(self, client, method, path, status):
        body = CountingBody(20 * MIB)

        response = await client.request(method, path, content=body)

        assert response.status_code == status
        assert body.read_bytes <= 4096


class TestTimeout:
    @pytest.mark.parametrize(
        ("method", "path", "headers"),
        [
            ("POST", "/api/users/token", FORM),
            ("POST", "/api/users", JSON),
            ("PATCH", "/api/users/{}/picture", MULTIPART),
        ],
    )
    async def test_incomplete_body(
        self, client, ada, user_id, monkeypatch, method, path, headers
    ):
        async def incomplete() -> AsyncIterator[bytes]:
            yield b"--x\r\n"
            await asyncio.Event().wait()

        monkeypatch.setattr("middleware.body_limit.BODY_TIMEOUT_PER_MIB", 0.01)
        path, headers = path.format(user_id), ada | headers

        response = await client.request(
            method, path, content=incomplete(), headers=headers
        )

        assert response.status_code == 422
        [error] = response.json()["detail"]
        assert error["msg"] == "Timed out reading the request body"
        assert response.headers["connection"] == "close"

    @pytest.mark.parametrize(
        ("path", "seconds"),
        [("/api/users/token", 15), ("/api/users/1/picture", 75.9375)],
    )
    async def test_depends_on_allowed_size(self, monkeypatch, path, seconds):
        async def site(_scope: Scope, receive: Receive, _send: Send) -> None:
            await receive()
            await receive()

        timeout_at = Mock(side_effect=lambda _deadline: asyncio.timeout(None))
        monkeypatch.setattr("middleware.body_limit.asyncio.timeout_at", timeout_at)
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 100.0)
        scope = {"type": "http", "method": "POST", "path": path, "headers": []}
        receive = AsyncMock(return_value={"type": "http.request"})

        await BodyLimitMiddleware(site)(scope, receive, AsyncMock())

        # There is no timeout after the body, because only a disconnect can follow.
        assert timeout_at.call_args_list == [call(100 + seconds), call(None)]

"""The client IP behind trusted proxies."""

from typing import Any
from unittest.mock import AsyncMock

import pytest
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from main import app
from middleware.client_ip import ClientIPMiddleware

PEER = ("192.0.2.9", 50_000)


def http_scope(client: Any, *forwarded_for: bytes) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": "/login",
        "query_string": b"",
        "headers": [
            (b"host", b"testserver"),
            *((b"x-forwarded-for", value) for value in forwarded_for),
        ],
        "client": client,
    }


async def call(site: Any, scope: dict[str, Any]) -> None:
    await site(scope, AsyncMock(), AsyncMock())


class TestTrustedProxies:
    @pytest.mark.parametrize(
        ("hops", "forwarded_for", "client_ip"),
        [
            (0, [], "192.0.2.9"),
            (0, [b"192.0.2.1"], "192.0.2.9"),
            (1, [], "192.0.2.9"),
            (1, [b"192.0.2.1"], "192.0.2.1"),
            (1, [b"192.0.2.1:4711"], "192.0.2.1"),
            (1, [b"[2001:DB8::1]:4711"], "2001:db8::1"),
            (1, [b"2001:db8::1"], "2001:db8::1"),
            (1, [b"198.51.100.1, 192.0.2.1"], "192.0.2.1"),
            (1, [b"198.51.100.1", b"192.0.2.1"], "192.0.2.1"),
            (2, [b"198.51.100.1, 192.0.2.1, 10.0.0.1"], "192.0.2.1"),
            (2, [b"198.51.100.1"], "127.0.0.1"),
            (1, [b"198.51.100.1,"], "127.0.0.1"),
            (1, [b"unknown"], "127.0.0.1"),
            (1, [b"["], "127.0.0.1"),
        ],
    )
    async def test_report_client_ip(
        self, hops: int, forwarded_for: list[bytes], client_ip: str
    ) -> None:
        scope = http_scope(PEER, *forwarded_for)

        await call(ClientIPMiddleware(AsyncMock(), hops), scope)

        assert scope["client"][0] == client_ip

    async def test_client_ip_is_in_access_log(self) -> None:
        # uvicorn logs from this scope. It has read the header's first entry, which the
        # client controls.
        scope = http_scope(("203.0.113.66", 0), b"203.0.113.66, 192.0.2.1")

        await call(app, scope)

        assert scope["client"] == ("192.0.2.1", 0)


class TestNoTrustedProxy:
    @pytest.mark.parametrize("trusted", ["127.0.0.1", "*"])
    @pytest.mark.parametrize(
        "forged",
        [
            b"192.0.2.1",
            b"192.0.2.1:4711",
            b"192.0.2.1: 4_711",
            b"192.0.2.1:x",
            b"192.0.2.1, 127.0.0.1",
            b"[2001:db8::1]:4711",
            b"[2001:db8::1",
            b"somewhere",
        ],
    )
    async def test_header_is_ignored(self, forged: bytes, trusted: str) -> None:
        scope = http_scope(("127.0.0.1", 50_000), forged)
        site: Any = ClientIPMiddleware(AsyncMock(), hops=0)

        # uvicorn starts every app like this by default.
        await call(ProxyHeadersMiddleware(site, trusted_hosts=trusted), scope)

        assert scope["client"][0] == "127.0.0.1"

    @pytest.mark.parametrize(
        ("peer", "client"),
        [(PEER, PEER), (None, ("127.0.0.1", 0))],
        ids=["own IP in header", "Unix socket"],
    )
    async def test_peer_is_client(
        self, peer: tuple[str, int] | None, client: tuple[str, int]
    ) -> None:
        scope = http_scope(peer, b"192.0.2.9")

        await call(ClientIPMiddleware(AsyncMock(), hops=0), scope)

        assert scope["client"] == client

"""The client IP behind trusted proxies."""

from typing import Any
from unittest.mock import AsyncMock

import pytest
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from main import app
from middleware.client_ip import ClientIPMiddleware

PEER = ("192.0.2.9", 50_000)


async def seen_client(site: Any, client: Any, *forwarded_for: bytes) -> Any:
    """Return the client that the app sees when this client sends these headers."""
    headers = [(b"x-forwarded-for", value) for value in forwarded_for]
    scope = {"type": "http", "method": "GET", "path": "/login", "query_string": b""}
    scope |= {"headers": [(b"host", b"blog"), *headers], "client": client}
    await site(scope, AsyncMock(), AsyncMock())
    return scope["client"]


@pytest.mark.parametrize(
    ("ip", "warnings"),
    [
        (b"10.1.2.3", 1),
        (b"100.64.0.1", 1),
        (b"fd00::1", 1),
        (b"8.8.8.8", 0),
        (b"::1", 0),
    ],
)
async def test_private_ip_is_logged_once(caplog, ip, warnings):
    site = ClientIPMiddleware(AsyncMock(), 1, may_warn=True)

    for _ in range(2):
        await seen_client(site, PEER, ip)

    assert len(caplog.messages) == warnings


class TestTrustedProxies:
    @pytest.mark.parametrize(
        ("hops", "forwarded_for", "client_ip"),
        [
            (0, [b"192.0.2.1"], "192.0.2.9"),
            (1, [], "192.0.2.9"),
            (1, [b"192.0.2.1:4711"], "192.0.2.1"),
            (1, [b"[2001:DB8::1]:4711"], "2001:db8::1"),
            (1, [b"2001:db8::1"], "2001:db8::1"),
            (1, [b"198.51.100.1, 192.0.2.1"], "192.0.2.1"),
            (1, [b"198.51.100.1", b"192.0.2.1"], "192.0.2.1"),
            (2, [b"198.51.100.1, 192.0.2.1, 10.0.0.1"], "192.0.2.1"),
            (2, [b"198.51.100.1"], "127.0.0.1"),
            (1, [b"198.51.100.1,"], "127.0.0.1"),
            (1, [b"["], "127.0.0.1"),
        ],
    )
    async def test_report_client_ip(self, hops, forwarded_for, client_ip):
        site = ClientIPMiddleware(AsyncMock(), hops)

        client = await seen_client(site, PEER, *forwarded_for)

        assert client[0] == client_ip

    async def test_client_ip_is_logged(self):
        # uvicorn sets the client to the header's first entry, which clients control.
        # The app must replace it, because it logs the client in this scope.
        header = b"203.0.113.66, 192.0.2.1"

        client = await seen_client(app, ("203.0.113.66", 0), header)

        assert client == ("192.0.2.1", 0)


class TestNoTrustedProxy:
    @pytest.mark.parametrize("trusted", ["127.0.0.1", "*"])
    @pytest.mark.parametrize(
        "forged",
        [
            b"192.0.2.1",
            b"192.0.2.1: 4_711",
            b"192.0.2.1:x",
            b"192.0.2.1, 127.0.0.1",
            b"[2001:db8::1]:4711",
            b"somewhere",
        ],
    )
    async def test_header_is_ignored(self, forged, trusted):
        site: Any = ClientIPMiddleware(AsyncMock(), hops=0)
        # By default, uvicorn adds this middleware to every app.
        site = ProxyHeadersMiddleware(site, trusted_hosts=trusted)

        client = await seen_client(site, ("127.0.0.1", 50_000), forged)

        assert client[0] == "127.0.0.1"

    @pytest.mark.parametrize(
        ("peer", "client"),
        [(PEER, PEER), (None, ("127.0.0.1", 0))],
        ids=["own IP in header", "Unix socket"],
    )
    async def test_peer_is_client(self, peer, client):
        site = ClientIPMiddleware(AsyncMock(), hops=0)

        assert await seen_client(site, peer, b"192.0.2.9") == client

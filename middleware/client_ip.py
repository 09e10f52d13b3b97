"""The client IP, as the trusted proxies report it."""

import ipaddress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

# Clients whose IP is unknown count together, as this machine.
UNKNOWN_IP = "127.0.0.1"


class ClientIPMiddleware:
    """Set `scope["client"]` to the client IP that the trusted proxies report.

    Each proxy appends the IP that it received the request from to `X-Forwarded-For`;
    what comes before the entries of the trusted proxies is written by the client.
    """

    def __init__(self, app: ASGIApp, hops: int) -> None:
        self.app = app
        self.hops = hops

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            peer = scope.get("client") or (UNKNOWN_IP, 0)
            ip = self._client_ip(peer[0], Headers(scope=scope))
            # In the server's own dict, which the access log is written from.
            scope["client"] = peer if ip == peer[0] else (ip, 0)
        await self.app(scope, receive, send)

    def _client_ip(self, peer: str, headers: Headers) -> str:
        forwarded = ",".join(headers.getlist("x-forwarded-for"))
        if self.hops == 0:
            # By default, uvicorn believes the header if the peer is 127.0.0.1, and
            # sets the client to one of its entries.
            return UNKNOWN_IP if peer in forwarded else peer
        if "x-forwarded-for" not in headers:
            return peer
        entries = forwarded.split(",")
        return (
            parse_ip(entries[-self.hops]) if self.hops <= len(entries) else UNKNOWN_IP
        )


def parse_ip(entry: str) -> str:
    """Return the IP in an entry of `X-Forwarded-For`, without port and brackets."""
    host = entry.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return UNKNOWN_IP

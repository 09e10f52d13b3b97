"""The client IP behind trusted proxies."""

import ipaddress
import logging
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from config import HEALTH_PATHS

# All clients whose IP is unknown share one rate limit.
UNKNOWN_IP = "127.0.0.1"

logger = logging.getLogger(__name__)


class ClientIPMiddleware:
    """Set `scope["client"]` to the client IP that the trusted proxies report.

    Each proxy appends the IP of its peer to `X-Forwarded-For`. Clients can forge all
    entries before those of the trusted proxies.
    """

    def __init__(self, app: ASGIApp, hops: int, *, may_warn: bool = False) -> None:
        """Configure the middleware.

        Args:
            app: The next ASGI app.
            hops: Number of trusted proxies in front of the app.
            may_warn: Whether to log a warning for the first private client IP.
        """
        self.app = app
        self.hops = hops
        self.may_warn = may_warn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            peer = scope.get("client") or (UNKNOWN_IP, 0)
            forwarded = [v for n, v in scope["headers"] if n == b"x-forwarded-for"]
            ip = peer[0]
            if forwarded:
                ip = self._client_ip(peer[0], peer[1], b",".join(forwarded))
            scope["client"] = peer if ip == peer[0] else (ip, 0)
            # Health checks come directly from load balancers, which have private IPs.
            if self.may_warn and scope["path"] not in HEALTH_PATHS and is_private(ip):
                self.may_warn = False
                logger.warning("Is TRUSTED_PROXY_HOPS too low? A client IP is %s", ip)
        await self.app(scope, receive, send)

    def _client_ip(self, peer: str, port: int, forwarded: bytes) -> str:
        entries = [entry.strip() for entry in forwarded.decode("latin-1").split(",")]
        if self.hops == 0:
            # By default, uvicorn trusts the header if the peer is 127.0.0.1. It then
            # sets the client to one of the entries, with port 0 if the entry has none.
            is_forged = any(
                peer in entry and port in {0, port_of(entry)} for entry in entries
            )
            return UNKNOWN_IP if is_forged else peer
        if self.hops > len(entries):
            return UNKNOWN_IP
        return parse_ip(entries[-self.hops])


@lru_cache(maxsize=1000)
def is_private(ip: str) -> bool:
    """Return whether an IP is neither reachable from the internet nor loopback."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    return not (address.is_global or address.is_loopback)


def port_of(entry: str) -> int | None:
    """Return the port in an entry of `X-Forwarded-For`, as uvicorn reads it."""
    try:
        return int(entry.rpartition(":")[2])
    except ValueError:
        return None


def parse_ip(entry: str) -> str:
    """Return the IP in an entry of `X-Forwarded-For`, without the port or brackets."""
    host = entry
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return UNKNOWN_IP

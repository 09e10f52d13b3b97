"""Rate limiting by client IP, account and user.

After too many failed logins, further attempts get a 429, even with the correct
password, until the time in `Retry-After` has passed. The limits are in `config.py`.
"""

import asyncio
import hashlib
import ipaddress
import json
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, TypeVar, cast

from fastapi import HTTPException
from limits import RateLimitItem, errors, parse
from limits.aio.storage import RedisStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter as Limiter

from config import settings
from counters import RATE_LIMITED, counts
from exceptions import TOO_MANY_ATTEMPTS
from logs import Outage

Result = TypeVar("Result")

redis_outage = Outage("Redis")

# This many keys take about 15 MB of memory in each store.
MAX_KEYS = 50_000
REDIS_TIMEOUT = 0.25
# Number of seconds to count in memory before trying Redis again.
REDIS_RETRY_DELAY = 5.0
# A login uses up this limit. The client is trusted until the limit is reset.
TRUSTED_RATE = "1/30 days"
# The smallest network that a provider assigns to a customer (RFC 6177).
IPV6_PREFIX = 64
# An invalid option in REDIS_URL raises TypeError or ValueError.
REDIS_ERRORS = (errors.StorageError, OSError, TimeoutError, TypeError, ValueError)


@dataclass(frozen=True)
class RateLimit:
    """A rate such as `10/5 minutes`, and the identifiers to count by."""

    rate: str
    identifiers: tuple[str, ...]

    @property
    def counter(self) -> tuple[RateLimitItem, str]:
        """The parsed rate, and a fixed-length key that doesn't reveal identifiers."""
        key = hashlib.sha256(json.dumps(self.identifiers).encode()).hexdigest()
        return _parse(self.rate), key[:32]


_parse = cache(parse)


# Client IP


@lru_cache(maxsize=10_000)
def client_network(ip: str) -> str:
    """Return the network that identifies a client: its IPv4 address or IPv6 /64."""
    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return ip
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))


# Storage


class LRUMemoryStorage(Storage):
    """Counters in memory. The least recently used ones are evicted.

    The `MemoryStorage` of `limits` is unbounded, and scans all keys on every hit.
    """

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        super().__init__()
        self.max_keys = max_keys
        self.counters: OrderedDict[str, tuple[int, float]] = OrderedDict()

    @property
    def base_exceptions(self) -> type[Exception]:
        return errors.StorageError

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        now = time.time()
        count, expires_at = self.counters.pop(key, (0, 0.0))
        if expires_at <= now:
            count, expires_at = 0, now + expiry
        count += amount
        if count > 0:
            self.counters[key] = (count, expires_at)
        if len(self.counters) > self.max_keys:
            self.counters.popitem(last=False)
        return count

    async def get(self, key: str) -> int:
        count, expires_at = self.counters.get(key, (0, 0.0))
        return count if expires_at > time.time() else 0

    async def get_expiry(self, key: str) -> float:
        return self.counters.get(key, (0, time.time()))[1]

    async def check(self) -> bool:
        return True

    async def reset(self) -> None:
        self.counters.clear()

    async def clear(self, key: str) -> None:
        self.counters.pop(key, None)


class FallbackStorage:
    """Redis if `REDIS_URL` is set and Redis is available, otherwise memory."""

    def __init__(self) -> None:
        self.memory = Limiter(LRUMemoryStorage())
        self.retry_at = 0.0

    async def run(
        self,
        operation: Callable[..., Awaitable[Result]],
        limit: RateLimit,
        **options: int,
    ) -> Result:
        """Run an operation on Redis, or in memory while Redis is unavailable."""
        url = settings.redis_url
        may_ask = settings.rate_limit_enabled and time.monotonic() >= self.retry_at
        if url is not None and may_ask:
            try:
                # An operation can take several round trips, so limit their total time.
                async with asyncio.timeout(2 * REDIS_TIMEOUT):
                    limiter = _redis(url.get_secret_value())
                    result = await operation(limiter, *limit.counter, **options)
            except REDIS_ERRORS as exc:
                self.retry_at = time.monotonic() + REDIS_RETRY_DELAY
                cause = type(exc.__cause__ or exc).__name__
                redis_outage.report(f"{cause}; counting in memory")
            else:
                redis_outage.end()
                return result
        return await operation(self.memory, *limit.counter, **options)


@cache
def _redis(url: str) -> Limiter:
    # Imported on first use, because most blogs don't use Redis.
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    storage = RedisStorage(
        url,
        wrap_exceptions=True,
        implementation="redispy",
        socket_timeout=REDIS_TIMEOUT,
        socket_connect_timeout=REDIS_TIMEOUT,
        # Don't retry, because counting in memory is better than waiting. The annotation
        # doesn't cover options of the Redis client, hence the cast.
        retry=cast("Any", Retry(NoBackoff(), 0)),
    )
    return Limiter(storage)


_counters = FallbackStorage()
# A separate store, so that a flood of attempts doesn't evict trusted clients.
_trusted_clients = FallbackStorage()


# Counting


def too_many_attempts(seconds: float) -> HTTPException:
    """Return a 429 that tells the client when to try again."""
    counts[RATE_LIMITED] += 1
    return TOO_MANY_ATTEMPTS.exception(Retry_After=str(max(1, math.ceil(seconds))))


_requests = LRUMemoryStorage()


async def count_request(network: str) -> None:
    """Count a request in this process, and raise a 429 if it exceeds the limit."""
    limit = _parse(settings.rate_limit_default)
    if await _requests.incr(network, limit.get_expiry()) > limit.amount:
        seconds = await _requests.get_expiry(network) - time.time()
        raise too_many_attempts(seconds)


async def hit(*limits: RateLimit) -> None:
    """Count an event, or raise a 429 without counting it if it exceeds a limit."""
    for position, limit in enumerate(limits, 1):
        if not await _add(limit, 1):
            await _refund(*limits[:position])
            raise too_many_attempts(await _seconds_left(limit))


@asynccontextmanager
async def attempt(*limits: RateLimit) -> AsyncIterator[Callable[[], None]]:
    """Count an attempt before it starts, and stop counting it when it ends.

    This also limits concurrent attempts. Yields a function to call if the attempt
    should still count after it ends.
    """
    await hit(*limits)
    to_refund = list(limits)
    try:
        yield to_refund.clear
    finally:
        await _refund(*to_refund)


async def _refund(*limits: RateLimit) -> None:
    for limit in limits:
        await _add(limit, -1)


async def _add(limit: RateLimit, amount: int) -> bool:
    if not settings.rate_limit_enabled:
        return True
    return await _counters.run(Limiter.hit, limit, cost=amount)


async def _seconds_left(limit: RateLimit) -> float:
    stats = await _counters.run(Limiter.get_window_stats, limit)
    return stats.reset_time - time.time()


# Logins


@asynccontextmanager
async def login_attempt(email: str, ip: str) -> AsyncIterator[Callable[[], None]]:
    """Count a login attempt, and trust the client if the login succeeds.

    A client that the user has logged in from before has its own limit, so attacks from
    other clients, or on other accounts, don't lock the user out. Yields a
    function that the caller must call before it raises an error for a wrong password.
    """
    if await is_trusted_client(email, ip):
        limits = [_trusted_client_limit(email, ip)]
    else:
        limits = [
            _account_and_ip_limit(email, ip),
            RateLimit(settings.rate_limit_login_per_ip, ("login from", ip)),
            RateLimit(settings.rate_limit_login_per_account, ("login", email)),
        ]
    async with attempt(*limits) as keep_count:
        yield keep_count
    await trust_client(email, ip)


async def is_trusted_client(email: str, ip: str) -> bool:
    """Return whether the user logged in from this IP in the last 30 days."""
    return not await _trusted_clients.run(Limiter.test, _trusted_counter(email, ip))


async def trust_client(email: str, ip: str) -> None:
    await _trusted_clients.run(Limiter.clear, _trusted_counter(email, ip))
    await _trusted_clients.run(Limiter.hit, _trusted_counter(email, ip))


async def clear_failed_logins(email: str, ip: str) -> None:
    await _counters.run(Limiter.clear, _account_and_ip_limit(email, ip))
    await _counters.run(Limiter.clear, _trusted_client_limit(email, ip))


def _account_and_ip_limit(email: str, ip: str) -> RateLimit:
    rate = settings.rate_limit_login_per_account_and_ip
    return RateLimit(rate, ("login", email, ip))


def _trusted_client_limit(email: str, ip: str) -> RateLimit:
    # This is the limit for all other clients combined, so an attacker who shares the
    # user's IP doesn't gain any attempts.
    rate = settings.rate_limit_login_per_account
    return RateLimit(rate, ("login trusted", email, ip))


def _trusted_counter(email: str, ip: str) -> RateLimit:
    return RateLimit(TRUSTED_RATE, ("trusted client", email, ip))

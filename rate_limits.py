"""How often somebody may do something before being told to wait."""

import asyncio
import hashlib
import ipaddress
import json
import logging
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Request
from limits import RateLimitItem, parse
from limits.aio.storage import MovingWindowSupport, RedisStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter
from limits.errors import StorageError
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.datastructures import Headers

from config import settings

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

# Some 25 MB.
MOST_KEYS = 50_000
# Redis is to answer within this time, and is left alone for a while when it does not.
REDIS_SECONDS = 0.25
REDIS_PAUSE_SECONDS = 5.0
# From where an account was used before: a month, as sessions elsewhere last.
REMEMBERED = "1/30 days"
# Who goes on after so many refusals within a minute gets those that follow late: giving
# them at once, as fast as they are asked for, would take the time of all others.
PROMPT_REFUSALS = 100
REFUSALS_COUNTED_SECONDS = 60.0
# Each of so many in a row at a time of its own, this late on average: those who are
# answered together come back together, and take the time of all others at once.
LATE_REFUSAL_SECONDS = 0.5
REFUSALS_IN_A_ROW = 20
# Smallest network that is given to one customer (RFC 6177): within it addresses are
# free to choose.
IPV6_PREFIX = 64
# Whoever hides theirs counts together with this machine, from where they may connect.
UNKNOWN_ADDRESS = "127.0.0.1"
# So many wait, beside as many as a rate has, for the outcome of what others are trying:
# as many as wait for their passwords to be hashed.
MOST_WAITING = 62


class LimitReached(Exception):
    """Somebody has to wait, for `retry_after` seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"retry after {retry_after} s")
        self.retry_after = retry_after


@dataclass(frozen=True)
class RateLimit:
    """A rate, and whom it is counted for."""

    rate: str
    """As a setting has it, `10/5 minutes`."""
    who: tuple[str, ...]
    """What for, and then by what it is counted."""

    @property
    def item(self) -> RateLimitItem:
        """The rate, as the library has it."""
        return parsed(self.rate)

    @property
    def key(self) -> str:
        """What it is counted under."""
        return key_for(*self.who)


def key_for(*who: str) -> str:
    """What somebody is counted under: of one length, and telling nobody's address."""
    return hashlib.sha256(json.dumps(who).encode()).hexdigest()[:32]


@cache
def parsed(rate: str) -> RateLimitItem:
    """A rate, read once."""
    return parse(rate)


# Addresses


def forwarded_address(headers: Headers) -> str | None:
    """Whom the outermost trusted proxy was asked by; None when no proxy says so.

    Each proxy appends to `X-Forwarded-For` whom it was asked by, so what counts is as
    far from the end as there are proxies; before that is only what the client wrote.
    """
    forwarded = _forwarded(headers)
    if not settings.proxy_hops or not forwarded:
        return None
    is_whole = settings.proxy_hops <= len(forwarded)
    return (is_whole and forwarded[-settings.proxy_hops]) or UNKNOWN_ADDRESS


def client_address(request: Request) -> str:
    """Where the request came from, as far as that is known."""
    address = forwarded_address(request.headers)
    if address is None:
        address = _peer_address(request)
    return network_of(address)


def _peer_address(request: Request) -> str:
    """Who connected, unless the server has put there what the client wrote.

    Unless told otherwise, uvicorn takes the word of whoever connects from this machine.
    """
    if request.client is None:
        return UNKNOWN_ADDRESS
    host, port = request.client
    is_written = any(
        host in entry and port in {0, _number_at_end(entry)}
        for entry in _forwarded(request.headers)
    )
    return UNKNOWN_ADDRESS if is_written and not settings.proxy_hops else host


def _number_at_end(entry: str) -> int | None:
    """The port that uvicorn would find in an entry of `X-Forwarded-For`."""
    try:
        return int(entry.rpartition(":")[2])
    except ValueError:
        return None


def _forwarded(headers: Headers) -> list[str]:
    written = headers.getlist("x-forwarded-for")
    return [entry.strip() for line in written for entry in line.split(",")]


def network_of(address: str) -> str:
    """What one client can be told by: its IPv4 address, the first half of an IPv6 one.

    What is no address stays as it is.
    """
    try:
        ip = ipaddress.ip_address(without_port(address).partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, IPV6_PREFIX), strict=False))


def without_port(address: str) -> str:
    """`192.0.2.1` of `192.0.2.1:4711`, `2001:db8::1` of `[2001:db8::1]:4711`."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address


async def get_client_address(request: Request) -> str:
    """`client_address`, without the thread that a plain function would wait for."""
    return client_address(request)


ClientAddress = Annotated[str, Depends(get_client_address)]


# Where it is counted


class BoundedMemory(Storage, MovingWindowSupport):
    """Counts in the memory of this process, of so many keys and no more.

    The library's own storage keeps as many as come, and looks through all of them with
    every hit. Here the key that was used longest ago makes room for a new one.
    """

    def __init__(self, most_keys: int = MOST_KEYS) -> None:
        super().__init__()
        self.most_keys = most_keys
        self.events: OrderedDict[str, list[float]] = OrderedDict()
        self.counts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    @property
    def base_exceptions(self) -> type[Exception]:
        """What it raises when it is away; a memory never is."""
        return StorageError

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Count in a window that begins with its first event."""
        number, expires_at = self.counts.pop(key, (0, 0.0))
        now = time.time()
        if expires_at <= now:
            number, expires_at = 0, now + expiry
        self.counts[key] = (number + amount, expires_at)
        self._make_room(self.counts)
        return number + amount

    async def get(self, key: str) -> int:
        """How often something was counted in the present window."""
        number, expires_at = self.counts.get(key, (0, 0.0))
        return number if expires_at > time.time() else 0

    async def get_expiry(self, key: str) -> float:
        """When the present window ends, in seconds since the epoch."""
        return self.counts.get(key, (0, time.time()))[1]

    async def acquire_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """Note an event, unless there were `limit` within `expiry` seconds."""
        events = self._recent(key, expiry)
        if len(events) + amount > limit:
            return False
        self.events[key] = events + [time.time()] * amount
        self.events.move_to_end(key)
        self._make_room(self.events)
        return True

    async def get_moving_window(
        self,
        key: str,
        limit: int,  # noqa: ARG002 -- the interface has it
        expiry: int,
    ) -> tuple[float, int]:
        """When the oldest event that counts was, and how many count."""
        events = self._recent(key, expiry)
        return (events[0] if events else time.time()), len(events)

    def _recent(self, key: str, expiry: int) -> list[float]:
        start = time.time() - expiry
        return [event for event in self.events.get(key, []) if event >= start]

    def _make_room(self, entries: OrderedDict[str, Result]) -> None:
        while len(entries) > self.most_keys:
            entries.popitem(last=False)

    async def check(self) -> bool:
        """Whether it can be used."""
        return True

    async def reset(self) -> int:
        """Forget everything; gives the number of keys there were."""
        number = len(self.events) + len(self.counts)
        self.events.clear()
        self.counts.clear()
        return number

    async def clear(self, key: str) -> None:
        """Forget one key."""
        self.events.pop(key, None)
        self.counts.pop(key, None)


@cache
def redis_storage(url: str) -> RedisStorage:
    """The store that several processes share; it is connected to when it is used."""
    return RedisStorage(
        url,
        wrap_exceptions=True,
        implementation="redispy",
        socket_timeout=REDIS_SECONDS,
        socket_connect_timeout=REDIS_SECONDS,
        # Not again: what takes its place is better than waiting. The library's types
        # do not know that its options are those of the client.
        retry=cast("Any", Retry(NoBackoff(), 0)),
    )


@dataclass
class Store:
    """Redis when there is one and it answers, otherwise memory."""

    memory: BoundedMemory = field(default_factory=BoundedMemory)
    away_until: float = 0.0

    async def ask(self, question: Callable[[Storage], Awaitable[Result]]) -> Result:
        """Put a question to whichever is there."""
        url = settings.redis_url
        if url is not None and time.monotonic() >= self.away_until:
            try:
                # Of several exchanges each may take its time; together they may not.
                async with asyncio.timeout(2 * REDIS_SECONDS):
                    return await question(redis_storage(url.get_secret_value()))
            except (StorageError, OSError, TimeoutError) as error:
                self.away_until = time.monotonic() + REDIS_PAUSE_SECONDS
                cause = type(error.__cause__ or error).__name__
                logger.warning("Redis is away (%s): limits are counted here", cause)
        return await question(self.memory)


_attempts = Store()
# Apart from these, so that no flood of attempts pushes it out.
_acquaintances = Store()

# Who is trying at this moment, in this process, in the order in which they came. Their
# events tell them that somebody before them is done.
_trying: dict[str, list[asyncio.Event]] = {}


# What is asked


async def count(limit: RateLimit) -> None:
    """Count one event.

    Raises:
        LimitReached: The rate was used up already; the event is not counted.
    """
    if settings.rate_limit_enabled and not await _hit(_attempts, limit):
        raise await _reached(limit)


@asynccontextmanager
async def attempt(*limits: RateLimit) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Let somebody try something of which only some outcomes count.

    Whoever came before and is still trying counts until it is known, so that many at
    once get no further than one after the other. Others wait for that to be known.

    Yields:
        What to call when this attempt counts.

    Raises:
        LimitReached: One of the rates is used up, or very many are waiting.
    """

    async def count_all() -> None:
        for limit in limits:
            await _hit(_attempts, limit)

    somebody_is_done = asyncio.Event()
    for limit in limits:
        _trying.setdefault(limit.key, []).append(somebody_is_done)
    try:
        for limit in limits:
            await _wait_for_room(limit, somebody_is_done)
        yield count_all
    finally:
        for limit in limits:
            _leave(limit.key, somebody_is_done)


async def _wait_for_room(limit: RateLimit, somebody_is_done: asyncio.Event) -> None:
    while True:
        somebody_is_done.clear()
        before = _trying[limit.key].index(somebody_is_done)
        if await _has_room(_attempts, limit, cost=before + 1):
            return
        may_wait = before < limit.item.amount + MOST_WAITING
        if not may_wait or not await _has_room(_attempts, limit, cost=1):
            raise await _reached(limit)
        await somebody_is_done.wait()


def _leave(key: str, event: asyncio.Event) -> None:
    trying = _trying[key]
    place = trying.index(event)
    del trying[place]
    for later in trying[place:]:
        later.set()
    if not trying:
        del _trying[key]


async def forget(limit: RateLimit) -> None:
    """Count from zero again."""
    await _clear(_attempts, limit)


async def remember(*who: str) -> None:
    """Note that somebody has succeeded, for a month from now on."""
    limit = RateLimit(REMEMBERED, who)
    await _clear(_acquaintances, limit)
    await _hit(_acquaintances, limit)


async def is_known(*who: str) -> bool:
    """Whether somebody has succeeded within the last month."""
    return not await _has_room(_acquaintances, RateLimit(REMEMBERED, who), cost=1)


async def count_request(address: str) -> None:
    """Count one request of any kind.

    Raises:
        LimitReached: There were very many from this address.
    """
    if not settings.rate_limit_enabled:
        return
    limit = RateLimit(settings.general_rate, ("request", address))
    # Two numbers for each address, where a moving window would keep every event.
    window = FixedWindowRateLimiter
    if not await _attempts.ask(lambda s: window(s).hit(limit.item, limit.key)):
        ends_at = await _attempts.ask(
            lambda s: window(s).get_window_stats(limit.item, limit.key)
        )
        raise _wait_until(ends_at.reset_time)


async def delay_refusal(address: str) -> None:
    """Return at once, or later if very many from an address have been refused."""
    # In this process alone: it is its time that is saved.
    key = key_for("refused", address)
    refusals = await _attempts.memory.incr(key, REFUSALS_COUNTED_SECONDS)
    if refusals > PROMPT_REFUSALS:
        place = refusals % REFUSALS_IN_A_ROW / REFUSALS_IN_A_ROW
        await asyncio.sleep(LATE_REFUSAL_SECONDS * (0.5 + place))


async def reset() -> None:
    """Forget all that this process has counted, and that Redis was away."""
    for store in (_attempts, _acquaintances):
        await store.memory.reset()
        store.away_until = 0.0


async def _hit(store: Store, limit: RateLimit) -> bool:
    return await store.ask(
        lambda s: MovingWindowRateLimiter(s).hit(limit.item, limit.key)
    )


async def _clear(store: Store, limit: RateLimit) -> None:
    await store.ask(lambda s: MovingWindowRateLimiter(s).clear(limit.item, limit.key))


async def _has_room(store: Store, limit: RateLimit, *, cost: int) -> bool:
    if not settings.rate_limit_enabled:
        return True
    return await store.ask(
        lambda s: MovingWindowRateLimiter(s).test(limit.item, limit.key, cost=cost)
    )


async def _reached(limit: RateLimit) -> LimitReached:
    stats = await _attempts.ask(
        lambda s: MovingWindowRateLimiter(s).get_window_stats(limit.item, limit.key)
    )
    return _wait_until(stats.reset_time)


def _wait_until(moment: float) -> LimitReached:
    return LimitReached(max(1, math.ceil(moment - time.time())))

"""How often somebody may do something before being told to wait."""

import time

from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from config import settings

_limiter = MovingWindowRateLimiter(MemoryStorage())


class LimitReached(Exception):
    """Somebody has to wait, for `retry_after` seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"retry after {retry_after} s")
        self.retry_after = retry_after


async def check(rate: str, *who: str) -> None:
    """Raise when `who` has used a rate up; counts nothing.

    Args:
        rate: As a setting has it, `10/5 minutes`.
        who: What the rate is counted by, its purpose first.

    Raises:
        LimitReached: Until the oldest counted event is out of the window.
    """
    if not settings.rate_limit_enabled:
        return
    limit = parse(rate)
    if not await _limiter.test(limit, *who):
        stats = await _limiter.get_window_stats(limit, *who)
        raise LimitReached(max(1, round(stats.reset_time - time.time())))


async def count(rate: str, *who: str) -> None:
    """Count one event against a rate.

    Raises:
        LimitReached: It was used up already; the event is not counted.
    """
    if settings.rate_limit_enabled and not await _limiter.hit(parse(rate), *who):
        await check(rate, *who)


async def reset() -> None:
    """Forget all counts."""
    await _limiter.storage.reset()

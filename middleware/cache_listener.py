"""Listen for changes by other processes, and update the response cache."""

import asyncio
from typing import Any

from database import (
    DATABASE_ERRORS,
    DatabaseUnavailable,
    connect,
    database_outage,
    error_cause,
)
from middleware.response_cache import cache

CHANNEL = "changes"
LISTENER_NAME = "fastapi-blog listener"
EVERYTHING = "*"
# After a failover, the old server may keep running without receiving any changes.
IS_READ_ONLY = "SHOW transaction_read_only"
# In seconds. A lost connection is noticed within the sum of the first two.
# Until the listener has reconnected, the cache is off.
PING_INTERVAL = 0.3
PING_TIMEOUT = 0.6
RECONNECT_DELAY = 1.0


async def listen() -> None:
    """Keep the cache on while this process can receive notifications of changes."""
    while True:
        try:
            await _listen_once()
        except (*DATABASE_ERRORS, OSError) as error:
            database_outage.report(error_cause(error))
        finally:
            cache.turn_off()
        await asyncio.sleep(RECONNECT_DELAY)


async def _listen_once() -> None:
    connection = await connect(for_requests=False)
    try:
        # Lets operators recognize this connection in pg_stat_activity.
        await connection.execute(f"SET application_name = '{LISTENER_NAME}'")
        connection.add_termination_listener(lambda _connection: cache.turn_off())
        await connection.add_listener(CHANNEL, _apply_change)
        while True:
            async with asyncio.timeout(PING_TIMEOUT):
                is_read_only = await connection.fetchval(IS_READ_ONLY)
            if is_read_only == "on":
                raise DatabaseUnavailable("the server is read-only")
            if not cache.is_on:
                database_outage.end()
                cache.turn_on()
            await asyncio.sleep(PING_INTERVAL)
    finally:
        connection.terminate()


def _apply_change(_connection: Any, _pid: int, _channel: str, payload: str) -> None:
    """Remove the changed posts and all lists from the cache, or clear the cache."""
    if payload == EVERYTHING:
        cache.invalidate_all()
    else:
        cache.invalidate(payload.split())

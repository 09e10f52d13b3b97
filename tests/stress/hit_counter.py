"""The app, with a response header that counts the hits of its response cache."""

from starlette.types import Message, Receive, Scope, Send

import main
from middleware.response_cache import cache

HITS_HEADER = "x-cache-hits"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    async def send_with_hits(message: Message) -> None:
        if message["type"] == "http.response.start":
            hits = (HITS_HEADER.encode(), str(cache.hits).encode())
            message = {**message, "headers": [*message["headers"], hits]}
        await send(message)

    await main.app(scope, receive, send_with_hits)

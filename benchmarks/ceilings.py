"""Bare ASGI apps. No Python framework can respond faster than these."""

import os
from typing import Any

import asyncpg
import httpx
from pydantic_core import from_json, to_json
from starlette.types import Message, Receive, Scope, Send

FIND_POST = """
SELECT posts.*, username, image_file
FROM posts JOIN users ON users.id = user_id
WHERE posts.id = $1
"""
CREATE_POST = """
INSERT INTO posts (title, content, user_id) VALUES ($1, $2, 1) RETURNING id
"""
JSON_HEADERS = [(b"content-type", b"application/json")]

Response = tuple[Message, Message]


class MemoryCeiling:
    """Send the app's responses from memory, byte for byte."""

    def __init__(self) -> None:
        self.responses: dict[tuple[str, bytes], Response] = {}

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        encoding = dict(scope["headers"])[b"accept-encoding"]
        key = scope["path"], encoding
        if key not in self.responses:
            self.responses[key] = fetch(scope["path"], encoding.decode())
        start, body = self.responses[key]
        await send(start)
        await send(body)


def fetch(path: str, encoding: str) -> Response:
    """Return one of the app's responses as ASGI messages, without decoding the body."""
    url = os.environ["BENCHMARK_APP_URL"] + path
    with httpx.stream("GET", url, headers={"Accept-Encoding": encoding}) as response:
        body = b"".join(response.iter_raw())
    # uvicorn adds the current date.
    headers = [header for header in response.headers.raw if header[0] != b"date"]
    return (
        {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": headers,
        },
        {"type": "http.response.body", "body": body},
    )


class DatabaseCeiling:
    """Run one statement per request: read the post for `/{id}`, or insert a post."""

    def __init__(self) -> None:
        self.pool: Any = None  # asyncpg has no py.typed file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.run_lifespan(receive, send)
        elif scope["method"] == "POST":
            post = from_json(await read_body(receive))
            values = post["title"], post["content"]
            post_id = await self.pool.fetchval(CREATE_POST, *values)
            await send_json(send, 201, {"id": post_id})
        else:
            row = await self.pool.fetchrow(FIND_POST, int(scope["path"][1:]))
            await send_json(send, 200, dict(row))

    async def run_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        size = int(os.environ["BENCHMARK_POOL_SIZE"])
        dsn = os.environ["DATABASE_URL"].replace("+asyncpg", "")
        async with asyncpg.create_pool(dsn, min_size=size, max_size=size) as self.pool:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


async def read_body(receive: Receive) -> bytes:
    body = b""
    has_more = True
    while has_more:
        message = await receive()
        body += message.get("body", b"")
        has_more = message.get("more_body", False)
    return body


async def send_json(send: Send, status: int, content: dict[str, Any]) -> None:
    body = to_json(content)
    headers = [*JSON_HEADERS, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


memory = MemoryCeiling()
database = DatabaseCeiling()
